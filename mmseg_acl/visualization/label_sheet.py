"""Labelled frames with the contours of their labels, on one sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mmseg_acl.colours import TRUTH, class_colour
from mmseg_acl.datasets.survey import IGNORED, SourceSurvey
from mmseg_acl.visualization.pictures import choose_quantiles, read_image
from mmseg_acl.visualization.style import draw_contour, paper_style, picture_grid

FRAMES_A_ROW = 4
MAX_LEGEND = 8
IGNORED_COLOUR = '#FFFFFF'


def draw_label_sheet(source: SourceSurvey, count: int = 16) -> Figure:
    """Frames from the one with the least foreground to the one with the most, spread evenly.

    Args:
        source: A labelled source.
        count: How many frames at most, at least 1.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f'--frames {count} must be at least 1')
    chosen = choose_quantiles(source.foreground, count)
    paths = [source.dataset.get_data_info(index)['img_path'] for index in chosen]
    frames = [read_image(path) for path in paths]
    notes = [
        f'{Path(path).stem}, {100 * source.foreground[index]:.1f} %'
        for path, index in zip(paths, chosen, strict=True)
    ]
    starts = range(0, len(chosen), FRAMES_A_ROW)
    shown = [label for label in source.labels if _is_drawn(source, label) and source.shares[chosen, label].any()]
    legend = [Patch(facecolor=_colour(source, i), edgecolor='black', label=source.name_of(i)) for i in shown]
    if len(legend) > MAX_LEGEND:
        legend = [*legend[:MAX_LEGEND], Patch(alpha=0, label=f'and {len(legend) - MAX_LEGEND} more')]
    with paper_style():
        figure = picture_grid(
            [frames[i : i + FRAMES_A_ROW] for i in starts],
            notes=[notes[i : i + FRAMES_A_ROW] for i in starts],
            legend=legend,
        )
        for axes, index in zip(figure.axes, chosen, strict=True):
            labels = source.read_labels(index)
            for label in shown:
                draw_contour(axes, labels == label, _colour(source, label), ':' if label == IGNORED else '-')
    return figure


def _is_drawn(source: SourceSurvey, label: int) -> bool:
    """Whether a label has a contour: all but the background, which is what is left."""
    return bool(label) or source.classes[:1] != ('background',)


def _colour(source: SourceSurvey, label: int) -> str | np.ndarray:
    if label == IGNORED:
        return IGNORED_COLOUR
    palette = source.dataset.metainfo.get('palette') or ()
    if len(source.classes) <= 2:
        return TRUTH
    return np.array(palette[label]) / 255 if label < len(palette) else class_colour(label)
