"""How well a map keeps the structure of a mask: S-measure, weighted F-measure, E-measure and mean absolute error.

Written from the papers, and so that the numbers are those of the tools with which the field publishes them.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

EPS = np.finfo(np.float64).eps
# Margolin et al. smooth errors by a 7 x 7 Gaussian; an error counts double far from the object, 1.5 times at this
# many pixels from it.
SMOOTHED, SIGMA, HALF_WAY = 7, 5.0, 5


def enhanced_alignment(inside: np.ndarray, predicted: np.ndarray, area: int, pixels: int) -> np.ndarray:
    """E-measure of binary maps (Fan et al., Enhanced-alignment Measure, IJCAI 2018) from areas alone.

    A pixel's term depends on nothing but whether map and mask hold it, so four counts are enough.

    Args:
        inside: Pixels that map and mask share, any shape.
        predicted: Pixels of the map, the same shape.
        area: Pixels of the mask.
        pixels: Pixels of the image.

    Returns:
        float64 of that shape; in [0, 1] but for the paper's division by ``pixels - 1``.
    """
    if area == 0:
        total = pixels - predicted
    elif area == pixels:
        total = predicted
    else:
        map_mean, mask_mean = predicted / pixels, area / pixels
        counts = {
            (1, 1): inside,
            (1, 0): predicted - inside,
            (0, 1): area - inside,
            (0, 0): pixels - predicted - area + inside,
        }
        total = 0
        for (in_map, in_mask), count in counts.items():
            a, b = in_map - map_mean, in_mask - mask_mean
            total = total + count * (1 + 2 * a * b / (a**2 + b**2 + EPS)) ** 2 / 4
    return total / (pixels - 1 + EPS)


def structure_measure(values: np.ndarray, mask: np.ndarray) -> float:
    """S-measure with equal weights of object and region (Fan et al., Structure-measure, ICCV 2017).

    Args:
        values: (H, W) float64 map in [0, 1].
        mask: (H, W) bool.

    Returns:
        In [0, 1].
    """
    share = mask.mean()
    if share in (0, 1):
        return float(values.mean() if share else 1 - values.mean())
    objects = share * _likeness(values[mask]) + (1 - share) * _likeness(1 - values[~mask])
    row, column = (int(middle) + 1 for middle in np.argwhere(mask).mean(axis=0).round())
    regions = 0.0
    for rows in (slice(None, row), slice(row, None)):
        for columns in (slice(None, column), slice(column, None)):
            block = values[rows, columns]
            if block.size:
                regions += block.size / mask.size * _similarity(block, mask[rows, columns])
    return float(max(0.0, (objects + regions) / 2))


def weighted_f(values: np.ndarray, mask: np.ndarray) -> float:
    """Weighted F-measure with beta 1 (Margolin et al., How to evaluate foreground maps?, CVPR 2014).

    Args:
        values: (H, W) float64 map in [0, 1].
        mask: (H, W) bool.

    Returns:
        In [0, 1]; 0 for an empty mask.
    """
    if not mask.any():
        return 0.0
    distance, nearest = distance_transform_edt(~mask, return_indices=True)
    error = np.abs(values - mask)
    # Errors within the object are seen together with those around; outside, the object's nearest stands in.
    bell = cv2.getGaussianKernel(SMOOTHED, SIGMA)
    smooth = cv2.sepFilter2D(error[tuple(nearest)], -1, bell, bell, borderType=cv2.BORDER_CONSTANT)
    inside = np.minimum(error, smooth)[mask]
    outside = (error * (2 - 0.5 ** (distance / HALF_WAY)))[~mask]
    hits = inside.size - inside.sum()
    recall = 1 - inside.mean()
    precision = hits / (hits + outside.sum() + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


def _likeness(values: np.ndarray) -> float:
    """How near to 1, and how even, the values of an object are."""
    mean = values.mean()
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + EPS)


def _similarity(values: np.ndarray, mask: np.ndarray) -> float:
    """Structural similarity of a whole block, without its constants."""
    x, y = values.mean(), mask.mean()
    a, b = values - x, mask - y
    degrees = max(values.size - 1, 1)
    above = 4 * x * y * (a * b).sum() / degrees
    below = (x**2 + y**2) * ((a**2).sum() + (b**2).sum()) / degrees
    if above:
        return above / (below + EPS)
    return 0.0 if below else 1.0
