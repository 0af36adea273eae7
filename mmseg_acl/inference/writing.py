"""Predictions as files: written one by one, so that what was done stays, and a second call goes on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmseg_acl.colours import PREDICTION, palette
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.inference.predictor import Prediction, Predictor
from mmseg_acl.inference.reliability import assess
from mmseg_acl.inference.sources import Frame, Source
from mmseg_acl.visualization.pictures import draw_labels

MASKS, OVERLAYS, PROBABILITIES = 'masks', 'overlays', 'probabilities'
TABLE, RECORD = 'predictions.csv', 'predictor.json'
# Where images are written to, below the folder for outputs.
FOLDERS = (MASKS, OVERLAYS, PROBABILITIES)
BOXES_SHOWN = 20
# Columns of a calibrated model.
RELIABILITY = ('calibrated confidence', 'expected Dice', 'look at this one')
# Of videos, by suffix; browsers show the second.
CODECS = {'.mp4': 'mp4v', '.webm': 'VP80'}


class Summary(NamedTuple):
    """What a call did.

    Attributes:
        written: Frames that were predicted.
        there: Frames whose files were there already.
        unreadable: What is wrong with the frames that were skipped.
        flicker: Of a video, the mean share of pixels that change from a frame to the next; None of other sources, and
            where no two frames follow one another.
    """

    written: int
    there: int
    unreadable: list[str]
    flicker: float | None = None


class Outputs(NamedTuple):
    """What to write of each frame beside its mask.

    Attributes:
        overlay: The frame with the mask as a tint and an outline.
        probabilities: The foreground's probability, or that of each class, as 16-bit PNG: 65535 is 1.
        table: A row in ``predictions.csv``.
        video: A suffix of ``CODECS``, for a video of the overlays, of the rate and size of the source.
    """

    overlay: bool = False
    probabilities: bool = False
    table: bool = False
    video: str | None = None


def predict_into(
    predictor: Predictor,
    source: Source,
    out: str | Path,
    outputs: Outputs = Outputs(),  # noqa: B008  immutable
    batch: int = 8,
    overwrite: bool = False,
) -> Summary:
    """Predict all frames of a source and write what is asked for into a folder.

    Masks go to ``masks/``, with the source's relative paths and names: 0 and 255 with two classes, else class
    numbers with a palette, at the frame's own size. A frame whose files are there is left as it is.

    Args:
        predictor: The model.
        source: The frames.
        out: The folder, made if needed.
        outputs: What else to write.
        batch: Frames that go through the network together, at least 1.
        overwrite: Whether to write anew what is there.

    Raises:
        ValueError: The folder holds predictions of another model or threshold, or images of another origin where
            predictions go; the batch is below 1; or a video is asked for of a source that is none.
    """
    if batch < 1:
        raise ValueError(f'batch is {batch}; it must be at least 1')
    if outputs.video and source.rate is None:
        raise ValueError('a video is written of a video or camera; for images there are overlays')
    out = Path(out)
    _claim(out, predictor, overwrite)
    table = _Table(out / TABLE, predictor, overwrite) if outputs.table else None
    film = _Film(out / f'overlay{outputs.video}', source.rate) if outputs.video else None
    whole = bool(film or predictor.smooth)  # what is there of a former call does not say what came before
    written = there = 0
    unreadable: list[str] = []
    changes: list[float] = []
    former = None
    progress = Progress(
        TextColumn('predicting'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[rate]}'),
        TimeRemainingColumn(),
    )
    task = progress.add_task('', total=source.count, rate='')
    with progress:
        for group in _groups(source.frames, batch):
            todo = []
            for frame in group:
                if not overwrite and not whole and _is_done(out, frame.name, outputs, predictor, table):
                    there += 1
                    continue
                try:
                    todo.append((frame, frame.read()))
                except (OSError, ValueError) as error:
                    unreadable.append(str(error))
            for (frame, image), found in zip(todo, predictor([image for _, image in todo]), strict=True):
                _write(out, frame.name, image, found, outputs, predictor)
                if table:
                    table.add(frame.name, found)
                if film:
                    film.add(draw(image, found.labels))
                if source.rate is not None and former is not None and former.shape == found.labels.shape:
                    changes.append(float((former != found.labels).mean()))
                former = found.labels
                written += 1
            speed = progress.tasks[task].speed
            progress.update(task, advance=len(group), rate=f'{speed:.1f} frames a second' if speed else '')
    if film:
        film.close()
    return Summary(written, there, unreadable, float(np.mean(changes)) if changes else None)


def draw(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The frame (H, W, 3), BGR, with the predicted classes as tints and outlines."""
    return draw_labels(image, labels, PREDICTION)


