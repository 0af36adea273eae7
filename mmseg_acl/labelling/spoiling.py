"""Masks that are wrong on purpose, to see whether a check of labels finds them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from mmseg_acl.datasets.polyp_masks import read_polyp_mask
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.evaluation.result_files import csv_bytes
from mmseg_acl.inference.writing import mask_png
from mmseg_acl.labelling.copies import LabelledCopies

TABLE = 'spoilt.csv'
SHIFT, LEFT = 0.25, 0.6
WAYS = ('shifted', 'shrunk', 'swapped', 'emptied')


def spoil_labels(
    folder: str | Path, out: str | Path, names: str = '', count: int = 5, seed: int = 0, first: int | None = None
) -> dict[str, str]:
    """Copy labelled frames, some masks of them spoilt in each of ``WAYS``.

    Shifted by a quarter of the polyps' width to any side; shrunk to 60 % of the area, what is deepest inside being
    left; swapped with the next of the swapped ones; emptied. All frames but these keep the masks that they have.

    Args:
        folder: Labelled folder, with ``images/`` and ``masks/``.
        out: A folder that does not exist yet, or is empty: ``images/``, ``masks/`` and ``spoilt.csv``.
        names: List of the frames; by default all of the folder.
        count: Masks a way, at least 2.
        seed: Of what is random.
        first: Of the frames only the first so many.

    Returns:
        The way of each spoilt frame.

    Raises:
        FileExistsError: ``out`` holds something.
        FileNotFoundError, ValueError: The folder is none of labelled frames, or has too few with polyps.
    """
    if count < 2:
        raise ValueError(f'count is {count}; masks are swapped with each other, so it must be at least 2')
    copies = LabelledCopies(folder, out, names, first)
    masks = {name: read_polyp_mask(mask) for name, (_, mask) in copies.frames.items()}
    fit = [name for name, mask in masks.items() if mask.any()]
    if len(fit) < count * len(WAYS):
        raise ValueError(
            f"'{folder}' has {len(fit)} frames with polyps, fewer than the {count * len(WAYS)} that are to be spoilt"
        )
    random = np.random.default_rng(seed)
    drawn = random.permutation(len(fit))[: count * len(WAYS)]
    chosen = {fit[index]: WAYS[place // count] for place, index in enumerate(drawn)}
    swapped = [name for name, way in chosen.items() if way == 'swapped']
    other = dict(zip(swapped, swapped[1:] + swapped[:1], strict=True))
    spoil: dict[str, Callable[[str], np.ndarray]] = {
        'shifted': lambda name: shift(masks[name], random.uniform(0, 2 * np.pi)),
        'shrunk': lambda name: shrink(masks[name]),
        'swapped': lambda name: cv2.resize(
            masks[other[name]], masks[name].shape[::-1], interpolation=cv2.INTER_NEAREST
        ),
        'emptied': lambda name: np.zeros_like(masks[name]),
    }
    for name, (image, _) in copies.frames.items():
        mask = spoil[chosen[name]](name) if name in chosen else masks[name]
        shutil.copyfile(image, copies.image(name))
        write_atomically(mask_png(mask, 2), copies.mask(name))
    write_atomically(csv_bytes([('frame', 'way'), *chosen.items()]), copies.out / TABLE)
    return chosen


def shift(mask: np.ndarray, angle: float) -> np.ndarray:
    """A mask (H, W) uint8 moved by a quarter of its polyps' width into a direction, in radians."""
    columns = np.flatnonzero(mask.any(0))
    distance = SHIFT * (columns[-1] - columns[0] + 1)
    matrix = np.float64([[1, 0, round(distance * np.cos(angle))], [0, 1, round(distance * np.sin(angle))]])
    return cv2.warpAffine(mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST)


def shrink(mask: np.ndarray) -> np.ndarray:
    """The 60 % of a mask's (H, W) uint8 pixels that lie deepest inside."""
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5)[1:-1, 1:-1].ravel()
    kept = np.argsort(-depth, kind='stable')[: round(LEFT * int(mask.sum()))]
    shrunk = np.zeros(mask.size, np.uint8)
    shrunk[kept] = 1
    return shrunk.reshape(mask.shape)
