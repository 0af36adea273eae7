"""Masks and predictions over frames: Figures 4 and 5 (several methods), Figure 8 (failure cases)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mmseg_acl.colours import OVERLAP, PREDICTION, TRUTH, bgr
from mmseg_acl.engine import load_config
from mmseg_acl.visualization.predictions import TrainedRun, choose_images, list_images, open_sets, predict
from mmseg_acl.visualization.style import draw_contour, paper_style, picture_grid

FAILURES_A_ROW = 4


def draw_overlap(image: np.ndarray, mask: np.ndarray, found: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """A frame with the mask alone, the prediction alone and their overlap in the colours of each.

    Args:
        image: (H, W, 3) uint8, BGR.
        mask: (H, W) bool.
        found: (H, W) bool.
        opacity: Of the colours, in (0, 1]; 1 hides the frame below them.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    drawn = image.astype(np.float32)
    for region, colour in ((mask & ~found, TRUTH), (found & ~mask, PREDICTION), (mask & found, OVERLAP)):
        drawn[region] = (1 - opacity) * drawn[region] + opacity * np.array(bgr(colour), np.float32)
    return drawn.round().astype(np.uint8)


def draw_overlays(
    runs: Sequence[TrainedRun],
    datasets: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    first: int = 4,
    opacity: float = 0.6,
) -> Figure:
    """Rows of images, columns of runs, behind the frame and its mask (Figures 4 and 5).

    Args:
        runs: At least one.
        datasets: Test sets; None takes the own one of the first run's config.
        images: Names, see :func:`choose_images`; None takes the first of each set.
        first: How many of each set.
        opacity: See :func:`draw_overlap`.

    Raises:
        FileNotFoundError, ValueError: Something is missing or does not fit.
    """
    if not 0 < opacity <= 1:
        raise ValueError(f'--opacity {opacity} must lie above 0 and not above 1')
    keys = choose_images(list(list_images(open_sets(load_config(runs[0].config), datasets))), images, first)
    columns = [{found.key: found for found in predict(run, datasets, keys)} for run in runs]
    rows, notes = [], []
    for key in keys:
        found = [column[key] for column in columns]
        image, mask = found[0].image, found[0].mask
        truth = draw_overlap(image, mask, np.zeros_like(mask), opacity)
        rows.append([image, truth, *(draw_overlap(image, mask, run.found, opacity) for run in found)])
        notes.append([key[1], '', *(f'Dice {run.dice:.1f}' for run in found)])
    legend = [
        Patch(facecolor=colour, edgecolor='black', linewidth=0.4, label=label)
        for colour, label in ((TRUTH, 'ground truth only'), (PREDICTION, 'prediction only'), (OVERLAP, 'both'))
    ]
    with paper_style():
        return picture_grid(rows, ['Input', 'Ground truth', *(run.name for run in runs)], notes, legend)


def draw_failures(run: TrainedRun, datasets: Sequence[str] | None = None, count: int = 8) -> Figure:
    """The images with the worst Dice, with the contours of mask and prediction (Figure 8).

    Args:
        run: The run.
        datasets: Test sets, all of whose images are scored; None takes the own one of its config.
        count: How many, at least 1.

    Raises:
        FileNotFoundError, ValueError: Something is missing or does not fit.
    """
    if count < 1:
        raise ValueError(f'--worst {count} must be at least 1')
    worst = heapq.nsmallest(count, predict(run, datasets), key=lambda found: found.dice)
    rows = [worst[i : i + FAILURES_A_ROW] for i in range(0, len(worst), FAILURES_A_ROW)]
    pictures = [[found.image for found in row] for row in rows]
    notes = [[f'{found.key[1]}, Dice {found.dice:.1f}' for found in row] for row in rows]
    legend = [
        Patch(facecolor=colour, edgecolor='black', linewidth=0.4, label=label)
        for colour, label in ((TRUTH, 'ground truth'), (PREDICTION, f'{run.name} (dashed)'))
    ]
    with paper_style():
        figure = picture_grid(pictures, notes=notes, legend=legend)
        for axes, found in zip(figure.axes, worst, strict=True):
            draw_contour(axes, found.mask, TRUTH, '-')
            draw_contour(axes, found.found, PREDICTION, '--')
    return figure
