"""UniMatch: unified dual-stream perturbations (Yang et al., CVPR 2023)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_acl.models.segmentors.fixmatch import FixMatch
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch
from mmseg_acl.models.semi.feature_dropout import with_dropped
from mmseg_acl.models.semi.joint_pass import image_logits
from mmseg_acl.models.semi.pseudo_label import probabilities


@MODELS.register_module()
class UniMatch(FixMatch):
    """One network that follows its own weak view on two strong views and on dropped features.

    Labels are the network's own, of the weak view as it is trained: without an average, in training mode. The weak
    view's features pass the head a second time with half of their channels dropped and follow the same labels, which
    are not mixed there. The two strong views, each with boxes of its own, weigh a quarter each, the dropped features
    one half.

    Ours: partners of CutMix are other images of the batch, labelled in training mode like all, where the public code
    loads them anew and labels them in ``eval`` mode; else as in :class:`FixMatch`.

    Cost: the network sees L + 3 U images forward and backward, and decodes U more.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/unimatch_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
        train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=_base_.two_views_pipeline)))

    Args:
        segmentor: Config of an mmseg segmentor.
        dropout: Share of the channels that are dropped, within (0, 1).
        **kwargs: See :class:`FixMatch`. There is no teacher that would follow.

    Raises:
        ValueError: See :class:`FixMatch`; a share outside what is allowed.
    """

    networks = ('student',)

    def __init__(self, segmentor: dict, dropout: float = 0.5, **kwargs: Any) -> None:
        if not 0 < dropout < 1:
            raise ValueError(f'dropout is {dropout}; it is a share of channels, within (0, 1)')
        super().__init__(segmentor, **kwargs)
        self.dropout = dropout

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg``, ``loss_consistency`` (of both strong views), ``loss_feature``, and ``kept_share``."""
        first, second = batch.two_strong_views()
        images = len(batch.weak)

        losses, logits, *_ = self.run_student(
            batch, batch.weak, partial(with_dropped, images=images, prob=self.dropout)
        )
        weak, dropped = logits.unlabelled.chunk(2)
        prob = probabilities(weak.detach())

        (first, *label_one), (second, *label_two) = (self.mixed(view, prob, batch.valid) for view in (first, second))
        one, two = image_logits(self.student, torch.cat([first, second])).chunk(2)
        strong = self.confident(one, *label_one) + self.confident(two, *label_two)
        losses['loss_consistency'] = self.consistency_weight * strong / 4
        losses['loss_feature'] = self.consistency_weight * self.confident(dropped, prob, batch.valid) / 2
        losses['kept_share'] = self.kept(prob, batch.valid)
        return losses
