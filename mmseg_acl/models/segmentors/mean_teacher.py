"""Mean Teacher (Tarvainen & Valpola, NeurIPS 2017)."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_acl.models.segmentors.semi_supervised import SemiBatch, SemiSupervisedSegmentor
from mmseg_acl.models.semi.pseudo_label import IGNORE, probabilities, true_labels
from mmseg_acl.models.semi.rampup import sigmoid_rampup
from mmseg_acl.phases import check_phase


@MODELS.register_module()
class MeanTeacher(SemiSupervisedSegmentor):
    """Consistency of the student's probabilities with those of its EMA teacher.

    The squared error between the two softmax outputs, on labelled and unlabelled images, mean over pixels
    and classes; its weight rises by a sigmoid ramp. The student sees the strongly coloured view, the teacher
    the weak one, so that the two get different noise on the same geometry.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/mean_teacher_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)

    Args:
        segmentor: Config of an mmseg segmentor.
        consistency_weight: Weight of the squared error after the ramp.
        rampup_iters: Length of the ramp, counted from the end of the warm-up.
        **kwargs: See :class:`SemiSupervisedSegmentor`.
    """

    def __init__(
        self, segmentor: dict, consistency_weight: float = 10.0, rampup_iters: int | float = 400, **kwargs: Any
    ) -> None:
        check_phase('rampup_iters', rampup_iters)
        super().__init__(segmentor, **kwargs)
        self.consistency_weight, self.rampup_iters = consistency_weight, rampup_iters

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg`` and ``loss_consistency``."""
        target = probabilities(self.run_teacher(torch.cat([batch.labelled, batch.weak])))
        losses, logits, *_ = self.run_student(batch, batch.strong)
        error = (probabilities(logits.all) - target).square().mean(dim=1)
        valid = torch.cat([true_labels(batch.samples) != IGNORE, batch.valid])
        ramp = sigmoid_rampup(self.iteration - self.warmup_iters, self.rampup_iters)
        losses['loss_consistency'] = self.consistency_weight * ramp * (error * valid).sum() / valid.sum().clamp(min=1)
        return losses
