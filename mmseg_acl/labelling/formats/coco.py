"""COCO's JSON of instances: an annotation for each region, run-length encoded; also reads polygons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.labelling.formats.common import Labelled, class_number, fill_polygon, regions, runs


def write_coco(frames: Iterable[Labelled], classes: Sequence[str], path: Path) -> None:
    """Write the labels of frames; a frame without foreground is among the images and has no annotation.

    Args:
        frames: The frames.
        classes: Names, the background first.
        path: The JSON file.
    """
    images, annotations = [], []
    for number, frame in enumerate(frames, 1):
        labels = frame.read()
        height, width = labels.shape
        images.append(dict(id=number, file_name=str(frame.file), width=width, height=height))
        for label, mask in regions(labels):
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            box = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=label,
                    segmentation=dict(size=[height, width], counts=encode(mask)),
                    area=int(mask.sum()),
                    bbox=[int(side) for side in box],
                    iscrowd=0,
                )
            )
    categories = [dict(id=label, name=name) for label, name in enumerate(classes) if label]
    content = dict(images=images, annotations=annotations, categories=categories)
    write_atomically(json.dumps(content).encode(), path)


def read_coco(path: Path, classes: Sequence[str]) -> list[Labelled]:
    """The frames of a JSON file; where annotations overlap, the later one counts.

    Args:
        path: The file.
        classes: Names, the background first.

    Raises:
        ValueError: The file is no COCO, or has other categories.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        images = {image['id']: image for image in content['images']}
        found: dict[int, list[dict]] = {number: [] for number in images}
        for annotation in content['annotations']:
            found[annotation['image_id']].append(annotation)
        names = {category['id']: category['name'] for category in content['categories']}
        used = {annotation['category_id'] for annotation in content['annotations']}
        numbers = {key: class_number(names[key], classes, path) for key in used}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is no JSON of COCO with images, annotations and categories ({error!r})') from error
    return [
        Labelled(PurePosixPath(image['file_name']), partial(_read, image, found[key], numbers, path))
        for key, image in images.items()
    ]


def encode(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a mask (H, W) column by column, the first one of zeros."""
    values, lengths = runs(mask.ravel(order='F'))
    return ([0] if values[0] else []) + lengths.tolist()


def decode(counts: list[int] | str, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) uint8 of run lengths, as numbers or as COCO's compressed string.

    Raises:
        ValueError: They do not add up to the size.
    """
    lengths = _decompress(counts) if isinstance(counts, str) else counts
    height, width = size
    if sum(lengths) != height * width or min(lengths, default=0) < 0:
        raise ValueError(f'run lengths add up to {sum(lengths)} pixels, not to {height} x {width}')
    values = np.arange(len(lengths)) % 2
    return np.repeat(values, lengths).astype(np.uint8).reshape(size, order='F')


def _decompress(text: str) -> list[int]:
    """Numbers of COCO's string: six bits a character, of which one says that more follow; differences from the third.

    The characters begin with '0', ASCII 48.
    """
    lengths: list[int] = []
    place = 0
    while place < len(text):
        value = shift = 0
        more = True
        while more:
            bits = ord(text[place]) - 48
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            place, shift = place + 1, shift + 5
        if bits & 0x10:  # negative
            value |= -1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths


def _read(image: dict, annotations: list[dict], numbers: dict[int, int], path: Path) -> np.ndarray:
    size = (image['height'], image['width'])
    labels = np.zeros(size, np.uint8)
    for annotation in annotations:
        shape = annotation.get('segmentation')
        try:
            if isinstance(shape, dict):
                mask = decode(shape['counts'], tuple(shape['size']))
            else:
                mask = np.zeros(size, np.uint8)
                for polygon in shape or ():
                    fill_polygon(mask, polygon)
            if not shape or mask.shape != size:
                raise ValueError(f'its segmentation is {"missing" if not shape else "of another size"}')
        except (ValueError, KeyError, IndexError) as error:
            raise ValueError(f'{path}: annotation {annotation.get("id")} cannot be read: {error}') from error
        labels[mask > 0] = numbers[annotation['category_id']]
    return labels
