"""Frames that belong together, of one sequence or patient, and a split that keeps them together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from mmseg_acl.datasets.audit import THRESHOLD, find_twins
from mmseg_acl.datasets.own.twins import Hashes
from mmseg_acl.datasets.partitions import PARTITION_SEED

# The number of a frame at the end of its name, with what stands before it.
FRAME_NUMBER = re.compile(r'(?i)[ _.-]*(?:frame|img|image|f)?[ _.-]*\d+$')
MIN_NAME_GROUPS = 3
# Of so many frames all pairs are compared for near-twins.
MAX_HASHED = 5000


def group_frames(names: Sequence[PurePosixPath]) -> tuple[list[str], str]:
    """The group of each frame, and how it was told.

    By folders where there are two or more. Else by what stands before the number at the end of a name, where there
    are three groups or more of two frames or more on average. Else each frame is by itself.

    Returns:
        Names of groups, and `'by folder'`, `'by name'` or `'none'`.
    """
    folders = [name.parent.as_posix() for name in names]
    if len(set(folders)) > 1:
        return folders, 'by folder'
    prefixes = [FRAME_NUMBER.sub('', name.name) for name in names]
    counts = Counter(prefixes)
    if len(counts) >= MIN_NAME_GROUPS and 2 * len(counts) <= len(names) and '' not in counts:
        return prefixes, 'by name'
    return [name.as_posix() for name in names], 'none'


def join_twins(groups: Sequence[str], images: Sequence[Path], hashes: Hashes) -> tuple[list[str], int | None]:
    """Groups with those joined that have near-twins, and the number of pairs of near-twins.

    Returns:
        The groups; None for the number where they were not compared: the library imagehash is missing, or there are
        more than `MAX_HASHED`.
    """
    if len(images) > MAX_HASHED or not hashes.there:
        return list(groups), None
    twins = find_twins(hashes.of(images), THRESHOLD)
    root = {group: group for group in groups}

    def find(group: str) -> str:
        while root[group] != group:
            group = root[group]
        return group

    for pair in twins:
        first, second = find(groups[pair.first]), find(groups[pair.second])
        root[max(first, second)] = min(first, second)
    return [find(group) for group in groups], len(twins)


def hold_out(groups: Sequence[str], share: float, seed: int = PARTITION_SEED) -> set[str]:
    """Draw groups to validate on, in a random order each that still fits.

    Args:
        groups: Of every frame.
        share: Of the frames, above 0 and below 1.
        seed: Of the order.

    Returns:
        The groups held out; where none is small enough the smallest one, if it leaves half of the frames or more;
        else nothing.
    """
    sizes = Counter(groups)
    names = sorted(sizes)
    room, chosen = max(1, round(share * len(groups))), set()
    # The legacy generator's stream is frozen by NumPy's policy: the draw stays reproducible.
    for index in np.random.RandomState(seed).permutation(len(names)):
        if sizes[names[index]] <= room:
            chosen.add(names[index])
            room -= sizes[names[index]]
    if not chosen:
        smallest = min(names, key=lambda name: (sizes[name], name))
        chosen = {smallest} if 2 * sizes[smallest] <= len(groups) else set()
    return chosen
