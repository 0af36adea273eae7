"""Images that are almost the same: within the labelled ones, and between what is trained and what is scored on."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import track

from mmseg_acl.datasets.audit import HASH_SIDE, THRESHOLD, find_twins_between, hash_image


class Twin(NamedTuple):
    """An image to test or to validate on, and one that looks like it and is learnt from.

    Attributes:
        scored: Its file.
        learnt: The file of the other.
        distance: In bits of the hash, of 256.
    """

    scored: Path
    learnt: Path
    distance: int


class Hashes:
    """Perceptual hashes of images, each taken once.

    Attributes:
        there: Whether the library for them is; else nothing may be asked for.
    """

    def __init__(self) -> None:
        self.there = importlib.util.find_spec('imagehash') is not None
        self._known: dict[Path, np.ndarray] = {}

    def of(self, images: Iterable[Path]) -> np.ndarray:
        """The hashes of N images, (N, 256) bool.

        Raises:
            ValueError: An image cannot be decoded.
        """
        images = list(images)
        missing = [path for path in dict.fromkeys(images) if path not in self._known]
        if missing:
            with ThreadPoolExecutor() as pool:
                found = pool.map(hash_image, missing)
                bar = dict(total=len(missing), transient=True, disable=not sys.stdout.isatty())
                shown = track(found, 'looking for near-twins', **bar)
                self._known.update(zip(missing, shown, strict=True))
        return np.array([self._known[path] for path in images], bool).reshape(-1, HASH_SIDE**2)


def nearest_twins(scored: Sequence[Path], learnt: Sequence[Path], hashes: Hashes) -> list[Twin]:
    """Of each scored image that has a near-twin among the others, the most similar one; the closest first.

    The work is linear in either number.
    """
    nearest: dict[int, tuple[int, int]] = {}
    for i, j, distance in find_twins_between(hashes.of(scored), hashes.of(learnt), THRESHOLD):
        nearest[i] = min(nearest.get(i, (distance, j)), (distance, j))
    twins = [Twin(scored[i], learnt[j], distance) for i, (distance, j) in nearest.items()]
    return sorted(twins, key=lambda twin: (twin.distance, twin.scored))


def write_twins(path: Path, twins: Iterable[Twin]) -> None:
    """Write a table of near-twins, with a line each."""
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(Twin._fields)
        writer.writerows(twins)
