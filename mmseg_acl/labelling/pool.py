"""The frames of a folder among which to choose, and which of them show the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmseg_acl.datasets.audit import find_twins
from mmseg_acl.datasets.catalogue import POLYP_SETS
from mmseg_acl.datasets.partitions import IMAGE_SUFFIXES, entry_of, images_below, read_list, shipped_lists
from mmseg_acl.datasets.sequences import NUM_FRAMES, sequence_of

SEQUENCES = ('auto', 'folder', 'name', 'none')
# Parts of the public sets that are never trained on.
HELD_OUT = ('test', 'dev')


class PoolFrame(NamedTuple):
    """A frame that may be chosen.

    Attributes:
        entry: Its name in a list.
        path: Its file.
    """

    entry: str
    path: Path


def find_pool(folder: Path) -> list[PoolFrame]:
    """All images below a folder, sorted by their entries; masks that lie beside ``images/`` are none.

    Raises:
        FileNotFoundError: There is no such folder, or it has no image.
        ValueError: Two files have one entry.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder '{folder}': give the one that holds the frames")
    files = [
        file
        for file in images_below(folder)
        if not (file.parent.name == 'masks' and (file.parent.parent / 'images').is_dir())
    ]
    if not files:
        raise FileNotFoundError(
            f"'{folder}' has no image: it should hold files with one of the suffixes {', '.join(IMAGE_SUFFIXES)}"
        )
    frames = sorted(PoolFrame(entry_of(file.relative_to(folder)), file) for file in files)
    counts = Counter(frame.entry for frame in frames)
    twice = [frame for frame in frames if counts[frame.entry] > 1]
    if twice:
        raise ValueError(
            f'{twice[0].path} and {twice[1].path} have one name in a list, {twice[0].entry}: rename one of them'
        )
    return frames


def excluded_entries(frames: Sequence[PoolFrame], lists: Sequence[str] | None) -> set[str]:
    """Entries that are not to be chosen.

    Args:
        frames: The pool.
        lists: Lists whose entries are left out. None takes the shipped test and development lists of the set whose
            folder a frame lies in.

    Raises:
        FileNotFoundError, ValueError: A list is missing or damaged.
    """
    if lists is not None:
        return {entry for name in lists for entry in read_list(name)}
    shipped = {
        spec.folder: {
            entry for part in HELD_OUT if f'{name}/{part}' in shipped_lists() for entry in read_list(f'{name}/{part}')
        }
        for name, spec in POLYP_SETS.items()
    }
    return {frame.entry for frame in frames if frame.path.stem in shipped.get(_set_of(frame.path), ())}


def sequences_of(frames: Sequence[PoolFrame], how: str) -> list[str | None]:
    """The sequence that each frame belongs to; None where it is not known, and the frame stands for itself.

    Args:
        frames: The pool.
        how: ``folder``: frames of one sub-folder are one sequence. ``name``: those whose names differ in the last
            number alone. ``auto``: those of CVC-ClinicDB's 29, by its folder's name. ``none``.

    Raises:
        ValueError: ``how`` is another word.
    """
    if how not in SEQUENCES:
        raise ValueError(f'sequences is {how!r}; allowed are {", ".join(SEQUENCES)}')
    if how == 'folder':
        return [frame.entry.rpartition('/')[0] or None for frame in frames]
    if how == 'name':
        stems = [re.sub(r'\d+$', '', frame.entry) for frame in frames]
        # Frames called 1, 2, 3 have nothing in common but their folder.
        return [
            None if stem in ('', frame.entry) or stem.endswith('/') else stem
            for stem, frame in zip(stems, frames, strict=True)
        ]
    if how == 'auto':
        return [_clinicdb_sequence(frame.path) for frame in frames]
    return [None] * len(frames)


def group(hashes: np.ndarray | None, sequences: Sequence[str | None], distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Number frames by what they show.

    Args:
        hashes: (N, B) bool, perceptual hashes; None where near-twins are not looked for.
        sequences: Of each frame, see :func:`sequences_of`.
        distance: The most bits in which near-twins differ.

    Returns:
        Two arrays (N,): frames that are near-twins, directly or over others, have one number in the first; these
        and those of one sequence in the second.
    """
    pairs = [] if hashes is None else [twins[:2] for twins in find_twins(hashes, distance)]
    first: dict[str, int] = {}
    same = [(first.setdefault(name, number), number) for number, name in enumerate(sequences) if name is not None]
    return _components(pairs, len(sequences)), _components(pairs + same, len(sequences))


def _components(pairs: Sequence[tuple[int, int]], count: int) -> np.ndarray:
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _set_of(path: Path) -> str:
    """The data set's folder: the one that holds ``images/``."""
    path = path.resolve()
    return path.parent.parent.name if path.parent.name == 'images' else path.parent.name


def _clinicdb_sequence(path: Path) -> str | None:
    known = _set_of(path) == POLYP_SETS['clinicdb'].folder
    number = path.stem
    if not known or not number.isdecimal() or not 1 <= int(number) <= NUM_FRAMES:
        return None
    return f'{POLYP_SETS["clinicdb"].folder} {sequence_of(number)}'
