"""Is one method better than another? Paired over the images of a test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import wilcoxon

NUM_RESAMPLES = 10_000
RESAMPLE_SEED = 0

# Dice of each image, in each of the runs of a method, which differ in their seeds.
Runs = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Comparison:
    """Differences of Dice between two methods over the same images, in points of percent.

    Attributes:
        peer: The other method.
        images: Number of images.
        seeds: Number of runs of the reference and of the peer.
        difference: Mean difference, positive where the reference is better.
        low: Lower end of the 95 % interval, by bootstrap over images and over the runs of either method.
        high: Upper end.
        p: Two-sided Wilcoxon signed-rank test.
        p_holm: The same, corrected after Holm for the number of peers on this test set.
    """

    peer: str
    images: int
    seeds: tuple[int, int]
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = float('nan')


def compare(reference: Runs, peers: Mapping[str, Runs]) -> list[Comparison]:
    """Compare a method with its peers, image by image.

    The interval covers images and seeds together: each resample draws images, the same for both methods, and runs of
    either method. With one run a method the spread over seeds is not in it. With three it is in it, but too small:
    a bootstrap of n values has (n - 1) / n of their variance. The tests are of means over runs, over images alone.

    Args:
        reference: Its runs.
        peers: Runs of each peer.

    Raises:
        ValueError: A run was scored on other images.

    Example::

        (found,) = compare([{'a': 80.0, 'b': 70.0}], {'peer': [{'a': 78.0, 'b': 71.0}, {'a': 79.0, 'b': 72.0}]})
    """
    found = [_compare_pair(reference, name, runs) for name, runs in peers.items()]
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


def _compare_pair(reference: Runs, peer: str, runs: Runs) -> Comparison:
    images = list(reference[0])
    for scores in (*reference, *runs):
        if other := sorted(scores.keys() ^ set(images)):
            raise ValueError(
                f'{peer} was scored on other images: {len(other)} are in one set alone, such as {other[0]}'
            )
    ours, theirs = (np.array([[scores[image] for image in images] for scores in each]) for each in (reference, runs))
    differences = ours.mean(0) - theirs.mean(0)
    rng = np.random.default_rng(RESAMPLE_SEED)
    drawn = rng.integers(len(images), size=(NUM_RESAMPLES, len(images)))
    resampled = [_resample_runs(scores, rng) for scores in (ours, theirs)]
    means = np.take_along_axis(resampled[0] - resampled[1], drawn, axis=1).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    p = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
    seeds = len(reference), len(runs)
    return Comparison(peer, len(images), seeds, float(differences.mean()), float(low), float(high), p)


def _resample_runs(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(resamples, images) means over runs drawn with replacement from (runs, images)."""
    runs = len(scores)
    return rng.multinomial(runs, np.full(runs, 1 / runs), NUM_RESAMPLES) / runs @ scores
