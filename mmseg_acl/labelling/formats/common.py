"""What the formats of labelling tools have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

FINER = 5


class Labelled(NamedTuple):
    """A frame with labels, as a labelling tool has it.

    Attributes:
        file: Its path as the tool names it; of some formats without a suffix.
        read: Reads its labels (H, W) uint8, 0 being background; None where the tool has nothing of a frame but its
            name, so that all of it is background.
    """

    file: PurePosixPath
    read: Callable[[], np.ndarray | None]


def regions(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The 8-connected regions of each foreground class, as (class, mask (H, W) bool)."""
    for label in np.unique(labels[labels > 0]).tolist():
        count, numbers = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=8)
        for number in range(1, count):
            yield label, numbers == number


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (R,) and lengths (R,) of the runs of equal values of a flat array that is not empty."""
    starts = np.flatnonzero(np.diff(values)) + 1
    bounds = np.concatenate([[0], starts, [len(values)]])
    return values[bounds[:-1]], np.diff(bounds)


def fill_polygon(mask: np.ndarray, points: Sequence[float]) -> None:
    """Set the pixels of a mask (H, W) uint8 whose centres lie within a polygon x1, y1, x2, y2, ..., in pixels.

    Raises:
        ValueError: It has fewer than three points.
    """
    corners = np.array(points, np.float64).reshape(-1, 2)
    if len(corners) < 3:
        raise ValueError(f'a polygon has {len(corners)} points: it needs three or more')
    # Drawn finer around its box, then read at the centres: OpenCV fills the pixels of a border, too.
    low = np.floor(corners.min(0)).astype(int)
    width, height = np.ceil(corners.max(0)).astype(int) - low + 1
    fine = np.zeros((height * FINER, width * FINER), np.uint8)
    cv2.fillPoly(fine, [np.round((corners - low) * FINER).astype(np.int32)], 1)
    inside = fine[FINER // 2 :: FINER, FINER // 2 :: FINER]
    rows, columns = np.nonzero(inside)
    rows, columns = rows + low[1], columns + low[0]
    there = (0 <= rows) & (rows < mask.shape[0]) & (0 <= columns) & (columns < mask.shape[1])
    mask[rows[there], columns[there]] = 1


def class_number(name: str, classes: Sequence[str], where: object) -> int:
    """The number of a class by its name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in classes:
        raise ValueError(
            f'{where} has the label {name!r}, but the classes are {", ".join(classes)}: rename it in the labelling '
            'tool, or name the classes by --classes, the background first'
        )
    return list(classes).index(name)
