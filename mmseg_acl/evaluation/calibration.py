"""Does a probability mean what it says? Calibration of probabilities, and what they say of a mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

NUM_BINS = 15
# Between these a temperature is looked for.
COLDEST, HOTTEST = 0.05, 20.0
LEAST = 1e-12


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


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as they are where the logits are divided by a temperature.

    Args:
        probabilities: (C, ...) in [0, 1], summing to 1 over the classes.
        temperature: Above 1 makes them less sure, below 1 surer.

    Returns:
        Likewise.
    """
    scaled = np.maximum(probabilities, LEAST) ** (1 / temperature)
    return scaled / scaled.sum(0)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with which probabilities are likeliest to give these labels (Guo et al., ICML 2017).

    Args:
        probabilities: (C, N) of pixels.
        labels: (N,) their classes.
    """
    pixels = np.arange(len(labels))

    def surprise(exponent: float) -> float:
        own = with_temperature(probabilities, np.exp(exponent))[labels, pixels]
        return -float(np.log(np.maximum(own, LEAST)).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=np.log((COLDEST, HOTTEST)), method='bounded').x))


def expected_dice(foreground: np.ndarray, mask: np.ndarray) -> float:
    """The Dice that a mask may be expected to have, if probabilities mean what they say; in [0, 1].

    Twice the probability inside of the mask, over that of the frame and the mask's area. Of an empty mask it is the
    chance that the likeliest pixel is background, too.

    Args:
        foreground: (H, W) in [0, 1].
        mask: (H, W) bool.
    """
    if not mask.any():
        return 1 - float(foreground.max())
    return 2 * float(foreground[mask].sum()) / float(foreground.sum() + mask.sum())
