"""How doubtful a mask is, by the probabilities of a model that has not seen it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from mmseg_acl.evaluation.calibration import expected_dice

# A model misses parts and finds others, but it seldom happens by its faults that all of a mask would fit better if it
# were larger, smaller or elsewhere. Chosen on masks spoilt with the seeds 10 to 19, where 3 to 7 do alike.
WEIGHT = 4
# How far masks are changed: to these shares of the area, and by this share of the longer side of its box.
SMALLEST, LARGEST = 0.4, 2.5
REACH = 1 / 3


class Doubt(NamedTuple):
    """What speaks against a mask, each in expected Dice (0 to 1).

    Attributes:
        lost: How much the mask that the model finds best is better.
        resized: What is won if the mask grows or shrinks evenly at its border.
        moved: What is won if it is moved.
    """

    lost: float
    resized: float
    moved: float

    @property
    def total(self) -> float:
        """The number by which masks are sorted: 0 or more."""
        return max(self.lost, WEIGHT * (self.resized + self.moved))


def doubt_of(foreground: np.ndarray, mask: np.ndarray) -> Doubt:
    """What speaks against a mask.

    Args:
        foreground: (H, W) probability of the mask's class, in [0, 1].
        mask: (H, W) bool.
    """
    lost = best_dice(foreground) - expected_dice(foreground, mask)
    return Doubt(max(lost, 0.0), won_by_resizing(foreground, mask), won_by_moving(foreground, mask))


def best_dice(foreground: np.ndarray) -> float:
    """The largest expected Dice of all masks: those of the k likeliest pixels, for some k, and the empty one."""
    likeliest = np.sort(foreground, axis=None)[::-1]
    if not likeliest.size:
        return 1.0
    return max(1 - float(likeliest[0]), float(_dice_of_nested(likeliest).max()))


def won_by_resizing(foreground: np.ndarray, mask: np.ndarray) -> float:
    """By how much the expected Dice rises at most where a border moves evenly outwards or inwards.

    Args:
        foreground: (H, W) in [0, 1].
        mask: (H, W) bool; nothing is won by an empty one.

    Returns:
        At least 0. Areas are those of ``SMALLEST`` to ``LARGEST``.
    """
    area = int(mask.sum())
    if not area:
        return 0.0
    pixels = mask.astype(np.uint8)
    inside = cv2.distanceTransform(np.pad(pixels, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    outside = cv2.distanceTransform(1 - pixels, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) if area < mask.size else 0
    depth = (inside - outside).ravel()
    order = np.argsort(-depth)
    depth, dice = depth[order], _dice_of_nested(foreground.ravel()[order])
    # Pixels of one depth come and go together.
    ends = np.flatnonzero(np.append(depth[:-1] != depth[1:], True))
    ends = ends[(ends + 1 >= SMALLEST * area) & (ends + 1 <= LARGEST * area)]
    return float(dice[ends].max() - dice[area - 1])


def won_by_moving(foreground: np.ndarray, mask: np.ndarray) -> float:
    """By how much the expected Dice rises at most where a mask is moved by whole pixels, up to ``REACH``.

    Args:
        foreground: (H, W) in [0, 1].
        mask: (H, W) bool; nothing is won by an empty one.

    Returns:
        At least 0. What leaves the frame stays a part of the mask's area.
    """
    area = int(mask.sum())
    if not area:
        return 0.0
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    reach = round(REACH * max(width, height))
    around = np.pad(foreground.astype(np.float32), reach)[
        top : top + height + 2 * reach, left : left + width + 2 * reach
    ]
    own = mask[top : top + height, left : left + width].astype(np.float32)
    overlap = cv2.matchTemplate(around, own, cv2.TM_CCORR)
    won = 2 * (overlap.max() - overlap[reach, reach]) / (foreground.sum() + area)
    return max(float(won), 0.0)


def _dice_of_nested(foreground: np.ndarray) -> np.ndarray:
    """(P,) the expected Dice of the first pixel, of the first two, and so on, of (P,) probabilities."""
    inside = np.cumsum(foreground, dtype=np.float64)
    return 2 * inside / (inside[-1] + np.arange(1, len(foreground) + 1))
