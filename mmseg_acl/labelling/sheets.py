"""Contact sheets: frames with contours and a note each, some pages of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.patches import Patch

from mmseg_acl.colours import PREDICTION, TRUTH
from mmseg_acl.inference.sources import read_frame
from mmseg_acl.visualization.style import draw_contour, paper_style, picture_grid

FRAMES_A_ROW, FRAMES_A_PAGE = 5, 40
DPI = 150
Masks = Callable[[int], np.ndarray | None]


def draw_sheets(
    paths: Sequence[Path], notes: Sequence[str], stem: Path, found: Masks | None = None, given: Masks | None = None
) -> list[Path]:
    """Write sheets as PNG.

    Args:
        paths: The frames.
        notes: A short text for each.
        stem: Of the files: ``STEM_1.png`` and so on.
        found: Predicted mask (H, W) bool of the n-th frame.
        given: Its mask.

    Returns:
        The files; those of an earlier call that had more pages are removed.
    """
    for page in stem.parent.glob(f'{stem.name}_*.png'):
        if page.stem.removeprefix(f'{stem.name}_').isdecimal():
            page.unlink()
    contours = [
        (masks, colour, style, label)
        for masks, colour, style, label in (
            (given, TRUTH, '-', 'mask'),
            (found, PREDICTION, '--', 'predicted'),
        )
        if masks
    ]
    written = []
    for start in range(0, len(paths), FRAMES_A_PAGE):
        numbers = range(start, min(start + FRAMES_A_PAGE, len(paths)))
        rows = [list(numbers[i : i + FRAMES_A_ROW]) for i in range(0, len(numbers), FRAMES_A_ROW)]
        legend = [Patch(facecolor=colour, edgecolor='black', label=label) for _, colour, _, label in contours]
        with paper_style():
            figure = picture_grid(
                [[read_frame(paths[i]) for i in row] for row in rows],
                notes=[[notes[i] for i in row] for row in rows],
                legend=legend,
            )
            for axes, number in zip(figure.axes, numbers, strict=True):
                for masks, colour, style, _ in contours:
                    mask = masks(number)
                    if mask is not None:
                        draw_contour(axes, mask, colour, style)
            file = stem.with_name(f'{stem.name}_{len(written) + 1}.png')
            figure.savefig(file, dpi=DPI)
        written.append(file)
    return written
