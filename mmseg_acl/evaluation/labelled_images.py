"""Labelled images as a network sees them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from torch import Tensor, nn

from mmseg_acl.arguments import folder
from mmseg_acl.evaluation.cross_dataset import dataset_to_test


def add_arguments(parser: argparse.ArgumentParser, config: str, results: str) -> None:
    """Give ``parser`` what every tool takes that measures a checkpoint on labelled images.

    Args:
        parser: It gets ``config``, ``checkpoint``, ``--list`` and ``--out``.
        config: What the config has to be of, for the help.
        results: Name of the file that the tool writes, for the help.
    """
    parser.add_argument('config', help=f'config of {config}')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument(
        '--list',
        default='kvasir/dev',
        help='labelled images to score on, a shipped list or a file (default: kvasir/dev, 100 training images '
        'outside every labelled partition)',
    )
    parser.add_argument('--out', type=folder, help=f'folder for {results} (default: beside the checkpoint)')


def labelled_images(config: Config, model: nn.Module, ann_file: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Preprocessed images (1, 3, H, W) and masks (1, H, W), both at the input size of the test pipeline.

    Args:
        config: Its test data set's class and pipeline are used.
        model: Its data preprocessor is used.
        ann_file: A list of that class, by name or path.

    Raises:
        FileNotFoundError, ValueError: The list or an image is missing or does not fit.
    """
    init_default_scope(config.get('default_scope', 'mmseg'))
    found = dataset_to_test(config)
    pipeline = [step for step in found.pipeline if step['type'] != 'LoadPolypMask']
    pipeline.insert(1, dict(type='LoadPolypMask'))  # before the resize, which then takes it along
    dataset = DATASETS.build(dict(found, ann_file=ann_file, pipeline=pipeline))
    for index in range(len(dataset)):
        batch = model.data_preprocessor(pseudo_collate([dataset[index]]), False)
        yield batch['inputs'], batch['data_samples'][0].gt_sem_seg.data
