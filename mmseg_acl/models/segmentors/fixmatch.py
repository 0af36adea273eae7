"""FixMatch with an EMA teacher, for segmentation (Sohn et al., NeurIPS 2020; Yang et al., CVPR 2023)."""

from __future__ import annotations

from typing import Any

from mmseg.registry import MODELS
from torch import Tensor

from mmseg_acl.models.losses import confident_loss
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch, SemiSupervisedSegmentor
from mmseg_acl.models.semi.mixing import CutMix, mix
from mmseg_acl.models.semi.pseudo_label import probabilities


@MODELS.register_module()
class FixMatch(SemiSupervisedSegmentor):
    """The teacher labels the weak view; the student learns on the strong one what the teacher is sure of.

    The loss is divided by all valid pixels, not by those that are kept: a teacher that is seldom sure teaches
    little. There is no ramp. FixMatch had one network; with an average of it as the teacher it is the baseline of
    UniMatch V2, whose decay and boxes are the defaults here.

    Ours: boxes of CutMix draw the logarithm of their side ratio, so that flat ones are as frequent as tall ones; the
    supervised loss is not halved.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/fixmatch_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)

    Args:
        segmentor: Config of an mmseg segmentor.
        threshold: Pixels of a less confident label have no loss, in [0, 1).
        consistency_weight: Weight of the loss on unlabelled images.
        criterion: See :func:`~mmseg_acl.models.losses.confident_loss`.
        cutmix: Changes of the arguments of :class:`~mmseg_acl.models.semi.mixing.CutMix`.
        **kwargs: See :class:`SemiSupervisedSegmentor`.

    Raises:
        ValueError: A threshold or a criterion outside what is allowed.
    """

    def __init__(
        self,
        segmentor: dict,
        threshold: float = 0.95,
        consistency_weight: float = 1.0,
        criterion: str = 'cross_entropy',
        cutmix: dict | None = None,
        teacher_momentum: float = 0.996,
        **kwargs: Any,
    ) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f'threshold is {threshold}; a confidence threshold is in [0, 1)')
        if criterion not in ('cross_entropy', 'dice'):
            raise ValueError(f"criterion is {criterion!r}; allowed are 'cross_entropy' and 'dice'")
        super().__init__(segmentor, teacher_momentum=teacher_momentum, **kwargs)
        self.threshold, self.consistency_weight, self.criterion = threshold, consistency_weight, criterion
        self.cutmix = CutMix(**dict(dict(area=(0.02, 0.4), aspect=(0.3, 1 / 0.3), stride=1), **(cutmix or {})))

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg``, ``loss_consistency``, and ``kept_share``, the share of pixels above the threshold."""
        prob = probabilities(self.run_teacher(batch.weak))
        strong, prob, valid = self.mixed(batch.strong, prob, batch.valid)
        losses, logits, *_ = self.run_student(batch, strong)
        losses['loss_consistency'] = self.consistency_weight * self.confident(logits.unlabelled, prob, valid)
        losses['kept_share'] = self.kept(prob, valid)
        return losses

    def mixed(self, view: Tensor, prob: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A strong view (U, 3, H, W), its labels' probabilities and its valid pixels after CutMix."""
        boxes = self.cutmix.draw(view)
        return mix(view, boxes), mix(prob, boxes), mix(valid, boxes)

    def confident(self, logits: Tensor, prob: Tensor, valid: Tensor) -> Tensor:
        """:func:`~mmseg_acl.models.losses.confident_loss` with this method's threshold and criterion."""
        return confident_loss(logits, prob, valid, self.threshold, self.criterion)

    def kept(self, prob: Tensor, valid: Tensor) -> Tensor:
        """Share of the valid pixels whose label is above the threshold."""
        return ((prob.amax(dim=1) >= self.threshold) & valid).sum() / valid.sum().clamp(min=1)
