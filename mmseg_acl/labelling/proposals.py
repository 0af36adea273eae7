"""Predicted masks as proposals that a labelling tool takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mmseg_acl.inference.sources import Frame
from mmseg_acl.inference.writing import MASKS
from mmseg_acl.labelling.formats.coco import write_coco
from mmseg_acl.labelling.formats.common import Labelled
from mmseg_acl.labelling.formats.cvat import write_cvat
from mmseg_acl.labelling.formats.labelstudio import LOCAL_FILES, write_labelstudio

FORMATS = ('png', 'coco', 'cvat', 'labelstudio')
FILES = {'coco': 'coco.json', 'cvat': 'cvat.zip', 'labelstudio': 'labelstudio.json'}


def write_proposals(
    out: Path,
    frames: Sequence[Frame],
    classes: Sequence[str],
    formats: Sequence[str],
    model: str,
    image_root: str = LOCAL_FILES,
) -> list[Path]:
    """Write masks that have been predicted, as files for labelling tools.

    Args:
        out: Folder in which ``masks/`` are; the files go beside it.
        frames: The frames; those without a mask, because they could not be read, are left out.
        classes: Names, the background first.
        formats: Of ``FORMATS``; ``png`` is there already.
        model: Name of the model, which Label Studio shows.
        image_root: See :func:`~mmseg_acl.labelling.formats.labelstudio.write_labelstudio`.

    Returns:
        The files.
    """
    written = []
    for name in dict.fromkeys(formats):
        if name == 'png':
            continue
        path = out / FILES[name]
        labelled = _labelled(out, frames)
        if name == 'coco':
            write_coco(labelled, classes, path)
        elif name == 'cvat':
            write_cvat(labelled, classes, path)
        else:
            write_labelstudio(labelled, classes, path, image_root, model)
        written.append(path)
    return written


def _labelled(out: Path, frames: Sequence[Frame]) -> Iterator[Labelled]:
    for frame in frames:
        mask = out / MASKS / f'{frame.name}.png'
        if mask.is_file():
            yield Labelled(frame.file, partial(read_labels, mask))


def read_labels(mask: Path) -> np.ndarray:
    """Class numbers (H, W) uint8 of a predicted mask: a grey one has 255 for 1, one with a palette numbers."""
    with Image.open(mask) as image:
        pixels = np.array(image)
        return pixels if image.mode == 'P' else (pixels > 0).astype(np.uint8)
