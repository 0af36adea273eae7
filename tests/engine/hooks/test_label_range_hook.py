"""Masks whose labels do not fit the number of classes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from steps import batch

from mmseg_acl.datasets import PolypDataset
from mmseg_acl.engine.hooks import LabelRangeHook
from mmseg_acl.errors import DataError


class Run:
    """What LabelRangeHook sees of a runner."""

    def __init__(self, classes: tuple[str, ...] | None, num_classes: int = 2) -> None:
        self.model = SimpleNamespace(num_classes=num_classes)
        dataset = SimpleNamespace(sources=[None], metainfo=dict(classes=classes))
        self.train_dataloader = SimpleNamespace(dataset=dataset)
        self.hook = LabelRangeHook()
        self.hook.before_train(self)

    def step(self, data: dict) -> None:
        self.hook.before_train_iter(self, 0, data)


@pytest.mark.parametrize('classes', [None, ('a', 'b')])
def test_a_label_beyond_the_classes_names_the_image(classes):
    data = batch(classes=4)
    data['data_samples']['sup'][1].set_metainfo(dict(img_path='folder/b.png'))
    data['data_samples']['sup'][0].gt_sem_seg.data.fill_(255)
    with pytest.raises(DataError, match='the mask of folder/b.png has labels from 0 to 3.*has 2 classes'):
        Run(classes).step(data)
    Run(None, num_classes=4).step(data)


def test_more_classes_than_the_segmentor_has_are_found_before_training():
    with pytest.raises(DataError, match=r'names 3 classes \(a, b, c\), and the segmentor has num_classes=2'):
        Run(('a', 'b', 'c'))


def test_a_mask_with_colours_is_an_error():
    data = batch()
    sample = data['data_samples']['sup'][0]
    sample.gt_sem_seg = type(sample.gt_sem_seg)(data=torch.zeros(64, 64, 3, dtype=torch.long))
    with pytest.raises(DataError, match='has colours; a mask of class numbers holds 0 to 1'):
        Run(None).step(data)


@pytest.mark.slow
def test_masks_whose_foreground_is_ignored_are_found():
    """0/255 read as class numbers: nothing would be learned, and nobody would say so."""

    def masks(foreground: int) -> dict:
        data = batch(images=10)
        for sample in data['data_samples']['sup']:
            sample.gt_sem_seg.data[sample.gt_sem_seg.data == 1] = foreground
        return data

    run = Run(('a', 'b'))
    for _ in range(9):
        run.step(masks(255))
    with pytest.raises(DataError, match='the first 100 labelled images have no label but 0 and 255.*LoadPolypMask'):
        run.step(masks(255))
    run = Run(('a', 'b'))
    run.step(masks(1))
    for _ in range(12):
        run.step(masks(255))


def test_masks_that_are_right_by_their_making_are_not_looked_at(synthetic_root):
    run = Run(None)
    run.train_dataloader.dataset = PolypDataset(folder='Synthetic/labelled', data_root=str(synthetic_root))
    run.hook.before_train(run)
    run.step(batch(classes=4))
