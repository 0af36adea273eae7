"""Is one method better than another? Paired over the images of a test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import wilcoxon

NUM_RESAMPLES = 10_000
RESAMPLE_SEED = 0


@dataclass(frozen=True)
class Comparison:
    """Differences of Dice between two methods over the same images, in points of percent.

    Attributes:
        peer: The other method.
        images: Number of images.
        difference: Mean difference, positive where the reference is better.
        low: Lower end of the 95 % interval by bootstrap over images.
        high: Upper end.
        p: Two-sided Wilcoxon signed-rank test.
        p_holm: The same, corrected after Holm for the number of peers on this test set.
    """

    peer: str
    images: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = float('nan')


def compare(reference: Mapping[str, float], peers: Mapping[str, Mapping[str, float]]) -> list[Comparison]:
    """Compare a method with its peers, image by image.

    What is tested is whether the images at hand tell the methods apart, for the runs that there are: the spread over
    seeds is not in it, and has to be read off the table's standard deviations.

    Args:
        reference: Dice of each image, mean over seeds.
        peers: The same for each peer.

    Raises:
        ValueError: A peer was scored on other images.
    """
    found = [_compare_pair(reference, name, scores) for name, scores in peers.items()]
    corrected = holm([comparison.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the smallest of m values times m, the next times m - 1, and so on, never falling."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def _compare_pair(reference: Mapping[str, float], peer: str, scores: Mapping[str, float]) -> Comparison:
    if reference.keys() != scores.keys():
        other = sorted(reference.keys() ^ scores.keys())
        raise ValueError(f'{peer} was scored on other images: {len(other)} are in one set alone, such as {other[0]}')
    differences = np.array([reference[image] - scores[image] for image in reference])
    rng = np.random.default_rng(RESAMPLE_SEED)
    drawn = rng.integers(len(differences), size=(NUM_RESAMPLES, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    p = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
    return Comparison(peer, len(differences), float(differences.mean()), float(low), float(high), p)
