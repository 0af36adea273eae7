"""Supervised training in which masks teach an affinity beside the classes."""

from __future__ import annotations

from typing import Any

from mmseg.registry import MODELS

from mmseg_acl.models.segmentors.labelled_affinity import LabelledAffinitySegmentor
from mmseg_acl.models.segmentors.supervised_ema import SupervisedEMA


@MODELS.register_module()
class SupervisedPlus(LabelledAffinitySegmentor, SupervisedEMA):
    """:class:`SupervisedEMA` with the affinity loss of ACL-Net+ on its labelled images: its warm-up, to the end.

    It needs no unlabelled image, so it says what ACL-Net+ has without them, and a method that uses them has to beat
    it. The affinity head serves the loss alone: it changes what the encoder learns, and predictions do not use it.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/supervised_plus_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
        source = _base_.train_dataloader.dataset.labelled
        pipelines = (_base_.sup_pipeline, _base_.strong_sup_pipeline)
        train_dataloader = dict(dataset=dict(labelled=[dict(source, pipeline=p) for p in pipelines], unlabelled=None))

    Args:
        segmentor: Config of an mmseg segmentor.
        affinity_weight: Weight of the affinity loss, above 0; without it this is :class:`SupervisedEMA`.
        **kwargs: See :class:`LabelledAffinitySegmentor` for the affinity, and :class:`SupervisedEMA`.

    Raises:
        ValueError: A weight of the affinity loss that is not above 0.
    """

    def __init__(self, segmentor: dict, affinity_weight: float = 2.0, **kwargs: Any) -> None:
        if not affinity_weight > 0:
            raise ValueError(
                f'affinity_weight is {affinity_weight}; it must be above 0. Training without the affinity loss is '
                'SupervisedEMA, the method of configs/supervised_strong'
            )
        super().__init__(segmentor, affinity_weight=affinity_weight, **kwargs)
