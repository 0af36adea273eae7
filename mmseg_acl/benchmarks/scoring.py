"""Curves over 256 thresholds: one histogram against pysodmetrics."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch

from mmseg_acl.benchmarks.measure import Report, SkipPart, seconds
from mmseg_acl.benchmarks.step import smooth
from mmseg_acl.evaluation.curves import areas_by_threshold, overlap, quantise

# Height and width: the tracks', Kvasir-SEG's mean, a large frame of Kvasir-SEG.
SIZES = ((128, 128), (384, 384), (544, 624), (1072, 1920))
IMAGES = 4
TARGET = 10


def maps(size: tuple[int, int], images: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw probability maps in [0, 1], float64, and bool masks that resemble them."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(images):
        whole = smooth(generator, 1, max(size))[0, : size[0], : size[1]]
        logits = (whole - 160) / 12
        found.append((logits.sigmoid().double().numpy(), (whole > 165).numpy()))
    return found


def ours(levels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Dice and IoU at the thresholds 255 to 0, (2, 256)."""
    inside, predicted = areas_by_threshold(levels, mask)
    return np.stack(overlap(inside, predicted, np.count_nonzero(mask), both_empty=0.0))


def usual(library: ModuleType, levels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The same by pysodmetrics."""
    options = dict(with_dynamic=True, with_adaptive=False)
    measure = library.FmeasureV2(dict(dice=library.DICEHandler(**options), iou=library.IOUHandler(**options)))
    measure.step(pred=levels, gt=mask.astype(np.uint8) * 255)
    found = measure.get_results()
    return np.stack([found['dice']['dynamic'], found['iou']['dynamic']])


def run(repeats: int) -> Report:
    """Measure the curves of one map, from 8-bit levels, and the difference.

    Raises:
        SkipPart: pysodmetrics is not installed.
    """
    try:
        import py_sod_metrics as library
    except ModuleNotFoundError as error:
        raise SkipPart('it needs pysodmetrics: pip install --no-deps pysodmetrics') from error
    rows = []
    for size in SIZES:
        pairs = [(quantise(prob), mask, prob) for prob, mask in maps(size, IMAGES)]
        found = seconds(
            {
                'usual': lambda pairs=pairs: [usual(library, p, mask) for p, mask, _ in pairs],
                'ours': lambda pairs=pairs: [ours(p, mask) for p, mask, _ in pairs],
                'quantise': lambda pairs=pairs: [quantise(prob) for _, _, prob in pairs],
            },
            repeats,
        )
        differences = [np.abs(usual(library, levels, mask) - ours(levels, mask)).max() for levels, mask, _ in pairs]
        rows.append(
            {
                'height': size[0],
                'width': size[1],
                'pysodmetrics, ms': found['usual'] / IMAGES * 1e3,
                'ours, ms': found['ours'] / IMAGES * 1e3,
                'times faster': found['usual'] / found['ours'],
                'stretching to 8 bit, ms': found['quantise'] / IMAGES * 1e3,
                'difference': float(max(differences)),
            }
        )
    return Report(
        title='Dice and IoU at 256 thresholds of one map',
        rows=rows,
        notes=[
            f'Target: {TARGET} times faster.',
            'Both start from the same 8-bit map; stretching a probability to it comes before either.',
        ],
    )
