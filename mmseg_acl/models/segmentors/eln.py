"""ELN: semi-supervised segmentation with an error localization network (Kwon & Kwak, CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import ModuleList
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.models.heads.error_localization import error_localization_loss
from mmseg_acl.models.losses import label_loss, no_loss
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch, SemiSupervisedSegmentor, without_weights
from mmseg_acl.models.semi.contrast import info_nce
from mmseg_acl.models.semi.feature_tap import FeatureTap
from mmseg_acl.models.semi.joint_pass import Parts, logits_at, sum_losses
from mmseg_acl.models.semi.projector import Projector
from mmseg_acl.models.semi.pseudo_label import IGNORE, hard_labels, probabilities, true_labels
from mmseg_acl.models.semi.teacher import freeze
from mmseg_acl.phases import check_phase


@MODELS.register_module()
class ELN(SemiSupervisedSegmentor):
    """Pseudo-labels of an EMA teacher, kept where a network that has learnt to see errors finds none.

    Three phases, told apart by ``self.iteration``; the student learns from labels in all of them:

    1. ``warmup_iters``: nothing else.
    2. ``eln_iters``: the error localization network learns on labelled images where a prediction is right. It is
       shown the student's and those of auxiliary decoders, which stand on the student's features without a
       gradient into them, and are kept worse than the student: decoder k learns only while its loss is above
       ``decoder_ratios[k]`` times the student's.
    3. To the end, phase 2 goes on, and unlabelled images join: cross-entropy of the student's weak and strong
       view with the teacher's labels where ELN says right, and pixel contrast against the teacher's projections.

    From the public code come ``threshold``, ``tau``, the crops, projections of 128 channels and equal weights of
    all losses but the contrast's. Different from it, and why:

    - ``decoder_ratios`` are 20 and 50 there, for 21 classes and a student trained for 70 epochs, where guessing
      costs many times the student's loss. On the laptop track guessing costs 3 to 6 times as much (two classes,
      CE + Dice, on polyps), so that no decoder would ever learn there, and ELN would be shown noise.
    - ``balance``: right and wrong are balanced over all pixels there, so that ELN says right where it is surer
      than the average accuracy. The predictions of a rare class seldom are: nearly all labels that it keeps at
      first are background, and would teach background alone. Balanced in each predicted class apart, ELN looks
      for what is wrong within a class.
    - Unlabelled pixels of labelled images are unknown, not wrong, to ELN.
    - The loss that ratios compare is the head's own, whatever it is; a cascade is compared by its first stage's
      copy.
    - The released contrast divides the logarithm of sums over all pairs by the number of pixels and all but
      vanishes. Here as there the teacher gives the anchors, and there is a term for either view of the student;
      but every anchor has its InfoNCE. One positive is drawn for it, which gives the mean over all positives in
      expectation. ``contrast_weight`` brings both to the size of the other losses; there they weigh 1.
    - The teacher is an average from the end of the warm-up on, not a copy made when phase 3 begins, and the
      student is not set back to the teacher at each epoch.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/eln_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)

    Args:
        segmentor: Config of an mmseg segmentor, of two classes or more.
        eln_iters: Length of phase 2, at least 1, so that ELN has seen something before it judges.
        decoder_ratios: One auxiliary decoder for each, at least 1 and usually in rising order.
        localization: Arguments of the ``ErrorLocalizationNetwork`` but its ``num_classes``.
        balance: ``'class'`` to balance right and wrong pixels in each predicted class, ``'all'`` over all pixels
            as in the public code.
        threshold: A label is kept where ELN gives it at least this probability of being right; in (0, 1).
        consistency_weight: Weight of either view's cross-entropy with pseudo-labels.
        contrast_weight: Weight of either view's contrast.
        tau: Temperature of the contrast.
        num_crops: Crops a step in which pixels are contrasted with each other.
        crop_size: Their side, in pixels of the feature before the classifier.
        **kwargs: See :class:`SemiSupervisedSegmentor`.

    Raises:
        ValueError: A number outside what is allowed.
    """

    def __init__(
        self,
        segmentor: dict,
        eln_iters: int | float = 150,
        decoder_ratios: Sequence[float] = (1.5, 3.0),
        localization: dict | None = None,
        balance: str = 'class',
        threshold: float = 0.5,
        consistency_weight: float = 1.0,
        contrast_weight: float = 0.1,
        tau: float = 0.5,
        num_crops: int = 8,
        crop_size: int = 32,
        **kwargs: Any,
    ) -> None:
        if not decoder_ratios or min(decoder_ratios) < 1:
            raise ValueError(
                f'decoder_ratios is {tuple(decoder_ratios)}; it needs one number an auxiliary decoder, none below 1: '
                'a decoder is to be worse than the student'
            )
        if balance not in ('class', 'all'):
            raise ValueError(f"balance is {balance!r}; allowed are 'class' and 'all'")
        if not 0 < threshold < 1:
            raise ValueError(
                f'threshold is {threshold}; a probability to be right is compared with it, so use (0, 1)'
            )
        check_phase('eln_iters', eln_iters)
        for name, value in dict(num_crops=num_crops, crop_size=crop_size).items():
            if value < 1:
                raise ValueError(f'{name} is {value}; it must be at least 1')
        super().__init__(segmentor, **kwargs)
        head = segmentor['decode_head']
        head = head[0] if isinstance(head, (list, tuple)) else head  # of a cascade, the stage that stands alone
        head = without_weights(dict(decode_head=head))['decode_head']
        # "decode_head" in the name gives them its learning rate where a schedule sets one.
        self.auxiliary_decode_heads = ModuleList([MODELS.build(head) for _ in decoder_ratios])
        self.localization = MODELS.build(
            dict(localization or {}, type='ErrorLocalizationNetwork', num_classes=self.student.num_classes)
        )
        self.student_tap, self.teacher_tap = FeatureTap(self.student), FeatureTap(self.teacher)
        self.projector = Projector(self.student_tap.channels)
        self.projector_teacher = freeze(Projector(self.student_tap.channels))
        self.eln_iters, self.decoder_ratios = eln_iters, tuple(decoder_ratios)
        self.balance, self.threshold = balance, threshold
        self.consistency_weight, self.contrast_weight, self.tau = consistency_weight, contrast_weight, tau
        self.num_crops, self.crop_size = num_crops, crop_size

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """Phase 2: ``loss_seg``, ``loss_decoders``, ``loss_eln``; phase 3: the losses on unlabelled images too."""
        unlabelled = torch.cat([batch.weak, batch.strong]) if self.self_training else batch.weak[:0]
        losses, logits, encoded, features = self.run_student(batch, unlabelled)
        main_loss = losses['loss_seg'].detach()
        losses.update(self.localization_losses(batch, encoded, logits.labelled.detach(), main_loss))
        if self.self_training:
            losses.update(self.self_training_losses(batch, logits.unlabelled, features.unlabelled))
        else:
            losses['loss_seg'] = losses['loss_seg'] + no_loss(self.projector)
        return losses

    def localization_losses(
        self, batch: SemiBatch, encoded: Parts, logits: Tensor, main_loss: Tensor
    ) -> dict[str, Tensor]:
        """Losses of the auxiliary decoders and of ELN on labelled images.

        Args:
            batch: The step's images.
            encoded: Features of the student's encoder.
            logits: (L, C or 1, H, W) of the student, no gradient.
            main_loss: The student's supervised loss.

        Returns:
            ``loss_decoders``, 0 where no decoder is to learn; ``loss_eln``; and, to be watched, the shares of
            the student's wrong pixels that ELN finds and of its right ones that it keeps.
        """
        with torch.no_grad():  # cuts the decoders off from the student
            features = encoded.labelled
        predictions, decoder_losses = [logits], []
        for head, ratio in zip(self.auxiliary_decode_heads, self.decoder_ratios, strict=True):
            outputs = head(features)
            loss = sum_losses(head.loss_by_feat(outputs, batch.samples))
            decoder_losses.append(loss if learns(loss, main_loss, ratio) else no_loss(head))
            predictions.append(logits_at(logits.shape[2:], head, outputs).detach())

        truth = true_labels(batch.samples)
        valid = truth != IGNORE
        predictions = [class_logits(prediction) for prediction in predictions]
        scores = self.localization(batch.labelled.repeat(len(predictions), 1, 1, 1), torch.cat(predictions))
        scores = scores.chunk(len(predictions))
        labels = [prediction.argmax(dim=1) for prediction in predictions]
        loss_eln = sum(
            error_localization_loss(score, label == truth, valid, label if self.balance == 'class' else None)
            for score, label in zip(scores, labels, strict=True)
        )
        kept, right, wrong = self.keep(scores[0]), valid & (labels[0] == truth), valid & (labels[0] != truth)
        return dict(
            loss_decoders=sum(decoder_losses),
            loss_eln=loss_eln,
            wrong_found=(~kept & wrong).sum() / wrong.sum().clamp(min=1),
            right_kept=(kept & right).sum() / right.sum().clamp(min=1),
        )

    def self_training_losses(self, batch: SemiBatch, logits: Tensor, feature: Tensor) -> dict[str, Tensor]:
        """Losses on unlabelled images, weak views first.

        Args:
            batch: The step's images.
            logits: (2 U, C or 1, H, W) of the student.
            feature: (2 U, F, h, w) of the student, before its classifier.

        Returns:
            ``loss_consistency_weak``, ``loss_consistency_strong``, ``loss_contrast``; and, to be watched, the share
            of labels that ELN keeps and the share of foreground among them.
        """
        with torch.no_grad(), self.teacher_tap:
            labels = self.pseudo_labels(batch)
            anchors = self.projector_teacher(self.teacher_tap.pop())
        weak, strong = logits.chunk(2)
        kept = labels != IGNORE
        return dict(
            loss_consistency_weak=self.consistency_weight * label_loss(weak, labels),
            loss_consistency_strong=self.consistency_weight * label_loss(strong, labels),
            loss_contrast=self.contrast_weight * self.contrast(anchors, self.projector(feature), labels),
            kept_share=kept.sum() / batch.valid.sum().clamp(min=1),
            foreground_share=(kept & (labels > 0)).sum() / kept.sum().clamp(min=1),
        )

    @torch.no_grad()
    def pseudo_labels(self, batch: SemiBatch) -> Tensor:
        """The teacher's labels (U, H, W) of the weak views, 255 on padding and where ELN doubts them."""
        logits = self.run_teacher(batch.weak)
        kept = batch.valid & self.keep(self.localization(batch.weak, class_logits(logits)))
        return hard_labels(probabilities(logits), kept)

    def keep(self, score: Tensor) -> Tensor:
        """Where ELN's logits (B, H, W) say right."""
        return score.sigmoid() >= self.threshold

    def contrast(self, anchors: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
        """Mean over random crops of :func:`pixel_contrast` between the pixels of all images in the crop.

        The terms of the student's two views are added.

        Args:
            anchors: (U, d, h, w) projections of the teacher, no gradient.
            keys: (2 U, d, h, w) projections of the student, weak views first.
            labels: (U, H, W) pseudo-labels, 255 on pixels that do not take part.
        """
        height, width = anchors.shape[2:]
        labels = F.interpolate(labels[:, None].float(), size=(height, width), mode='nearest-exact')[:, 0].long()
        size = self.crop_size
        # All crops of a map that fits into one are that map.
        count = self.num_crops if max(height, width) > size else 1
        tops, lefts = (torch.randint(max(side - size, 0) + 1, (count,)).tolist() for side in (height, width))
        losses = []
        for top, left in zip(tops, lefts, strict=True):
            a, k, y = (x[..., top : top + size, left : left + size] for x in (anchors, keys, labels))
            a, weak, strong = (x.float().movedim(1, -1).flatten(0, 2) for x in (a, *k.chunk(2)))
            losses += [pixel_contrast(a, y.flatten(), view, y.flatten(), self.tau) for view in (weak, strong)]
        return torch.stack(losses).sum() / count

    @property
    def self_training(self) -> bool:
        """Whether phase 3 has begun."""
        return self.iteration >= self.warmup_iters + self.eln_iters

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """The segmentor and the projector."""
        return [*super().ema_pairs(), (self.projector_teacher, self.projector)]


def learns(loss: Tensor, main_loss: Tensor, ratio: float) -> bool:
    """Whether an auxiliary decoder is bad enough to learn: its loss is above ``ratio`` times the main one."""
    return bool(loss.detach() > ratio * main_loss)


def class_logits(logits: Tensor) -> Tensor:
    """Logits (B, C, H, W) with a channel a class; a sigmoid head's single channel becomes two.

    ``softmax((0, z)) = (1 - sigmoid(z), sigmoid(z))``.
    """
    logits = logits.float()
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def pixel_contrast(anchors: Tensor, anchor_labels: Tensor, keys: Tensor, key_labels: Tensor, tau: float) -> Tensor:
    """InfoNCE of pixels with keys of their class against keys of other classes.

    Each anchor draws one positive of its class; all keys of other classes are its negatives. Mean over the
    anchors of a class, then over classes, so that a small polyp counts as much as its background.

    Args:
        anchors: (A, d).
        anchor_labels: (A,) classes, 255 on pixels that do not take part.
        keys: (K, d).
        key_labels: (K,) classes, likewise.
        tau: Temperature.

    Returns:
        A scalar; 0, still connected to both, where there are not two classes.
    """
    losses = []
    for label in key_labels[key_labels != IGNORE].unique():
        own = anchors[anchor_labels == label]
        same, other = keys[key_labels == label], keys[(key_labels != label) & (key_labels != IGNORE)]
        if len(own) and len(other):
            positives = same[torch.randint(len(same), (len(own),), device=same.device)]
            losses.append(info_nce(own, positives, other, tau).mean())
    return torch.stack(losses).mean() if losses else 0 * (anchors.sum() + keys.sum())