def _groups(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    group: list[Frame] = []
    for frame in frames:
        group.append(frame)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _claim(out: Path, predictor: Predictor, overwrite: bool) -> None:
    """Masks of two models in one folder could not be told apart."""
    own = predictor.identity
    file = out / RECORD
    if not file.is_file():
        for folder in FOLDERS:
            foreign = next((path for path in (out / folder).rglob('*') if path.is_file()), None)
            if foreign:
                raise ValueError(
                    f'{foreign} is no prediction of this tool, and might be written over: give another --out'
                )
    elif not overwrite:
        try:
            former = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(
                f'{file} is damaged ({error}): write anew with --overwrite, or give another --out'
            ) from error
        differing = [key for key in {**former, **own} if former.get(key) != own.get(key)]
        if differing:
            raise ValueError(
                f'{out} holds predictions of another {", ".join(differing)}: give another --out, or write them anew '
                'with --overwrite'
            )
    write_atomically(json.dumps(own, indent=1).encode(), file)


def _paths(out: Path, name: PurePosixPath, outputs: Outputs, predictor: Predictor) -> dict[str, list[Path]]:
    """The files of a frame."""
    paths = {MASKS: [out / MASKS / f'{name}.png']}
    if outputs.overlay:
        paths[OVERLAYS] = [out / OVERLAYS / f'{name}.png']
    if outputs.probabilities:
        classes = predictor.classes[1:]
        suffixes = [''] if len(classes) == 1 else [f'_{label}' for label in range(1, len(predictor.classes))]
        paths[PROBABILITIES] = [out / PROBABILITIES / f'{name}{suffix}.png' for suffix in suffixes]
    return paths


def _is_done(out: Path, name: PurePosixPath, outputs: Outputs, predictor: Predictor, table: _Table | None) -> bool:
    files = [file for each in _paths(out, name, outputs, predictor).values() for file in each]
    return all(file.is_file() for file in files) and (table is None or str(name) in table.names)


def _write(
    out: Path, name: PurePosixPath, image: np.ndarray, found: Prediction, outputs: Outputs, predictor: Predictor
) -> None:
    paths = _paths(out, name, outputs, predictor)
    if outputs.probabilities:
        for file, prob in zip(paths[PROBABILITIES], found.probabilities[1:], strict=True):
            write_atomically(_png(np.round(prob * 65535).astype(np.uint16)), file)
    if outputs.overlay:
        write_atomically(_png(draw(image, found.labels)), paths[OVERLAYS][0])
    # Last: a frame counts as done by its mask.
    write_atomically(mask_png(found.labels, len(predictor.classes)), paths[MASKS][0])


def mask_png(labels: np.ndarray, classes: int) -> bytes:
    """A mask (H, W) as a PNG file: 0 and 255 with two classes, else class numbers with a palette."""
    return _png(255 * labels) if classes == 2 else _palette_png(labels)


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode('.png', pixels)[1].tobytes()


def _palette_png(labels: np.ndarray) -> bytes:
    """Class numbers with a colour each."""
    image = Image.fromarray(labels, mode='P')
    image.putpalette([level for colour in palette(256) for level in colour])
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    return buffer.getvalue()


class _Table:
    """``predictions.csv``, a row a frame, added as frames are done."""

    def __init__(self, path: Path, predictor: Predictor, overwrite: bool) -> None:
        self.path, self.classes, self.calibration = path, predictor.classes, predictor.calibration
        self.header = ['frame', *(f'share {name}' for name in self.classes[1:]), 'regions', 'boxes', 'confidence']
        self.header += RELIABILITY if self.calibration else ()
        if overwrite or not path.is_file():
            write_atomically((','.join(self.header) + '\r\n').encode(), path)
        with open(path, newline='') as file:
            rows = list(csv.reader(file))
        if not rows or rows[0] != self.header:
            raise ValueError(f'{path} is no table of these predictions: remove it, or write anew with --overwrite')
        self.names = {row[0] for row in rows[1:] if len(row) == len(self.header)}

    def add(self, name: PurePosixPath, found: Prediction) -> None:
        shares = [(found.labels == label).mean() for label in range(1, len(self.classes))]
        regions = regions_of(found.labels > 0)
        shown = ' '.join('{},{},{},{}'.format(*region) for region in regions[:BOXES_SHOWN])
        row = [str(name), *(f'{share:.6f}' for share in shares), len(regions), shown, f'{found.confidence:.4f}']
        if self.calibration:
            trust = assess(found.probabilities, found.labels, self.calibration)
            row += [f'{trust.confidence:.4f}', f'{trust.dice:.4f}', 'yes' if trust.look else 'no']
        with open(self.path, 'a', newline='') as file:
            csv.writer(file).writerow(row)
        self.names.add(str(name))


class Region(NamedTuple):
    """The box of an 8-connected region, and its area, all in pixels."""

    left: int
    top: int
    width: int
    height: int
    area: int


def regions_of(mask: np.ndarray) -> list[Region]:
    """The 8-connected regions of a mask (H, W), bool, the largest first."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return sorted((Region(*row) for row in stats[1:].tolist()), key=lambda region: -region.area)


class _Film:
    """A video that begins with its first frame, which says how large it is."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.writer = path, rate, None

    def add(self, frame: np.ndarray) -> None:
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = cv2.VideoWriter(
                str(self.path),
                cv2.VideoWriter_fourcc(*CODECS[self.path.suffix]),
                self.rate,
                frame.shape[1::-1],
            )
            if not self.writer.isOpened():
                raise ValueError(
                    f'{self.path} cannot be written: this OpenCV has no encoder for {CODECS[self.path.suffix]}'
                )
        self.writer.write(frame)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.release()
