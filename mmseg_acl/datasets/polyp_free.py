"""Polyp-free crops of frames that have a polyp, to count false alarms on where no polyp-free frames are at hand."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np

from mmseg_acl.datasets.polyp_masks import read_polyp_mask

MARGIN = 0.05
MIN_SIDE = 0.4
# Colonoscopes show a bright disc on black; more black than this in a crop, and it shows no mucosa.
DARK, MAX_DARK = 40, 0.1
CROPS = 'crops.csv'
# Below a data root, with a folder for each data set.
CROPS_FOLDER = 'PolypFreeCrops'


@dataclass(frozen=True)
class Crop:
    """A square of a frame, in pixels: left, top and side."""

    image: str
    x: int
    y: int
    side: int


def find_crop(image: np.ndarray, mask: np.ndarray, margin: float = MARGIN, min_side: float = MIN_SIDE) -> Crop | None:
    """The largest square of a frame that keeps away from its polyps and is hardly black; the first one of equals.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W), non-zero where there is a polyp.
        margin: Least distance to every polyp along either axis, as a share of the shorter side.
        min_side: Least side of the square, as a share of the shorter side, in (0, 1].

    Returns:
        The square, without a name; None where the frame has none that is large enough.
    """
    height, width = mask.shape
    shorter = min(height, width)
    reach = 2 * round(margin * shorter) + 1
    near = cv2.dilate((mask > 0).astype(np.uint8), np.ones((reach, reach), np.uint8))
    polyp, dark = (_integral(values) for values in (near, image.max(axis=2) < DARK))
    for side in range(shorter, max(1, round(min_side * shorter)) - 1, -max(1, shorter // 64)):
        free = (_sums(polyp, side) == 0) & (_sums(dark, side) <= MAX_DARK * side**2)
        if free.any():
            y, x = np.unravel_index(np.argmax(free), free.shape)
            return Crop('', int(x), int(y), side)
    return None


def cut_crops(
    images: Path,
    masks: Path,
    names: list[str],
    out: Path,
    margin: float = MARGIN,
    min_side: float = MIN_SIDE,
) -> Iterator[Crop | None]:
    """Write the polyp-free crop of each frame to ``out/images``, an empty mask to ``out/masks``, and a table.

    ``out/crops.csv`` says where in its frame each crop lies.

    Args:
        images: Folder of the frames.
        masks: Folder of their masks.
        names: Frames, by file names without suffix.
        out: A folder that does not exist yet, or is empty.
        margin: See :func:`find_crop`.
        min_side: Likewise.

    Yields:
        The crop of each frame, None where it has none that is large enough.

    Raises:
        FileExistsError: ``out`` holds something.
        FileNotFoundError: A frame or its mask is missing.
        ValueError: No frame has a crop, or ``margin`` or ``min_side`` is out of range.
    """
    if not 0 <= margin < 1 or not 0 < min_side <= 1:
        raise ValueError(f'margin is {margin} and min_side {min_side}; they are shares of the shorter side, 0 to 1')
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"'{out}' holds something already: name a new folder, or remove it")
    files = [(_file(images, name), _file(masks, name)) for name in names]
    for kind in ('images', 'masks'):
        (out / kind).mkdir(parents=True, exist_ok=True)
    found = []
    for name, (image_file, mask_file) in zip(names, files, strict=True):
        image, mask = cv2.imread(str(image_file)), read_polyp_mask(str(mask_file))
        if image is None or image.shape[:2] != mask.shape:
            raise ValueError(f"'{image_file}' cannot be read, or its mask has another size")
        crop = find_crop(image, mask, margin, min_side)
        if crop:
            crop = replace(crop, image=name)
            piece = image[crop.y : crop.y + crop.side, crop.x : crop.x + crop.side]
            cv2.imwrite(str(out / 'images' / f'{name}.png'), piece)
            cv2.imwrite(str(out / 'masks' / f'{name}.png'), np.zeros(piece.shape[:2], np.uint8))
            found.append(crop)
        yield crop
    if not found:
        raise ValueError(
            f'none of the {len(names)} frames has a polyp-free square of {min_side:g} of its shorter side'
        )
    with (out / CROPS).open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([[field.name for field in fields(Crop)], *map(astuple, found)])


def _file(folder: Path, name: str) -> Path:
    file = next((path for path in sorted(folder.glob(f'{name}.*')) if path.stem == name), None)
    if file is None:
        raise FileNotFoundError(f"'{folder}' has no image {name!r}")
    return file


def _integral(values: np.ndarray) -> np.ndarray:
    return cv2.integral(values.astype(np.uint8))


def _sums(integral: np.ndarray, side: int) -> np.ndarray:
    """Sums over all squares of a side, by their top left corners."""
    return integral[side:, side:] - integral[:-side, side:] - integral[side:, :-side] + integral[:-side, :-side]
