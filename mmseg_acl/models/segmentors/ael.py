"""AEL: semi-supervised segmentation by adaptive equalization learning (Hu et al., NeurIPS 2021)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_acl.models.losses import pixel_cross_entropy
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch, SemiSupervisedSegmentor
from mmseg_acl.models.semi.confidence_bank import ConfidenceBank
from mmseg_acl.models.semi.mixing import mix, relabelled
from mmseg_acl.models.semi.objects import class_pixels, object_boxes
from mmseg_acl.models.semi.pseudo_label import IGNORE, hard_labels, probabilities, true_labels


@MODELS.register_module()
class AEL(SemiSupervisedSegmentor):
    """Self-training that shows weak classes more often and lets them count for more.

    A bank keeps the student's confidence ``s_c`` in each class (:class:`ConfidenceBank`). By it, objects of weak
    classes are pasted between labelled images (adaptive copy-paste) and boxes of predicted objects between unlabelled
    ones (adaptive CutMix), and pixels of strong classes are sampled out of the loss (adaptive equalization sampling):
    one of class c stays with probability ``((1 - s_c) / max(1 - s))^gamma``. What stays is weighted with the
    teacher's confidence to the power of ``weight_power`` and normalised; pixels below ``threshold`` have no loss but
    count in the norm, so that an unsure teacher weighs little. The teacher is followed on labelled images too.

    Defaults are those of the public code on Pascal VOC, but ``min_keep`` and ``min_area``, which are ours. Ours too:

    - With two classes the released rule keeps 20 to 28 % of the background, as measured on Kvasir, and its list of
      classes to paste is empty. (Of a network whose confidences are right it keeps a / (1 - a), where the polyps'
      share of the pixels is a.) Here the keep rate has a floor, and every class but the background is pasted. That
      the background follows the formula, too, is the original's rule.
    - The class of a pixel, by which it is sampled, is the teacher's. The released code takes the student's, so that
      with two classes the polyps which the student misses would be dropped and its false alarms kept.
    - The bank starts from the first labels. The released one starts from random numbers, of which its decay of .999
      leaves a third after 1200 steps. A class missing in a batch is not pulled to 0.
    - Both kinds of pasting take the partner within the batch and draw the class among those it has (of labelled
      images by ``softmax(sqrt(1 - s))``, of unlabelled ones by ``softmax(1 - s)``, as in the public code). Where the
      partner has no object nothing is pasted, where the released code pastes a random box. Pasted objects come as the
      pipeline has scaled them, not scaled a second time.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/ael_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)

    Args:
        segmentor: Config of an mmseg segmentor.
        consistency_weight: Weight of the two consistency losses.
        threshold: Pixels of a less confident pseudo-label have no loss, in [0, 1).
        gamma: Exponent of the keep rate, not negative; 0 keeps every pixel.
        min_keep: The least keep rate of a class, in [0, 1].
        weight_power: Exponent of the confidence as a weight, not negative.
        bank_momentum: Decay of the confidence bank, in [0, 1).
        paste_prob: Probability that a labelled image receives its partner's objects, in [0, 1].
        box_prob: Probability that an unlabelled image receives the box of an object, in [0, 1].
        min_area: Share of the image below which a predicted component is not taken for an object, in [0, 1).
        **kwargs: See :class:`SemiSupervisedSegmentor`.

    Raises:
        ValueError: An argument outside its range.
    """

    def __init__(
        self,
        segmentor: dict,
        consistency_weight: float = 1.0,
        threshold: float = 0.7,
        gamma: float = 1.0,
        min_keep: float = 0.2,
        weight_power: float = 2.0,
        bank_momentum: float = 0.999,
        paste_prob: float = 0.5,
        box_prob: float = 1.0,
        min_area: float = 0.005,
        **kwargs: Any,
    ) -> None:
        for name, value in dict(min_keep=min_keep, paste_prob=paste_prob, box_prob=box_prob).items():
            if not 0 <= value <= 1:
                raise ValueError(f'{name} is {value}; it is a probability, within [0, 1]')
        for name, value in dict(threshold=threshold, min_area=min_area).items():
            if not 0 <= value < 1:
                raise ValueError(f'{name} is {value}; it must be in [0, 1)')
        for name, value in dict(gamma=gamma, weight_power=weight_power).items():
            if value < 0:
                raise ValueError(f'{name} is {value}; this exponent must not be negative')
        super().__init__(segmentor, **kwargs)
        self.bank = ConfidenceBank(self.student.num_classes, bank_momentum)
        self.consistency_weight, self.threshold = consistency_weight, threshold
        self.gamma, self.min_keep, self.weight_power = gamma, min_keep, weight_power
        self.paste_prob, self.box_prob, self.min_area = paste_prob, box_prob, min_area

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg``, ``loss_consistency``, ``loss_consistency_labelled``, and scalars to be watched."""
        batch = self.copy_paste(batch)
        truth = true_labels(batch.samples)

        prob = probabilities(self.run_teacher(torch.cat([batch.labelled, batch.weak])))
        prob_labelled, prob = prob.split([len(batch.labelled), len(batch.weak)])
        predicted = hard_labels(prob, batch.valid)
        boxes = object_boxes(predicted, self.bank.class_rates(), self.box_prob, self.min_area)
        strong, prob, valid = (mix(x, boxes) for x in (batch.strong, prob, batch.valid))

        losses, logits, *_ = self.run_student(batch, strong)
        self.bank.update(probabilities(logits.labelled.detach()), truth)
        losses['loss_consistency'] = self.consistency_weight * self.consistency(logits.unlabelled, prob, valid)
        losses['loss_consistency_labelled'] = self.consistency_weight * self.consistency(
            logits.labelled, prob_labelled, truth != IGNORE
        )
        losses['boxes'] = boxes.flatten(1).any(dim=1).float().mean()
        losses['weakest_class'] = self.bank.confidence.min().clone()
        return losses

    @torch.no_grad()
    def copy_paste(self, batch: SemiBatch) -> SemiBatch:
        """A batch in which labelled images have received objects of their partners, label and all.

        The images and data samples given stay as they are.
        """
        truth = true_labels(batch.samples)
        pixels = class_pixels(truth, self.bank.class_rates(power=0.5), self.paste_prob)
        samples = relabelled(batch.samples, mix(truth, pixels))
        return replace(batch, labelled=mix(batch.labelled, pixels), samples=samples)

    def consistency(self, logits: Tensor, prob: Tensor, valid: Tensor) -> Tensor:
        """Cross-entropy with the teacher's labels over a sample of the pixels, weighted by its confidence.

        Args:
            logits: (B, C or 1, H, W) of the student.
            prob: (B, C, H, W) of the teacher.
            valid: (B, H, W) bool, false on pixels that do not count.

        Returns:
            A scalar; 0, still connected to ``logits``, where no pixel counts.
        """
        confidence, classes = prob.max(dim=1)
        kept = torch.rand_like(confidence) < self.bank.keep_rates(self.gamma, self.min_keep)[classes]
        weight = confidence.pow(self.weight_power) * (kept & valid)
        entropy = pixel_cross_entropy(logits.float(), hard_labels(prob, valid, self.threshold))
        return (weight * entropy).sum() / weight.sum().clamp(min=1)
