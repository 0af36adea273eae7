"""Supervised training with an average of the student's weights beside it."""

from __future__ import annotations

from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from mmseg_acl.models.segmentors.semi_supervised import SemiSupervisedSegmentor


@MODELS.register_module()
class SupervisedEMA(SemiSupervisedSegmentor):
    """The supervised baseline that costs what a semi-supervised method costs.

    It learns from labelled images alone. The teacher is not listened to: it is scored beside the student, as that of
    a semi-supervised method is. How many images a step has, and which of them have strong colours, is the data set's
    matter; the configs ``supervised_strong`` have eight, half of them with strong colours.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/supervised_strong_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
        source = _base_.train_dataloader.dataset.labelled
        pipelines = (_base_.sup_pipeline, _base_.strong_sup_pipeline)
        train_dataloader = dict(dataset=dict(labelled=[dict(source, pipeline=p) for p in pipelines], unlabelled=None))

    Args:
        segmentor: Config of an mmseg segmentor.
        **kwargs (Any): See :class:`SemiSupervisedSegmentor`. ``warmup_iters`` is when the average starts.
    """

    def make_batch(self, inputs: dict[str, Tensor], data_samples: dict[str, SampleList]) -> tuple[Tensor, SampleList]:
        """The labelled images (L, 3, H, W) and their samples; views of unlabelled images are left alone."""
        return inputs['sup'], data_samples['sup']

    def semi_supervised_loss(self, batch: tuple[Tensor, SampleList]) -> dict[str, Tensor]:
        """``loss_seg`` and what else the segmentor has."""
        return self.supervised_loss(*batch)
