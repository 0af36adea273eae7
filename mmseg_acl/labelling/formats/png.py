"""Masks as PNG in folders as the frames lie in, such as those of ``tools/predict.py`` after a paint program."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mmseg_acl.datasets.partitions import IMAGE_SUFFIXES
from mmseg_acl.datasets.polyp_masks import read_polyp_mask
from mmseg_acl.inference.writing import MASKS
from mmseg_acl.labelling.formats.common import Labelled


def read_png(folder: Path, classes: Sequence[str]) -> list[Labelled]:
    """The masks below a folder, or below ``masks/`` in it where there is one.

    Args:
        folder: The folder.
        classes: Names; with two of them a mask of any coding is read, else one of class numbers.

    Raises:
        FileNotFoundError: It has no image.
    """
    folder = folder / MASKS if (folder / MASKS).is_dir() else folder
    files = [path for path in sorted(folder.rglob('*')) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise FileNotFoundError(f"'{folder}' has no mask: it should hold PNG files named as the frames are")
    read = read_polyp_mask if len(classes) == 2 else _read_numbers
    return [Labelled(file.relative_to(folder), partial(read, str(file))) for file in files]


def _read_numbers(path: str) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode not in ('L', 'P'):
            raise ValueError(
                f"mask '{path}' has mode {image.mode}: save class numbers as grey values or as a palette"
            )
        return np.array(image)
