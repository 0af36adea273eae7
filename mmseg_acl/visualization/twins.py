"""The closest near-duplicates of an audit, side by side."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from mmseg_acl.datasets.audit import Audit, Twins
from mmseg_acl.visualization.pictures import read_image
from mmseg_acl.visualization.style import paper_style, picture_grid

PAIRS_A_ROW = 2


def draw_twins(audit: Audit, count: int = 12) -> Figure | None:
    """Pairs of frames, those of different splits first, two pairs a row; None where there are none.

    Files that two splits name are left out: they look as alike as they must.

    Args:
        audit: What was found.
        count: The most pairs to draw.
    """
    pairs = [pair for pair in audit.twins if not audit.in_both(pair)][:count]
    if not pairs:
        return None
    pictures, notes = [], []
    for start in range(0, len(pairs), PAIRS_A_ROW):
        chosen = pairs[start : start + PAIRS_A_ROW]
        pictures.append([picture for pair in chosen for picture in _pictures(audit, pair)])
        notes.append([note for pair in chosen for note in _notes(audit, pair)])
    with paper_style():
        return picture_grid(pictures, notes=notes)


def _pictures(audit: Audit, pair: Twins) -> list[np.ndarray]:
    return [read_image(audit.frames[i].path) for i in pair[:2]]


def _notes(audit: Audit, pair: Twins) -> list[str]:
    first, second = (audit.frames[i] for i in pair[:2])
    return [f'{first.split} {first.name}', f'{second.split} {second.name}, {pair.distance} bits']
