"""U2PL: semi-supervised segmentation using unreliable pseudo-labels (Wang et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.models.losses import no_loss, pixel_cross_entropy
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch, SemiSupervisedSegmentor
from mmseg_acl.models.semi.contrast import info_nce
from mmseg_acl.models.semi.entropy import drop_share, entropy, reliable_pixels
from mmseg_acl.models.semi.feature_tap import FeatureTap
from mmseg_acl.models.semi.memory_bank import MemoryBank
from mmseg_acl.models.semi.mixing import CutMix, mix
from mmseg_acl.models.semi.precision import full_precision
from mmseg_acl.models.semi.projector import Projector
from mmseg_acl.models.semi.pseudo_label import IGNORE, hard_labels, probabilities, true_labels
from mmseg_acl.models.semi.teacher import freeze
from mmseg_acl.phases import check_phase


@MODELS.register_module()
class U2PL(SemiSupervisedSegmentor):
    """Self-training on the teacher's reliable pixels; the unreliable ones serve as negatives of a pixel contrast.

    A share ``alpha_t`` of the unlabelled pixels, those of highest entropy, is unreliable; it falls linearly to 0 over
    the training. Reliable pixels are learnt from by cross-entropy, weighted with valid pixels over reliable
    ones (Sec. 3.2). An unreliable pixel may be of one of its likelier classes, but not of those that come after
    them: it becomes a negative of the latter. Anchors of a class, the student's, are drawn to the mean of the
    teacher's and away from negatives of the class's bank (Sec. 3.3).

    Defaults are those of the public code on Pascal VOC, but for the points below.

    - The public code multiplies every mask of negatives with the label of the very class, so that a labelled image
      never has any, and with two classes its ``ranks`` (3, 20) leave nothing at all: the loss is 0. Here the paper's
      rule is followed, and ``ranks`` follow the number of classes: (1, 2) for two.
    - Anchors, and the pixels of their mean, are the reliable ones of the class with p_c above ``anchor_threshold``,
      as in the paper; the public code narrows them to the ``alpha_t`` surest, of which none are left in the end.
    - The teacher runs once, on the labelled images and the weak views; its outputs and features are mixed by the
      boxes of the images. The public code runs it again on the mixed strong views.
    - The projection is two 1x1 convolutions on the feature before the classifier, so that only sampled pixels of the
      student have to go through it; the public code has a head of 3x3 convolutions of its own.
    - Each image draws a box of CutMix of its own; in the public code there is one a batch. The student's view
      has strong colours, which the public code lacks.
    - Padding and ignored pixels count nowhere, in percentiles and weights neither.

    On the laptop track the contrast weighs .1; here and in the public code it weighs 1.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/u2pl_128.py', ...]
        model = dict(
            _delete_=True, segmentor=_base_.model, **_base_.method
        )

    Args:
        segmentor: Config of an mmseg segmentor.
        total_iters: Iterations of the training, at the end of which no pixel is dropped any more.
        consistency_weight: Weight of the cross-entropy with pseudo-labels.
        contrast_weight: Weight of the contrast.
        drop: Share of unlabelled pixels that is unreliable at the first iteration, in [0, 1).
        ranks: (low, high) with 1 <= low < min(high, classes): an unreliable pixel is a negative of the classes whose
            probability has one of the ranks [low, high), the likeliest class having rank 0; a labelled pixel is one
            of those of [0, low) that are not its own. By default (3, 20), for few classes (classes // 2, classes).
        anchor_threshold: Anchors of class c have p_c of the teacher above this, in [0, 1).
        num_anchors: Most anchors a class and step.
        num_negatives: Negatives an anchor, drawn with repetition.
        tau: Temperature of the contrast, above 0.
        channels: Channels of the projection, its hidden layer and its output.
        bank_size: Keys the bank holds, for all classes or for each; by default 50000 for class 0, the background, and
            30000 for others.
        cutmix: Changes of the arguments of :class:`~mmseg_acl.models.semi.mixing.CutMix`; by default a box is half of
            the image.
        feature_stride: Stride at which pixels are contrasted; features are resized to it.
        **kwargs: See :class:`SemiSupervisedSegmentor`.

    Raises:
        ValueError: An argument outside its range.
    """

    def __init__(
        self,
        segmentor: dict,
        total_iters: int | float,
        consistency_weight: float = 1.0,
        contrast_weight: float = 1.0,
        drop: float = 0.2,
        ranks: tuple[int, int] | None = None,
        anchor_threshold: float = 0.3,
        num_anchors: int = 256,
        num_negatives: int = 50,
        tau: float = 0.5,
        channels: int = 256,
        bank_size: int | Sequence[int] | None = None,
        cutmix: dict | None = None,
        feature_stride: int = 8,
        **kwargs: Any,
    ) -> None:
        check_phase('total_iters', total_iters)
        for name, value in dict(num_anchors=num_anchors, num_negatives=num_negatives).items():
            if value < 1:
                raise ValueError(f'{name} is {value}; it must be at least 1')
        for name, value in dict(drop=drop, anchor_threshold=anchor_threshold).items():
            if not 0 <= value < 1:
                raise ValueError(f'{name} is {value}; it must be in [0, 1)')
        if tau <= 0:
            raise ValueError(f'tau is {tau}; it must be above 0')
        super().__init__(segmentor, **kwargs)
        classes = self.student.num_classes
        low, high = ranks or (max(1, min(3, classes // 2)), min(20, classes))
        if not 1 <= low < min(high, classes):
            raise ValueError(
                f'ranks is {(low, high)} with {classes} classes; needed is 1 <= ranks[0] < ranks[1], and ranks[0] '
                'below the number of classes, or no unreliable pixel would be a negative'
            )
        self.student_tap, self.teacher_tap = FeatureTap(self.student), FeatureTap(self.teacher)
        self.projector = Projector(self.student_tap.channels, channels, channels)
        self.projector_teacher = freeze(Projector(self.student_tap.channels, channels, channels))
        if bank_size is None:
            bank_size = [50000] + [30000] * (classes - 1)
        self.bank = MemoryBank(classes, bank_size, channels)
        self.cutmix = CutMix(**dict(dict(area=(0.5, 0.5)), **(cutmix or {}), stride=feature_stride))
        self.total_iters, self.drop, self.ranks = total_iters, drop, (low, high)
        self.consistency_weight, self.contrast_weight = consistency_weight, contrast_weight
        self.anchor_threshold, self.tau = anchor_threshold, tau
        self.num_anchors, self.num_negatives = num_anchors, num_negatives
        self.feature_stride = feature_stride

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg``, ``loss_consistency`` (Sec. 3.2), ``loss_contrast`` (Sec. 3.3), and scalars to be watched."""
        # The teacher sees the images as they are; what it gives out is then mixed as the student's images are.
        with self.teacher_tap:
            prob = probabilities(self.run_teacher(torch.cat([batch.labelled, batch.weak])))
        boxes = self.cutmix.draw(batch.weak)
        prob = self._mix_unlabelled(prob, boxes)
        strong, valid = mix(batch.strong, boxes), mix(batch.valid, boxes)
        losses, logits, _, features = self.run_student(batch, strong)

        prob_unlabelled = prob[-len(strong) :]
        share = drop_share(self.iteration, self.total_iters, self.drop)
        reliable = reliable_pixels(entropy(prob_unlabelled), valid, share)
        labels = hard_labels(prob_unlabelled, reliable)
        losses['loss_consistency'] = self.consistency_weight * reliable_loss(logits.unlabelled, labels, valid)

        truth = true_labels(batch.samples)
        # Of each cell of the feature map the pixel in its middle is contrasted.
        middle = slice(self.feature_stride // 2, None, self.feature_stride)
        prob, truth, labels, unreliable = (x[..., middle, middle] for x in (prob, truth, labels, valid & ~reliable))
        feature, teacher = (
            F.interpolate(x, size=prob.shape[2:], mode='bilinear', align_corners=False)
            for x in (features.all, self.teacher_tap.pop())
        )
        with torch.no_grad():
            keys = self._mix_unlabelled(self.projector_teacher(teacher), boxes)
        contrast = self.contrast(feature, keys, prob, truth, labels, unreliable)
        losses['loss_contrast'] = self.contrast_weight * contrast
        losses['reliable_share'] = reliable.sum() / valid.sum().clamp(min=1)
        losses['bank_fill'] = (self.bank.fill / self.bank.fill.new_tensor(self.bank.sizes)).min()
        return losses

    @full_precision
    def contrast(
        self, feature: Tensor, keys: Tensor, prob: Tensor, truth: Tensor, labels: Tensor, unreliable: Tensor
    ) -> Tensor:
        """Store the negatives of one batch of L labelled and then U unlabelled images; the contrast (Sec. 3.3).

        Args:
            feature: (L + U, D, h, w) of the student, not projected yet.
            keys: (L + U, d, h, w) projected features of the teacher, no gradient.
            prob: (L + U, C, h, w) of the teacher.
            truth: (L, h, w) labels, 255 to be ignored.
            labels: (U, h, w) pseudo-labels, 255 where they are not reliable.
            unreliable: (U, h, w) bool.

        Returns:
            The mean over classes of the mean over anchors; where there are none, a zero that reaches the student.
        """
        b, c, y, x = negative_pixels(prob, truth, unreliable, self.ranks).nonzero(as_tuple=True)
        self.bank.enqueue(keys[b, :, y, x], c)

        labels, losses = torch.cat([truth, labels]), []
        for label in range(prob.shape[1]):
            pixels = ((labels == label) & (prob[:, label] > self.anchor_threshold)).nonzero()
            ring = self.bank.ring(label)
            if not len(pixels) or not len(ring):
                continue
            b, y, x = pixels.T
            positive = keys[b, :, y, x].mean(dim=0)
            b, y, x = pixels[torch.randperm(len(pixels), device=pixels.device)[: self.num_anchors]].T
            anchors = self.projector(feature[b, :, y, x][..., None, None])[..., 0, 0]
            drawn = torch.randint(len(ring), (len(anchors), self.num_negatives), device=ring.device)
            losses.append(info_nce(anchors, positive.expand_as(anchors), ring[drawn], self.tau).mean())
        if not losses:
            return 0 * feature.sum() + no_loss(self.projector)
        return torch.stack(losses).mean()

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """The segmentor and the projector."""
        return [*super().ema_pairs(), (self.projector_teacher, self.projector)]

    @staticmethod
    def _mix_unlabelled(x: Tensor, boxes: Tensor) -> Tensor:
        """Mix the unlabelled images of (L + U, ...), as many as there are ``boxes``."""
        return torch.cat([x[: -len(boxes)], mix(x[-len(boxes) :], boxes)])


def reliable_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy with the reliable pseudo-labels, times valid over reliable pixels (Sec. 3.2).

    Args:
        logits: (B, C or 1, H, W) of the student.
        labels: (B, H, W) pseudo-labels, 255 where they are not reliable.
        valid: (B, H, W) bool, false on padding.

    Returns:
        A scalar; 0, still connected to ``logits``, where no pixel is reliable.
    """
    kept = (labels != IGNORE).sum().clamp(min=1)
    return pixel_cross_entropy(logits, labels).sum() / kept * (valid.sum() / kept)


def negative_pixels(prob: Tensor, truth: Tensor, unreliable: Tensor, ranks: tuple[int, int]) -> Tensor:
    """Which pixels are negatives of which classes (Sec. 3.3).

    With O(c) the rank of class c in a pixel's probabilities, 0 the likeliest: a labelled pixel is a negative of the
    classes with O(c) < low that are not its own, those it is mistaken for; an unreliable pixel of an unlabelled image
    is one of the classes with low <= O(c) < high.

    Args:
        prob: (L + U, C, h, w) probabilities, the labelled images first.
        truth: (L, h, w) labels, 255 to be ignored.
        unreliable: (U, h, w) bool.
        ranks: (low, high).

    Returns:
        (L + U, C, h, w) bool.
    """
    low, high = ranks
    rank = prob.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    rank_labelled, rank_unlabelled = rank.split([len(truth), len(unreliable)])
    classes = torch.arange(prob.shape[1], device=prob.device)[:, None, None]
    other = (truth[:, None] != classes) & (truth[:, None] != IGNORE)
    labelled = other & (rank_labelled < low)
    unlabelled = unreliable[:, None] & (low <= rank_unlabelled) & (rank_unlabelled < high)
    return torch.cat([labelled, unlabelled])
