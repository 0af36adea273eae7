"""Does a probability mean what it says? Calibration of the foreground's probability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_BINS = 15


def brier_score(probability: np.ndarray, mask: np.ndarray) -> float:
    """Mean squared distance of a probability from the truth (Brier 1950).

    Args:
        probability: (H, W) of the foreground, in [0, 1].
        mask: (H, W) bool.

    Returns:
        In [0, 1]; 0.25 for a constant 0.5.
    """
    return float(np.mean(np.square(probability - mask)))


def calibration_gaps(probability: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How far probability and truth are apart in bins of equal width.

    Args:
        probability: (H, W) of the foreground, in [0, 1].
        mask: (H, W) bool.

    Returns:
        (15,), for each bin the sum of probability minus truth over its pixels, divided by the image's pixels.
    """
    bins = np.minimum((probability * NUM_BINS).astype(np.intp), NUM_BINS - 1)
    return np.bincount(bins.ravel(), (probability - mask).ravel(), NUM_BINS) / mask.size


def expected_calibration_error(gaps: Sequence[np.ndarray]) -> float:
    """ECE (Naeini et al., AAAI 2015; Guo et al., ICML 2017) of a set of images, each with the same weight.

    In each bin the mean probability is compared with the share of pixels that are foreground; the error is the mean
    of the absolute differences, weighted by the bin's share of all pixels.

    Args:
        gaps: Of each image, from :func:`calibration_gaps`.

    Returns:
        In [0, 1].

    Example::

        error = expected_calibration_error([calibration_gaps(p, mask) for p, mask in pairs])
    """
    return float(np.abs(np.mean(gaps, axis=0)).sum())
