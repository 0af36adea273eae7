"""Rules by which frames are chosen to be labelled; each takes at most one frame of a group while groups are left."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.cluster.vq import kmeans2

RULES = ('auto', 'typical', 'entropy', 'disagreement', 'random', 'random-foreground')
# What each rule looks at; hashes are for the groups.
NEEDS_MODEL = ('entropy', 'disagreement', 'random-foreground')
# With this much of a frame predicted as foreground, the model has found something.
FOUND = 0.001
# Two thirds, as the better of the two foreground-aware random rules of nnActive (2025).
FOREGROUND_SHARE = 2 / 3
SHORTLIST = 5
NEIGHBOURS = 20
MAX_CLUSTERS = 500
STEPS = 20
BLOCK = 1024


class Looks(NamedTuple):
    """What is known of N frames; NaN where it was not looked at.

    Attributes:
        features: (N, D) of unit length.
        share: (N,) share of the pixels that the model takes for foreground.
        entropy: (N,) mean entropy, in bits, of pixels that the model doubts; 0 where it doubts none.
        disagreement: (N,) 1 - Dice of student and teacher.
    """

    features: np.ndarray
    share: np.ndarray
    entropy: np.ndarray
    disagreement: np.ndarray


class Choice(NamedTuple):
    """A chosen frame.

    Attributes:
        index: Which.
        score: By which it was chosen; None by chance.
        reason: In words.
    """

    index: int
    score: float | None
    reason: str


class Candidates:
    """Frames that may be chosen, at most one of a group while other groups are left.

    Args:
        groups: (N,) number of each frame's group.
        allowed: (N,) bool.
        spare: (N,) bool, frames that are taken only when no other is left, as twins of labelled ones.
    """

    def __init__(self, groups: np.ndarray, allowed: np.ndarray, spare: np.ndarray) -> None:
        self.groups, self.left = groups, allowed.copy()
        self.spare = spare
        self.chosen: list[Choice] = []
        self._taken: set[int] = set()

    def open(self) -> np.ndarray:
        """(N,) bool: frames that may be chosen now."""
        fresh = self.left & ~self.spare & ~np.isin(self.groups, list(self._taken))
        if fresh.any():
            return fresh
        return self.left & ~self.spare if (self.left & ~self.spare).any() else self.left

    def take(self, index: int, score: float | None, reason: str) -> None:
        """Choose a frame."""
        if self.groups[index] in self._taken:
            reason += ', though its group has one'
        elif self.spare[index]:
            reason += ', though a near-twin is labelled'
        self.chosen.append(Choice(int(index), None if score is None else float(score), reason))
        self._taken.add(self.groups[index])
        self.left[index] = False

    def take_in_order(self, order: Iterable[int], count: int, scores: np.ndarray | None, reason: str) -> int:
        """Choose the first ``count`` of ``order`` that may be chosen.

        Returns:
            How many of them there were.
        """
        before = len(self.chosen)
        for index in order:
            if len(self.chosen) - before == count:
                break
            if self.open()[index]:
                self.take(index, None if scores is None else scores[index], reason)
        return len(self.chosen) - before


def choose(
    rule: str, looks: Looks, candidates: Candidates, labelled: np.ndarray, budget: int, seed: int
) -> list[Choice]:
    """Choose frames by a rule.

    Args:
        rule: One of ``RULES`` without ``auto``.
        looks: What the rule looks at.
        candidates: Frames that may be chosen.
        labelled: Indices of frames that have labels.
        budget: How many to choose; fewer where there are not so many.
        seed: Of what is random.

    Returns:
        In the order of their choice.
    """
    random = np.random.default_rng(seed)
    budget = min(budget, int(candidates.left.sum()))
    rules: dict[str, Callable[[], None]] = {
        'random': lambda: _fill(candidates, budget, random),
        'random-foreground': lambda: _random_foreground(looks, candidates, budget, random),
        'typical': lambda: _typical(looks, candidates, labelled, budget, random),
        'entropy': lambda: _uncertain('entropy', looks.entropy, looks, candidates, labelled, budget),
        'disagreement': lambda: _uncertain('disagreement', looks.disagreement, looks, candidates, labelled, budget),
    }
    rules[rule]()
    return candidates.chosen


def _fill(candidates: Candidates, budget: int, random: np.random.Generator, reason: str = 'random') -> None:
    """By chance, until the budget is spent."""
    order = random.permutation(len(candidates.left))
    while len(candidates.chosen) < budget:  # once more when groups are used up
        candidates.take_in_order(order, budget - len(candidates.chosen), None, reason)


def _random_foreground(looks: Looks, candidates: Candidates, budget: int, random: np.random.Generator) -> None:
    found = np.flatnonzero(looks.share >= FOUND)
    order = random.permutation(found)
    count = round(FOREGROUND_SHARE * budget)
    candidates.take_in_order(order, count, looks.share, 'random among frames with predicted foreground')
    _fill(candidates, budget, random, 'random among all frames')


def _typical(
    looks: Looks, candidates: Candidates, labelled: np.ndarray, budget: int, random: np.random.Generator
) -> None:
    """The most typical frame of each of the largest clusters that have no label (TypiClust, ICML 2022)."""
    features = looks.features
    clusters = cluster(features, min(len(labelled) + budget, MAX_CLUSTERS, len(features)), random)
    sizes = np.bincount(clusters)
    held = np.bincount(clusters[labelled], minlength=len(sizes))
    typical = typicality(features, clusters)
    for _ in range(budget):
        free = candidates.open()
        alive = np.bincount(clusters[free], minlength=len(sizes)) > 0
        best = min(np.flatnonzero(alive), key=lambda number: (held[number], -sizes[number], number))
        members = np.flatnonzero(free & (clusters == best))
        index = members[np.argmax(typical[members])]
        candidates.take(index, typical[index], f'most typical of a cluster of {sizes[best]} with {held[best]} labels')
        held[best] += 1


def cluster(features: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """k-means.

    Args:
        features: (N, D).
        count: Number of clusters, at most N; some may stay empty.
        random: Draws the first centres, far ones more likely (k-means++).

    Returns:
        (N,) number of each row's cluster.
    """
    features = features.astype(np.float64)
    centres = [features[random.integers(len(features))]]
    nearest = ((features - centres[0]) ** 2).sum(1)
    while len(centres) < count and nearest.any():
        centres.append(features[random.choice(len(features), p=nearest / nearest.sum())])
        nearest = np.minimum(nearest, ((features - centres[-1]) ** 2).sum(1))
    return _lloyd(features, np.array(centres))


def _lloyd(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # A cluster that loses all of its frames keeps its centre, of which SciPy warns.
        warnings.simplefilter('ignore', UserWarning)
        return kmeans2(features, centres, iter=STEPS, minit='matrix')[1]


def typicality(features: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The inverse of the mean distance to the nearest frames of the same cluster, (N,)."""
    values = np.zeros(len(features))
    for number in np.unique(clusters):
        members = np.flatnonzero(clusters == number)
        own = features[members].astype(np.float64)
        near = min(NEIGHBOURS, len(members) - 1)
        if not near:
            values[members] = 1.0
            continue
        squares = (own**2).sum(1)
        for start in range(0, len(own), BLOCK):
            rows = slice(start, start + BLOCK)
            distances = np.maximum(squares[rows, None] + squares - 2 * own[rows] @ own.T, 0)
            # The nearest of all is the frame itself.
            nearest = np.partition(distances, near, axis=1)[:, : near + 1]
            values[members[rows]] = near / np.maximum(np.sqrt(nearest).sum(1), 1e-6)
    return values


