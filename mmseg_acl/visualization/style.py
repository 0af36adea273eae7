"""What all figures for a paper have in common: size, type, colours, files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mmseg_acl.colours import BLACK, BLUE, GREEN, LIGHT_GREY, ORANGE, PURPLE, SKY_BLUE, VERMILLION, YELLOW

# The text width of a page with two columns; inches.
WIDTH = 6.9
DPI = 300
TITLE_SIZE, NOTE_SIZE = 8, 6
# Of nine systems that are compared.
COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY_BLUE, VERMILLION, YELLOW, BLACK, LIGHT_GREY)
STYLES = ('-', '--', '-.', ':')

# Text as text (TrueType), so that it can be searched and scales.
SETTINGS = {
    'font.family': 'DejaVu Sans',
    'font.size': TITLE_SIZE,
    'axes.titlesize': TITLE_SIZE,
    'axes.labelsize': TITLE_SIZE,
    'legend.fontsize': 7,
    'xtick.labelsize': 7,
    'ytick.labelsize': 7,
    'pdf.fonttype': 42,
    'ps.fonttype': 42,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.linewidth': 0.6,
    'lines.linewidth': 1.2,
    'legend.frameon': False,
}
POINT = 1 / 72
LETTER = 0.62  # of the type size: a wide estimate of a letter's mean width
GAP = 0.04


@contextmanager
def paper_style() -> Iterator[None]:
    """matplotlib's settings for a paper, for a while."""
    with matplotlib.rc_context(SETTINGS):
        yield


def new_figure(height: float, layout: str | None = 'constrained') -> Figure:
    """An empty figure of the page's width.

    Args:
        height: In inches.
        layout: matplotlib's, None for axes placed by hand.
    """
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, out: str | Path) -> list[Path]:
    """Write a figure as PNG (300 dpi) and as PDF, at its exact size.

    Args:
        figure: The figure.
        out: Path without suffix, or with one of the two; its folder is made if needed.

    Returns:
        The two files.
    """
    base = Path(out)
    base = base.with_suffix('') if base.suffix.lower() in ('.png', '.pdf') else base
    base.parent.mkdir(parents=True, exist_ok=True)
    files = [base.with_name(f'{base.name}.{kind}') for kind in ('png', 'pdf')]
    with paper_style():
        figure.savefig(files[0], dpi=DPI)
        # Without a date the same figure is the same file.
        figure.savefig(files[1], dpi=DPI, metadata={'CreationDate': None})
    return files


def color_of(index: int) -> str:
    """The colour of the n-th method; nine differ, then they repeat with another line style."""
    return COLORS[index % len(COLORS)]


def style_of(index: int) -> str:
    """The line style of the n-th method."""
    return STYLES[index // len(COLORS) % len(STYLES)]


def picture_grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    notes: Sequence[Sequence[str]] | None = None,
    legend: Sequence[Patch] = (),
) -> Figure:
    """Pictures in rows and columns, each in its own proportions.

    Args:
        rows: Pictures (H, W, 3) uint8, BGR; the last row may be shorter.
        titles: Of the columns, broken into lines where long.
        notes: A short text under each picture, cut where long.
        legend: Drawn in one line below.

    Returns:
        A figure as wide as the page. ``figure.axes`` are the pictures row by row.
    """
    columns = max(len(row) for row in rows)
    cell = WIDTH / columns - GAP
    titles = [wrap(title, cell) for title in titles]
    top = max((title.count('\n') + 1 for title in titles), default=0) * 1.3 * TITLE_SIZE * POINT + GAP
    below = 1.6 * NOTE_SIZE * POINT if notes else 0
    bottom = 2.6 * TITLE_SIZE * POINT if legend else GAP
    heights = [max(cell * picture.shape[0] / picture.shape[1] for picture in row) for row in rows]
    total = top + sum(heights) + len(rows) * (below + GAP) + bottom

    figure = new_figure(total, layout=None)
    y = total - top
    for r, (row, height) in enumerate(zip(rows, heights, strict=True)):
        y -= height
        for c, picture in enumerate(row):
            x = GAP / 2 + c * (cell + GAP)
            axes = figure.add_axes((x / WIDTH, y / total, cell / WIDTH, height / total))
            axes.imshow(fit(picture, cell)[..., ::-1], aspect='equal')
            axes.set_axis_off()
            if r == 0 and c < len(titles):
                figure.text((x + cell / 2) / WIDTH, (total - top + GAP) / total, titles[c], ha='center', va='bottom')
            if notes:
                text = shorten(notes[r][c], cell)
                place = ((x + cell / 2) / WIDTH, (y - 0.25 * below) / total)
                figure.text(*place, text, ha='center', va='top', fontsize=NOTE_SIZE)
        y -= below + GAP
    if legend:
        figure.legend(handles=list(legend), loc='lower center', ncol=len(legend), borderaxespad=0.2)
    return figure


def draw_contour(axes: Axes, region: np.ndarray, color: str, style: str) -> None:
    """A region's outline as vectors, told from the other by its style too."""
    if region.any():
        height, width = region.shape
        # A border of nothing closes regions that touch the frame's edge. The picture may have been made smaller.
        left, right, bottom, top = axes.images[0].get_extent()
        x = left + (np.arange(-1, width + 1) + 0.5) * (right - left) / width
        y = top + (np.arange(-1, height + 1) + 0.5) * (bottom - top) / height
        axes.contour(x, y, np.pad(region, 1).astype(float), [0.5], colors=color, linestyles=style, linewidths=1.0)
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)


def wrap(title: str, width: float) -> str:
    """A title broken into lines of at most ``width`` inches."""
    return '\n'.join(textwrap.wrap(title, max(4, int(width / (LETTER * TITLE_SIZE * POINT)))))


def fit(picture: np.ndarray, width: float) -> np.ndarray:
    """A picture made no larger than it is printed, ``width`` inches wide."""
    scale = width * DPI / picture.shape[1]
    if scale >= 1:
        return picture
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def shorten(text: str, width: float, size: float = NOTE_SIZE) -> str:
    """A text that fits into ``width`` inches, its middle left out where it is long."""
    letters = max(3, int(width / (LETTER * size * POINT)))
    if len(text) <= letters:
        return text
    tail = (letters - 1) // 2
    return f'{text[: letters - 1 - tail]}…{text[len(text) - tail :]}'
