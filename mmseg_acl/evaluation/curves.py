"""Overlap of a probability map and a mask at one threshold, and at 256 by a histogram."""

import cv2
import numpy as np


def quantise(probability: np.ndarray) -> np.ndarray:
    """Stretch a map to its own minimum and maximum and round it to 8 bit.

    This is what PraNet's test script writes as a png before anything is scored (Fan et al.,
    MICCAI 2020). A constant map becomes all zeros, as it does there.

    Args:
        probability: (H, W) floats.

    Returns:
        (H, W) uint8 in [0, 255].
    """
    low, high = float(probability.min()), float(probability.max())
    if high == low:
        return np.zeros(probability.shape, dtype=np.uint8)
    return np.rint((probability - low) * (255 / (high - low))).astype(np.uint8)


def areas_by_threshold(levels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas of ``levels >= t`` for t = 255, 254, ..., 0, from one histogram each.

    Args:
        levels: (H, W) uint8.
        mask: (H, W) bool.

    Returns:
        Pixels inside the mask and pixels in all, each (256,) int64, at t = 255 first.
    """
    inside = cv2.calcHist([levels], [0], mask.view(np.uint8), [256], [0, 256])
    everywhere = cv2.calcHist([levels], [0], None, [256], [0, 256])
    # OpenCV counts in float32, which is exact up to 16 million pixels.
    inside, everywhere = (counts.ravel().astype(np.int64) for counts in (inside, everywhere))
    return np.cumsum(inside[::-1]), np.cumsum(everywhere[::-1])


def overlap(
    intersection: np.ndarray, predicted: np.ndarray, area: np.ndarray, both_empty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Dice and IoU of areas.

    Args:
        intersection: Pixels in prediction and mask, any shape.
        predicted: Pixels in the prediction, the same shape.
        area: Pixels in the mask, the same shape or a number.
        both_empty: What both are worth where prediction and mask are empty.

    Returns:
        Dice and IoU in [0, 1], float64.
    """
    total = np.asarray(predicted + area, dtype=np.float64)
    union = total - intersection
    empty = total == 0
    dice = np.where(empty, both_empty, 2 * intersection / np.where(empty, 1, total))
    iou = np.where(empty, both_empty, intersection / np.where(empty, 1, union))
    return dice, iou
