"""Which frames to label next: from a pool and a rule to lists, a table and sheets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmseg_acl.datasets.audit import HASH_SIDE, THRESHOLD
from mmseg_acl.datasets.partitions import list_text, read_list
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.evaluation.result_files import csv_bytes
from mmseg_acl.labelling.looking import look_at, open_looker
from mmseg_acl.labelling.pool import PoolFrame, excluded_entries, find_pool, group, sequences_of
from mmseg_acl.labelling.rules import NEEDS_MODEL, RULES, Candidates, Choice, choose

LIST, ALL, TABLE, SHEET, FEATURES = 'suggested.txt', 'train.txt', 'suggested.csv', 'suggested', 'features'
# What `auto` stands for: no rule has been shown to be better than the first, see docs/labelling.md.
AUTO, AUTO_WITHOUT_RUN = 'random-foreground', 'random'


class Suggestion(NamedTuple):
    """What to label next.

    Attributes:
        rule: The rule in use.
        frames: The pool, as far as it can be read.
        choices: The chosen frames.
        labelled: Entries that have labels, in the order of their lists.
        counts: How many frames are allowed, excluded, labelled, and in how many groups the pool falls.
        faults: What is wrong with frames that cannot be read.
    """

    rule: str
    frames: list[PoolFrame]
    choices: list[Choice]
    labelled: list[str]
    counts: dict[str, int]
    faults: list[str]


def suggest(
    words: Sequence[str],
    folder: str | Path,
    budget: int,
    out: str | Path,
    rule: str = 'auto',
    seed: int = 0,
    labelled: Sequence[str] = (),
    exclude: Sequence[str] | None = None,
    sequences: str = 'auto',
    twins: int | None = THRESHOLD,
    device: str | None = None,
) -> Suggestion:
    """Choose frames of a folder.

    Args:
        words: The run, see :func:`~mmseg_acl.inference.runs.find_run`; empty without one.
        folder: The pool.
        budget: How many frames.
        out: Folder for what is known of the frames; a later call reads it.
        rule: See :data:`~mmseg_acl.labelling.rules.RULES`.
        seed: Of what is random. One seed gives one choice.
        labelled: Lists of frames that have labels already.
        exclude: Lists of frames that are not to be chosen; see :func:`~mmseg_acl.labelling.pool.excluded_entries`.
        sequences: See :func:`~mmseg_acl.labelling.pool.sequences_of`.
        twins: The most bits, of 256, in which near-twins differ; None does not look for them.
        device: For the run; by default the best there is.

    Raises:
        FileNotFoundError, ValueError: Something is missing or does not fit.
        ImportError: Hashes need the library imagehash.
    """
    if budget < 1:
        raise ValueError(f'budget is {budget}; it must be at least 1')
    if rule not in RULES:
        raise ValueError(f'rule is {rule!r}; allowed are {", ".join(RULES)}')
    if twins is not None and not 0 <= twins < HASH_SIDE**2 // 2:
        raise ValueError(f'twins is {twins}; it must lie in 0 to {HASH_SIDE**2 // 2 - 1} bits')
    if rule == 'auto':
        rule = AUTO if words else AUTO_WITHOUT_RUN
    if rule in NEEDS_MODEL and not words:
        raise ValueError(
            f'the rule {rule} asks a trained model: give its run, or take typical or random, which need none'
        )
    frames = find_pool(Path(folder))
    names = list(dict.fromkeys(entry for name in labelled for entry in read_list(name)))
    _check_labelled(names, frames, folder)
    excluded = excluded_entries(frames, exclude)
    frames = [frame for frame in frames if frame.entry not in excluded]
    left = [frame for frame in frames if frame.entry not in set(names)]
    if not left:
        raise ValueError(
            f"no frame of '{folder}' is left to choose from: {len(excluded)} are on lists to exclude, and the others "
            'have labels. --exclude none excludes nothing'
        )
    looker = open_looker(words, rule, device)
    there, looks, bits, faults = look_at(frames, looker, twins is not None, Path(out) / FEATURES)
    frames = [frames[index] for index in there]
    if not frames:
        raise ValueError(f"no frame of '{folder}' can be read, the first because: {faults[0]}")
    known = np.isin([frame.entry for frame in frames], names)
    twin_groups, groups = group(bits, sequences_of(frames, sequences), twins or 0)
    candidates = Candidates(groups, ~known, np.isin(twin_groups, twin_groups[known]))
    choices = choose(rule, looks, candidates, np.flatnonzero(known), budget, seed)
    counts = dict(
        pool=int((~known).sum()), labelled=len(names), excluded=len(excluded), groups=len(np.unique(groups[~known]))
    )
    return Suggestion(rule, frames, choices, names, counts, faults)


def write_suggestion(
    found: Suggestion, out: str | Path, sheets: Callable[[list[Path], list[str], Path], list[Path]]
) -> list[Path]:
    """Write the lists, the table and the sheets.

    Args:
        found: What to write.
        out: Folder, made if needed.
        sheets: Draws images with a note each to files of a stem, and says which.
    """
    out = Path(out)
    chosen = [found.frames[choice.index] for choice in found.choices]
    rows = [['rank', 'frame', 'score', 'reason', 'file']] + [
        [rank, frame.entry, '' if choice.score is None else f'{choice.score:.6g}', choice.reason, str(frame.path)]
        for rank, (frame, choice) in enumerate(zip(chosen, found.choices, strict=True), 1)
    ]
    entries = [frame.entry for frame in chosen]
    contents = {
        LIST: list_text(entries).encode(),
        ALL: list_text([*found.labelled, *entries]).encode(),
        TABLE: csv_bytes(rows),
    }
    for name, content in contents.items():
        write_atomically(content, out / name)
    notes = [
        f'{rank}. {frame.entry}' + ('' if choice.score is None else f', {choice.score:.3g}')
        for rank, (frame, choice) in enumerate(zip(chosen, found.choices, strict=True), 1)
    ]
    drawn = sheets([frame.path for frame in chosen], notes, out / SHEET)
    return [*(out / name for name in contents), *drawn]


def _check_labelled(names: Sequence[str], frames: Sequence[PoolFrame], folder: str | Path) -> None:
    missing = sorted(set(names) - {frame.entry for frame in frames})
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(names)} labelled frames are not in '{folder}', such as {missing[0]!r}: give "
            'the folder that holds labelled and unlabelled frames alike, so that near-twins of labelled ones are seen'
        )
