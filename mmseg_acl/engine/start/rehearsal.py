"""Checks of a built runner: do data, model and schedule fit together?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmseg_acl.datasets import SemiSupervisedDataset
from mmseg_acl.datasets.class_data import check_labelled
from mmseg_acl.datasets.semi_supervised import random_scope
from mmseg_acl.engine.best import image_files
from mmseg_acl.errors import DataError
from mmseg_acl.models.networks import is_semi_supervised, learner
from mmseg_acl.models.semi.wrapping import unwrapped
from mmseg_acl.phases import too_late


def rehearse(runner: Runner) -> None:
    """Look at one image of every source, at the classes, and at what training would leave without effect.

    No random state changes.

    Raises:
        ValueError, TypeError: Something does not fit; the message says what.
    """
    model, dataset = unwrapped(runner.model), runner.train_dataloader.dataset
    _check_classes(model, dataset)
    if isinstance(dataset, SemiSupervisedDataset):
        starts = [0, *itertools.accumulate(dataset.source_sizes)]
        for number, name in enumerate(dataset.names):
            _check_views(model, peek(dataset, starts[number]), name, number < dataset.num_labelled)
    else:
        check_labelled([dataset], 'labelled images', learns=True)
        _check_views(model, peek(dataset, 0), 'data set', True)
    if runner.val_loop is not None:
        validation = runner.val_loop.dataloader.dataset
        if not len(validation):
            raise ValueError('val_dataloader.dataset has no image: check its list')
        check_labelled([validation], 'images to validate on', learns=False)
        _compare(dataset, validation, runner)
    if fault := too_late(runner.cfg):
        runner.logger.warning(fault)


def _compare(dataset: Dataset, validation: Dataset, runner: Runner) -> None:
    """Say which images to validate on are trained on, with their labels or without."""
    files, sources = image_files(validation), getattr(dataset, 'sources', [dataset])
    labelled = getattr(dataset, 'num_labelled', len(sources))
    seen, unlabelled = (
        files & set().union(*map(image_files, part)) for part in (sources[:labelled], sources[labelled:])
    )
    if seen:
        runner.logger.warning(
            f'{len(seen)} images to validate on are trained on with their labels, too, such as {min(seen)}: the '
            'scores say nothing about unseen images'
        )
    if unlabelled:
        runner.logger.info(
            f'{len(unlabelled)} of the {len(validation)} images to validate on are among the unlabelled ones: no '
            'loss sees their masks'
        )


def peek(dataset: Dataset, index: int) -> dict:
    """An item as the pipeline gives it; no random state changes.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        with random_scope([0]):
            return dataset[index]
    except DataError as error:  # nothing has run yet, so that it is an error like others in the config
        raise ValueError(str(error)) from error


def _check_views(model: nn.Module, sample: dict, source: str, labelled: bool) -> None:
    """A method takes views, a plain segmentor takes images."""
    has_views = isinstance(sample['inputs'], dict)
    if is_semi_supervised(model):
        if not has_views:
            raise ValueError(
                f'{type(model).__name__} needs views, but the pipeline of the {source} packs single images: '
                "end it with dict(type='Views', ...), as configs/_base_/datasets/semi_128.py does, and use "
                'view_collate'
            )
        if labelled and 'sup' not in sample['inputs']:
            raise ValueError(
                f"{type(model).__name__} needs the view 'sup' of labelled images; their pipeline packs "
                f'{", ".join(sample["inputs"])}'
            )
    elif has_views:
        raise ValueError(
            f'{type(model).__name__} takes single images, but the pipeline of the {source} packs the views '
            f'{", ".join(sample["inputs"])}: for supervised training set train_dataloader = '
            '_base_.supervised_dataloader'
        )


def _check_classes(model: nn.Module, dataset: Dataset) -> None:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not classes:
        return
    for name, head in _heads(model):
        # mmseg's binary segmentation: one channel, thresholded, for two classes.
        allowed = {len(classes), 1} if head.out_channels == 1 and len(classes) == 2 else {len(classes)}
        if head.num_classes not in allowed:
            raise ValueError(
                f'{name} has num_classes={head.num_classes}, but the data set has {len(classes)} classes '
                f'({", ".join(classes)}): set {name}.num_classes={len(classes)}'
            )


def _heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Decode and auxiliary heads of the network that learns, by their names in the config."""
    prefix = 'model.segmentor' if is_semi_supervised(model) else 'model'
    for key in ('decode_head', 'auxiliary_head'):
        found = getattr(learner(model), key, None)
        for head in found if isinstance(found, nn.ModuleList) else [found]:
            if hasattr(head, 'num_classes') and hasattr(head, 'out_channels'):
                yield f'{prefix}.{key}', head
