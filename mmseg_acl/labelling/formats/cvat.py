"""CVAT's "Segmentation mask 1.1": a zip of masks in colours, one by class and one by region."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from mmseg_acl.engine.atomic import UNFINISHED
from mmseg_acl.labelling.formats.common import Labelled, class_number, regions

LABELS, LISTS = 'labelmap.txt', 'ImageSets/Segmentation'
CLASSES, OBJECTS = 'SegmentationClass', 'SegmentationObject'
HEADER = '# label:color_rgb:parts:actions'


def write_cvat(frames: Iterable[Labelled], classes: Sequence[str], path: Path) -> None:
    """Write the zip.

    Args:
        frames: The frames.
        classes: Names, the background first.
        path: The zip.
    """
    colours = voc_colours(256)
    names = []
    unfinished = path.with_name(path.name + UNFINISHED)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(unfinished, 'w', zipfile.ZIP_DEFLATED) as archive:
        for frame in frames:
            name = str(frame.file.with_suffix(''))
            labels = frame.read()
            instances = np.zeros(labels.shape, int)
            for number, (_, mask) in enumerate(regions(labels), 1):
                instances[mask] = number
            for folder, values in ((CLASSES, labels), (OBJECTS, instances % 256)):
                archive.writestr(f'{folder}/{name}.png', _png(colours[values]))
            names.append(name)
        lines = [f'{name}:{",".join(map(str, colours[label]))}::' for label, name in enumerate(classes)]
        archive.writestr(LABELS, '\n'.join([HEADER, *lines]) + '\n')
        archive.writestr(f'{LISTS}/default.txt', ''.join(f'{name}\n' for name in names))
    unfinished.replace(path)


def read_cvat(path: Path, classes: Sequence[str]) -> list[Labelled]:
    """The frames of a zip; those without a mask in it have no foreground.

    Args:
        path: The zip.
        classes: Names, the background first.

    Raises:
        ValueError: The file is no such zip, or has other labels.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            if LABELS not in members or not any(name.startswith(f'{LISTS}/') for name in members):
                raise ValueError(
                    f'{path} has no {LABELS} or no {LISTS}: export the task from CVAT as "Segmentation mask 1.1"'
                )
            labels = dict(_read_labels(archive.read(LABELS).decode('utf-8'), path))
            lists = sorted(name for name in members if name.startswith(f'{LISTS}/') and name.endswith('.txt'))
            lines = [line.strip() for name in lists for line in archive.read(name).decode('utf-8').splitlines()]
    except zipfile.BadZipFile as error:
        raise ValueError(f'{path} is no zip ({error})') from error
    found = []
    for line in dict.fromkeys(line for line in lines if line):
        member = f'{CLASSES}/{line}.png'
        found.append(
            Labelled(
                PurePosixPath(line),
                partial(_read_mask, path, member, labels, classes) if member in members else lambda: None,
            )
        )
    return found


def voc_colours(count: int) -> np.ndarray:
    """The colours (count, 3) uint8, RGB, that Pascal VOC gives class numbers: their bits, interleaved."""
    numbers = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def _png(colours: np.ndarray) -> bytes:
    return cv2.imencode('.png', colours[..., ::-1])[1].tobytes()


def _read_labels(text: str, path: Path) -> Iterable[tuple[int, str]]:
    """The label of each colour, as one number."""
    for line in text.splitlines():
        if not line.strip() or line.startswith('#'):
            continue
        name, colour = (line.split(':') + [''])[:2]
        levels = colour.split(',')
        if len(levels) != 3 or not all(level.strip().isdecimal() for level in levels):
            raise ValueError(f'{path}: {LABELS} has the line {line!r}, which should be like polyp:128,0,0::')
        red, green, blue = map(int, levels)
        yield red << 16 | green << 8 | blue, name


def _read_mask(path: Path, member: str, labels: dict[int, str], classes: Sequence[str]) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        data = np.frombuffer(archive.read(member), np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f'{path}: {member} cannot be decoded')
    blue, green, red = (channel.astype(int) for channel in cv2.split(pixels))
    colours, places = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    numbers = []
    for colour in colours.tolist():
        if colour not in labels:
            levels = f'{colour >> 16},{colour >> 8 & 255},{colour & 255}'
            raise ValueError(f'{path}: {member} has the colour {levels}, which {LABELS} does not name')
        numbers.append(class_number(labels[colour], classes, path))
    return np.array(numbers, np.uint8)[places].reshape(pixels.shape[:2])
