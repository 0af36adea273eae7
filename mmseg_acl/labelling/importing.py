"""From a labelling tool's export to a labelled folder, and where each of its masks comes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

from mmseg_acl.datasets.image_files import inspect_image
from mmseg_acl.datasets.labels import Labels
from mmseg_acl.datasets.partitions import entry_of, list_text, read_list
from mmseg_acl.datasets.polyp import PolypDataset
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.inference.sources import read_frame
from mmseg_acl.inference.writing import MASKS, mask_png
from mmseg_acl.labelling.formats.coco import read_coco
from mmseg_acl.labelling.formats.common import Labelled
from mmseg_acl.labelling.formats.cvat import read_cvat
from mmseg_acl.labelling.formats.labelstudio import read_labelstudio
from mmseg_acl.labelling.formats.png import read_png
from mmseg_acl.labelling.pool import PoolFrame, find_pool
from mmseg_acl.labelling.proposals import read_labels

READERS: dict[str, Callable[[Path, Sequence[str]], list[Labelled]]] = {
    'coco': read_coco,
    'cvat': read_cvat,
    'labelstudio': read_labelstudio,
    'png': read_png,
}
IMAGES, LIST, PROVENANCE = 'images', 'labelled.txt', 'provenance.json'
CORRECTED, CONFIRMED, DRAWN = 'corrected', 'confirmed', 'drawn'
SHOWN = 5


class Imported(NamedTuple):
    """What was imported.

    Attributes:
        entries: Names of the frames.
        states: How many masks were corrected, confirmed or drawn.
        left: Frames of the export that were left out, as they are on no list that was given.
    """

    entries: list[str]
    states: dict[str, int]
    left: int


def import_labels(
    export: str | Path,
    images: str | Path,
    out: str | Path,
    kind: str | None = None,
    classes: Sequence[str] = ('background', 'polyp'),
    proposals: str | Path | None = None,
    only: str | None = None,
    overwrite: bool = False,
) -> Imported:
    """Read an export and write ``images/``, ``masks/``, ``labelled.txt`` and ``provenance.json``.

    With two classes a frame ``a/b`` goes to ``a/images/b`` and ``a/masks/b``, as lists of this project have it; with
    more to ``images/a/b`` and ``masks/a/b``, as mmseg's data sets have it. All of the export is read and checked
    before anything is written. A folder that holds labelled frames gets further ones.

    Args:
        export: The tool's file, or a folder of PNG masks.
        images: Folder of the frames that were labelled.
        out: The labelled folder, made if needed.
        kind: One of ``READERS``; None tells it by the file.
        classes: Names, the background first.
        proposals: Folder that ``tools/predict.py`` wrote, to tell corrected masks from confirmed ones.
        only: List of the frames to take; None takes all.
        overwrite: Whether masks that are there are replaced.

    Raises:
        FileNotFoundError: A file or folder is missing.
        ValueError: The export is damaged, names frames that are not there, or a mask does not fit.
    """
    export, out = Path(export), Path(out)
    if not export.exists():
        raise FileNotFoundError(f"there is no export '{export}'")
    if len(classes) < 2:
        raise ValueError(f'classes are {", ".join(classes)}: name at least two, the background first')
    kind = kind or _kind_of(export)
    frames = find_pool(Path(images))
    pairs = _match(READERS[kind](export, classes), frames, export, images)
    count = len(pairs)
    if only is not None:
        wanted = set(read_list(only))
        absent = sorted(wanted - {frame.entry for frame, _ in pairs})
        if absent:
            raise ValueError(f'{export} lacks {len(absent)} frames of {only}: {_some(absent)}')
        pairs = [(frame, labelled) for frame, labelled in pairs if frame.entry in wanted]
    there = [frame.entry for frame, _ in pairs if _mask_path(out, frame.entry, classes).exists()]
    if there and not overwrite:
        raise ValueError(
            f'{out} has masks of {len(there)} of these frames: {_some(there)}. --overwrite replaces them'
        )
    _check(pairs, classes, export)
    known = _read_json(out / PROVENANCE)
    for frame, labelled in pairs:
        labels = _labels(frame, labelled)
        known[frame.entry] = _provenance(frame, labels, proposals, export, kind)
        _write_image(frame, _image_path(out, frame, classes))
        write_atomically(mask_png(labels, len(classes)), _mask_path(out, frame.entry, classes))
        write_atomically(json.dumps(known, indent=1).encode(), out / PROVENANCE)
    write_atomically(list_text(known).encode(), out / LIST)
    if len(classes) == 2:
        PolypDataset(str(out / LIST), folder='', data_root=str(out))  # checks every file as the start of a run does
    entries = [frame.entry for frame, _ in pairs]
    states = [known[entry]['state'] for entry in entries]
    return Imported(entries, {state: states.count(state) for state in dict.fromkeys(states)}, count - len(pairs))


def _kind_of(export: Path) -> str:
    """Which tool's export a file is."""
    if export.is_dir():
        return 'png'
    if export.suffix.lower() == '.zip':
        return 'cvat'
    if export.suffix.lower() == '.json':
        try:
            content = json.loads(export.read_text(encoding='utf-8'))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f'{export} is no JSON ({error})') from error
        return 'labelstudio' if isinstance(content, list) else 'coco'
    raise ValueError(
        f"'{export}' is none that is known: a folder of PNG masks, a .zip of CVAT, or a .json of COCO or Label Studio"
    )


