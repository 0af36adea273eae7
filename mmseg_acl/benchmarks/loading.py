"""Loading: the three-view pipeline against decoding the same images."""

from __future__ import annotations

import time
from functools import partial

import cv2
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmseg.registry import DATASETS

from mmseg_acl import shipped
from mmseg_acl.benchmarks.measure import Report, Spans, cpu_seconds, data_folders
from mmseg_acl.datasets import SemiSupervisedDataset
from mmseg_acl.datasets.samplers import Draw

DATASETS_FOLDER = shipped.CONFIGS / '_base_' / 'datasets'
CONFIGS = {128: 'kvasir_128.py', 384: 'kvasir.py'}
# Labelled images, and as many unlabelled ones.
IMAGES = 24
TARGET = 2.5


def indices(dataset: SemiSupervisedDataset, images: int) -> list[int]:
    """The first images of both sources."""
    return [*range(images), *range(dataset.source_sizes[0], dataset.source_sizes[0] + images)]


def load(dataset: SemiSupervisedDataset, index: int, number: int) -> None:
    """Run the pipeline of one image as training does, under the generators of its draw."""
    dataset[Draw(index, number, 0)]


def breakdown(dataset: SemiSupervisedDataset, wanted: list[int], rounds: int) -> dict[str, float]:
    """CPU seconds that each kind of transform takes for all ``wanted``, mean of ``rounds``."""
    spans = Spans(time.process_time)
    for source in dataset.sources:
        transforms = source.pipeline.transforms
        nested = [step for views in transforms[-1].views.values() for step in views.transforms]
        for step in [*transforms, *nested]:
            step.transform = spans.timed(type(step).__name__, step.transform)
    for _ in range(rounds):
        for number, index in enumerate(wanted):
            load(dataset, index, number)
    return {name: value / rounds for name, value in spans.seconds.items()}


def run(repeats: int) -> Report:
    """Measure both for the two tracks on Kvasir-SEG.

    Raises:
        SkipPart: There is no Kvasir-SEG.
    """
    data_folders(['Kvasir-SEG'])
    if DefaultScope.get_current_instance() is None:
        init_default_scope('mmseg')
    # As in training, where loading shares the cores with other workers.
    cv2.setNumThreads(0)
    rows, more = [], {}
    for side, name in CONFIGS.items():
        config = Config.fromfile(DATASETS_FOLDER / name)
        dataset = DATASETS.build(config.train_dataloader.dataset)
        wanted = indices(dataset, IMAGES)
        infos = [dataset.get_data_info(index) for index in wanted]
        images = [info['img_path'] for info in infos]
        masks = [info.get('seg_map_path') or info.get('hidden_map_path') for info in infos]
        half = len(wanted) // 2
        runs = {
            ('labelled' if number < half else 'unlabelled', number): partial(load, dataset, index, number)
            for number, index in enumerate(wanted)
        }
        runs |= {('images', path): partial(cv2.imread, path, cv2.IMREAD_COLOR) for path in images}
        runs |= {('masks', path): partial(cv2.imread, path, cv2.IMREAD_UNCHANGED) for path in masks if path}
        found = cpu_seconds(runs, repeats)
        whole = found['labelled'] + found['unlabelled']
        rows.append(
            {
                'side': side,
                'labelled, ms': found['labelled'] / half * 1e3,
                'unlabelled, ms': found['unlabelled'] / half * 1e3,
                'a pair, ms': whole / half * 1e3,
                'decoding its images, ms': found['images'] / half * 1e3,
                'decoding its masks, ms': found['masks'] / half * 1e3,
                'to images': whole / found['images'],
                'to images and masks': whole / (found['images'] + found['masks']),
            }
        )
        parts = breakdown(dataset, wanted, repeats)
        more[f'Transforms of a pair, side {side}'] = [
            {'transform': name, 'ms': value / half * 1e3, 'share': value / sum(parts.values())}
            for name, value in sorted(parts.items(), key=lambda item: -item[1])
        ]
    return Report(
        title='Loading a labelled image (one view) and an unlabelled one (two views)',
        rows=rows,
        more=more,
        notes=[
            f'Target: {TARGET} times decoding the images.',
            f'{IMAGES} labelled and {IMAGES} unlabelled images of Kvasir-SEG, read before.',
            'CPU time, the best round of each image.',
        ],
    )