def _uncertain(
    name: str, scores: np.ndarray, looks: Looks, candidates: Candidates, labelled: np.ndarray, budget: int
) -> None:
    """Half of the frames with, half without predicted foreground: a missed polyp is among the latter."""
    found = looks.share >= FOUND
    halves = ((found, 'with', (budget + 1) // 2), (~found, 'without', budget // 2))
    for part, word, count in halves:
        _spread(part, f'{name}, {word} predicted foreground', count, scores, looks, candidates, labelled)
    while len(candidates.chosen) < budget:  # one half has too few
        rest = budget - len(candidates.chosen)
        _spread(np.ones_like(found), f'{name}, from all frames', rest, scores, looks, candidates, labelled)


def _spread(
    part: np.ndarray,
    reason: str,
    count: int,
    scores: np.ndarray,
    looks: Looks,
    candidates: Candidates,
    labelled: np.ndarray,
) -> None:
    """Of the frames with the highest scores those that lie farthest from each other and from labelled ones."""
    free = np.flatnonzero(candidates.open() & part)
    best = free[np.argsort(-scores[free], kind='stable')]
    # The best of each group stands for it.
    _, firsts = np.unique(candidates.groups[best], return_index=True)
    shortlist = best[np.sort(firsts)][: SHORTLIST * count]
    known = [*labelled, *(choice.index for choice in candidates.chosen)]
    for index in k_centre(looks.features[shortlist], looks.features[known], count):
        candidates.take(shortlist[index], scores[shortlist[index]], reason)


def k_centre(features: np.ndarray, known: np.ndarray, count: int) -> list[int]:
    """Rows one after the other, each the farthest from all that are chosen or known; the first one of equals.

    Args:
        features: (N, D).
        known: (K, D); without any, the first row is chosen first.
        count: How many; fewer where N is smaller.
    """
    distances = np.full(len(features), np.inf)
    for row in known:
        distances = np.minimum(distances, np.linalg.norm(features - row, axis=1))
    chosen: list[int] = []
    for _ in range(min(count, len(features))):
        index = int(np.argmax(distances))
        chosen.append(index)
        distances = np.minimum(distances, np.linalg.norm(features - features[index], axis=1))
        distances[chosen] = -1
    return chosen