def _match(
    found: Sequence[Labelled], frames: Sequence[PoolFrame], export: Path, images: str | Path
) -> list[tuple[PoolFrame, Labelled]]:
    """The frame of each part of an export."""
    if not found:
        raise ValueError(f'{export} has no labelled frame: label some, or submit them, and export again')
    by_entry = {frame.entry: frame for frame in frames}
    pairs: dict[str, tuple[PoolFrame, Labelled]] = {}
    unknown = []
    for labelled in found:
        entry = entry_of(labelled.file)
        # A tool may know a part of the path alone, or more of it.
        near = [name for name in by_entry if f'/{name}'.endswith(f'/{entry}') or f'/{entry}'.endswith(f'/{name}')]
        names = [entry] if entry in by_entry else near
        if len(names) > 1:
            raise ValueError(
                f"{export} has '{labelled.file}', which may be {' or '.join(names[:SHOWN])}: upload frames with "
                'their folders, or rename them so that each name is there once'
            )
        if not names:
            unknown.append(str(labelled.file))
        elif names[0] in pairs:
            raise ValueError(f'{export} has {names[0]} twice')
        else:
            pairs[names[0]] = by_entry[names[0]], labelled
    if unknown:
        raise FileNotFoundError(
            f"{export} has {len(unknown)} frames that are not in '{images}': {_some(unknown)}. Give the folder that "
            'was uploaded to the labelling tool'
        )
    return list(pairs.values())


def _check(pairs: Sequence[tuple[PoolFrame, Labelled]], classes: Sequence[str], export: Path) -> None:
    """Read every mask, and the header of every frame, before anything is written."""
    seen = Labels(len(classes))
    for frame, labelled in pairs:
        fault = seen.add(_labels(frame, labelled))
        if fault:
            raise ValueError(f'{export}: the mask of {frame.entry} {fault}')


def _labels(frame: PoolFrame, labelled: Labelled) -> np.ndarray:
    """The labels (H, W) uint8, of the size of the frame as it is shown."""
    size = inspect_image(frame.path).size
    labels = labelled.read()
    if labels is None:
        return np.zeros(size[::-1], np.uint8)
    if labels.shape != size[::-1]:
        raise ValueError(
            f'the mask of {frame.entry} is {labels.shape[1]} x {labels.shape[0]}, but {frame.path} is '
            f'{size[0]} x {size[1]}: was another version of the frame labelled?'
        )
    return labels


def _provenance(
    frame: PoolFrame, labels: np.ndarray, proposals: str | Path | None, export: Path, kind: str
) -> dict[str, object]:
    record: dict[str, object] = dict(export=export.name, format=kind, frame=str(frame.path), state=DRAWN)
    mask = _proposal_of(frame, proposals)
    if mask is not None:
        proposed = read_labels(mask)
        if proposed.shape != labels.shape:
            raise ValueError(f'{mask} has another size than {frame.path}: it is a proposal for another frame')
        changed = float((proposed != labels).mean())
        record.update(proposal=str(mask), changed=changed, state=CORRECTED if changed else CONFIRMED)
    return record


def _proposal_of(frame: PoolFrame, proposals: str | Path | None) -> Path | None:
    if proposals is None:
        return None
    folder = Path(proposals) / MASKS
    if not folder.is_dir():
        raise FileNotFoundError(f"'{proposals}' has no {MASKS}: give the folder that tools/predict.py wrote")
    file = PurePosixPath(frame.entry)
    places = [folder / f'{file}.png', folder / file.parent / IMAGES / f'{file.name}.png']
    return next((place for place in places if place.is_file()), None)


def _write_image(frame: PoolFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == frame.path.suffix:
        shutil.copy2(frame.path, path)
    else:
        write_atomically(cv2.imencode('.png', read_frame(frame.path))[1].tobytes(), path)


def _image_path(out: Path, frame: PoolFrame, classes: Sequence[str]) -> Path:
    # A frame that its file says how to turn is saved upright: labelling tools do not agree on it.
    suffix = frame.path.suffix if inspect_image(frame.path).orientation == 1 else '.png'
    return _place(out, IMAGES, frame.entry, suffix, classes)


def _mask_path(out: Path, entry: str, classes: Sequence[str]) -> Path:
    return _place(out, MASKS, entry, '.png', classes)


def _place(out: Path, kind: str, entry: str, suffix: str, classes: Sequence[str]) -> Path:
    file = PurePosixPath(f'{entry}{suffix}')
    return out / file.parent / kind / file.name if len(classes) == 2 else out / kind / file


def _read_json(path: Path) -> dict[str, dict]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is damaged ({error}): remove it, or give another --out') from error


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')
