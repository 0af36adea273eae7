"""Pixel features of trained networks in the plane, by class (Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from rich.progress import track

from mmseg_acl.colours import BLUE, ORANGE
from mmseg_acl.models.networks import predictor
from mmseg_acl.models.semi.feature_tap import FeatureTap
from mmseg_acl.visualization.predictions import (
    TrainedRun,
    choose_images,
    list_images,
    open_run,
    open_sets,
    read_truth,
)
from mmseg_acl.visualization.style import WIDTH, new_figure, paper_style, wrap

# As in the paper, in shades that all tell apart, and that show on white.
CLASS_COLORS = {'background': BLUE, 'polyp': ORANGE}
PANELS_A_ROW = 3
MIN_PIXELS = 5


@torch.no_grad()
def collect_features(
    run: TrainedRun,
    datasets: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    first: int = 16,
    pixels: int = 500,
    source: str | int = 'head',
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of pixels drawn at random, equally many of each class as far as there are enough.

    A feature's class is that of most of the pixels it covers.

    Args:
        run: The run.
        datasets: Test sets; None takes the config's own.
        images: Names; None takes the first of each set.
        first: How many of each set.
        pixels: The most of each class.
        source: `'head'` (before the classifier), or the index of an output of the backbone.
        seed: Of the draw.

    Returns:
        Features (N, C) and their classes (N,), 0 background, 1 polyp.

    Raises:
        FileNotFoundError, ValueError: Something is missing or does not fit, or a class has too few pixels.
    """
    config, model = open_run(run)
    network = predictor(model)
    tap = FeatureTap(network, source)
    sets = open_sets(config, datasets)
    known = list_images(sets)
    features, classes = [], []
    for key in track(choose_images(list(known), images, first), description=run.name):
        sample = sets[key[0]][known[key]]
        inputs = model.data_preprocessor(pseudo_collate([sample]), False)['inputs']
        with tap:
            network(inputs)
        feature = tap.pop()[0]
        # Without what the preprocessor padded below and on the right.
        rows, columns = (
            round(n * have / padded)
            for n, have, padded in zip(feature.shape[1:], sample['inputs'].shape[1:], inputs.shape[2:], strict=True)
        )
        mask = read_truth(sample)
        share = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        features.append(feature[:, :rows, :columns].flatten(1).T.cpu().numpy())
        classes.append((share > 0.5).ravel())
    return _draw_pixels(np.concatenate(features), np.concatenate(classes).astype(int), pixels, seed)


def draw_tsne(
    runs: Sequence[TrainedRun],
    datasets: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    first: int = 16,
    pixels: int = 500,
    source: str | int = 'head',
    seed: int = 0,
) -> Figure:
    """A panel a run: t-SNE (van der Maaten and Hinton 2008, by scikit-learn) of its features.

    Arguments and what is raised: see :func:`collect_features`; ImportError without scikit-learn.
    """
    found = [collect_features(run, datasets, images, first, pixels, source, seed) for run in runs]
    columns = min(len(runs), PANELS_A_ROW)
    rows = -(-len(runs) // columns)
    side = WIDTH / max(columns, 2)
    with paper_style():
        figure = new_figure(rows * side + 0.3)
        for index, (run, (features, classes)) in enumerate(zip(runs, found, strict=True)):
            axes = figure.add_subplot(rows, columns, index + 1, title=wrap(run.name, side), xticks=[], yticks=[])
            points = embed(features, seed)
            for label, (name, color) in enumerate(CLASS_COLORS.items()):
                axes.scatter(*points[classes == label].T, s=4, c=color, label=name, alpha=0.7, linewidths=0)
            axes.set_box_aspect(1)
            axes.spines[:].set_visible(True)
        figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncol=2, markerscale=3)
    return figure


def embed(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of features (N, C), (N, 2); the same for the same seed.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError(f'tsne needs scikit-learn ({error}): pip install "mmseg_acl[figures]"') from error
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init='pca', random_state=seed).fit_transform(features)


def _draw_pixels(features: np.ndarray, classes: np.ndarray, pixels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    chosen = []
    for label, name in enumerate(CLASS_COLORS):
        places = np.flatnonzero(classes == label)
        if min(len(places), pixels) < MIN_PIXELS:
            raise ValueError(
                f'{min(len(places), pixels)} pixels of class {name} are too few, there must be {MIN_PIXELS}: choose '
                'more images or more --pixels'
            )
        chosen.append(rng.permutation(places)[:pixels])
    order = np.concatenate(chosen)
    return features[order], classes[order]
