"""ACL-Net: affinity contrastive learning for semi-supervised polyp segmentation (AAAI 2023)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.models.heads.affinity_head import Affinity
from mmseg_acl.models.losses import pseudo_label_loss
from mmseg_acl.models.refinement import Refinement
from mmseg_acl.models.segmentors.labelled_affinity import LabelledAffinitySegmentor
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch
from mmseg_acl.models.semi.feature_tap import FeatureTap
from mmseg_acl.models.semi.mixing import CutMix, mix
from mmseg_acl.models.semi.pseudo_label import hard_labels, probabilities
from mmseg_acl.models.semi.teacher import freeze
from mmseg_acl.phases import check_phase


class Affinities(NamedTuple):
    """Eq. 1 in both networks, for the same images on one grid of N = h * w pixels.

    Attributes:
        student: The student's affinity.
        teacher: The teacher's, without gradient.
        prob: (B, N, C) of the teacher.
        valid: (B, N) bool, false on padding.
    """

    student: Affinity
    teacher: Affinity
    prob: Tensor
    valid: Tensor


class Inspection(NamedTuple):
    """The way of pseudo-labels through ACL-Net.

    Attributes:
        prob: (B, C, H, W) of the teacher.
        affinities: Of student and teacher (Eq. 1).
        aggregated: (B, N, N) after cross-image aggregation (Eq. 8).
        refined: After each term of Eq. 11.
        grid: (h, w) with h * w = N.
    """

    prob: Tensor
    affinities: Affinities
    aggregated: Tensor
    refined: Refinement
    grid: tuple[int, int]

    @property
    def student(self) -> Affinity:
        """The student's affinity."""
        return self.affinities.student

    @property
    def teacher(self) -> Affinity:
        """The teacher's affinity."""
        return self.affinities.teacher


@MODELS.register_module()
class ACLNet(LabelledAffinitySegmentor):
    """Pseudo-labels of an EMA teacher, refined by affinities of student, teacher, memory bank and image.

    The components of the paper's Table 1: thresholded pseudo-labels (TR) are always there; affinity contrast
    (AC), cross-image aggregation (AG), low-level (LA) and high-level (HA) refinement have a switch each.

    The authors published four files; three are another project's with small additions, and the module of Eq. 1 is
    not among them. So this is a reading of the paper; ``docs/aclnet.md`` says what each equation was taken for. Where
    the paper is silent, three sources were used:

    - The paper's own words: the feature maps of Eq. 1 are "extracted from the encoder". With ``feature_source=2``
      they are (1024 channels at stride 8 of a dilated ResNet-50, the third stage of Swin). The default,
      ``'head'``, is the feature before the classifier.
    - The released decoder takes its affinity from the first stage of the encoder (through a 1x1 convolution) joined
      with the output of ASPP, 512 channels, before the classifier; a comment elsewhere places attention between
      encoder and decoder. It has no auxiliary head, and neither have Eqs 13 and 14.
    - AFA (Ru et al., CVPR 2022), which the paper cites, and from which the released low-level kernel is. There an
      affinity is ``sigmoid(conv1x1(A + A^T))`` over the attention of the encoder's last stages; a low and a high
      score are the thresholds of Eq. 2; and a loss on pairs of pixels, of one class and of two,
      half and half, weighs .1 (``affinity_weight``).

    Example, a config that trains it on one's own segmentor::

        _base_ = [
            '../_base_/networks/mbv2.py',
            '../_base_/methods/aclnet_128.py',
            '../_base_/schedules/1200i_clipped.py',
            ...
        ]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)

    Args:
        segmentor: Config of an mmseg segmentor.
        affinity: Arguments of the ``AffinityHead`` (Eq. 1) but its ``in_channels``, which follow from the source.
        contrast: Arguments of the ``ACLHead`` (Eqs 2 to 6). With ``affinity=dict(vectors='rows')`` its ``dim``,
            the number of pixels of a feature map, has to be given.
        aggregation: Arguments of the ``CAAHead`` (Eqs 7, 8).
        refinement: Arguments of the ``PseudoLabelRefiner`` (Eqs 9 to 11); ``low`` and ``high`` switch LA, HA.
        use_contrast: Switch of AC.
        use_aggregation: Switch of AG; without it Eq. 8 is the mean of the student's and the teacher's map.
        cutmix: Arguments of :class:`~mmseg_acl.models.semi.mixing.CutMix`.
        consistency_weight: Weight of the consistency loss (Eq. 12).
        contrast_weight: Weight of the contrastive loss (Eq. 4).
        affinity_weight: Weight of :func:`~mmseg_acl.models.losses.affinity_loss` of the student's map (Eq. 1) on
            labelled images, with or without AC. The paper has no such loss (0).
        threshold: Pixels of a less confident pseudo-label are ignored, in [0, 1).
        feature_source: ``'head'`` for the feature before the classifier, or the index of a backbone's output.
        feature_stride: Stride at which affinities are computed; features are resized to it.
        bank_min_keys: Keys each ring of the memory bank needs before the contrastive loss begins.
        refine_after: Iterations after the warm-up before pseudo-labels are refined: an affinity that has not
            been trained yet is noise.
        **kwargs: See :class:`~mmseg_acl.models.segmentors.semi_supervised.SemiSupervisedSegmentor`.

    Raises:
        ValueError: AG without AC, which fills its bank; a threshold out of range; ``rows`` without ``dim``.
    """

    def __init__(
        self,
        segmentor: dict,
        affinity: dict | None = None,
        contrast: dict | None = None,
        aggregation: dict | None = None,
        refinement: dict | None = None,
        use_contrast: bool = True,
        use_aggregation: bool = True,
        cutmix: dict | None = None,
        consistency_weight: float = 0.5,
        contrast_weight: float = 0.5,
        affinity_weight: float = 0.0,
        threshold: float = 0.0,
        feature_source: str | int = 'head',
        feature_stride: int = 8,
        bank_min_keys: int = 1024,
        refine_after: int | float = 0,
        **kwargs: Any,
    ) -> None:
        if use_aggregation and not use_contrast:
            raise ValueError(
                'use_aggregation=True needs use_contrast=True: clusters come from the memory bank that the '
                'contrastive loss fills'
            )
        if not 0 <= threshold < 1:
            raise ValueError(f'threshold is {threshold}; a confidence threshold is in [0, 1)')
        check_phase('refine_after', refine_after)
        super().__init__(segmentor, affinity, affinity_weight, feature_source, feature_stride, **kwargs)
        self.teacher_tap = FeatureTap(self.teacher, feature_source)

        self.affinity_head.requires_grad_(use_contrast or self.teaches_affinity)
        self.affinity_teacher = freeze(MODELS.build(self.affinity_config))
        dim = self.affinity_head.dim or (contrast or {}).get('dim')
        if dim is None:
            raise ValueError("affinity=dict(vectors='rows') needs contrast=dict(dim=N), N pixels of a feature map")
        contrast = dict(
            contrast or {}, type='ACLHead', dim=dim, num_classes=self.student.num_classes, min_keys=bank_min_keys
        )
        self.acl_head = MODELS.build(contrast) if use_contrast else None
        self.caa_head = MODELS.build(dict(aggregation or {}, type='CAAHead', dim=dim))
        self.refiner = MODELS.build(dict(refinement or {}, type='PseudoLabelRefiner'))
        self.use_aggregation = use_aggregation
        self.refine_after = refine_after

        self.cutmix = CutMix(**dict(cutmix or {}, stride=feature_stride))
        self.consistency_weight, self.contrast_weight = consistency_weight, contrast_weight
        self.threshold = threshold

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg`` (Eq. 14), ``loss_contrast`` (4), ``loss_affinity``, ``loss_consistency`` (12), and scalars.

        In the order of the paper's Figure 2.
        """
        batch, blank = batch.without_blank()

        # Both networks: the teacher sees the weak views, and what it says is then mixed as the strong views are.
        with self.teacher_tap:
            prob = probabilities(self.run_teacher(batch.weak))
        teacher_feature = self.teacher_tap.pop()
        boxes = self.cutmix.draw(batch.weak)
        weak, strong, prob, valid = (mix(x, boxes) for x in (batch.weak, batch.strong, prob, batch.valid))
        losses, logits, _, features = self.run_student(batch, strong)

        # Affinity maps and the contrast between them (ACL).
        affinities = None
        if self.uses_affinity:
            teacher_feature = mix(self._on_grid(teacher_feature, weak), boxes)
            affinities = self.affinities(features.unlabelled, teacher_feature, prob, valid)
            self.collapse.look(affinities.student.map, affinities.valid, self.iteration)
        if self.acl_head is not None:
            losses.update(self.contrast(affinities))
        if self.teaches_affinity:
            losses['loss_affinity'] = self.labelled_affinity_loss(features.labelled, batch.samples)

        # Cross-image aggregation (CAA) and the refinement of the pseudo-labels.
        aggregated = self.aggregate(affinities) if self.uses_aggregated else None
        refined = self.refine(prob, weak, aggregated, valid) if self.refining else Refinement(prob, {})

        # The student follows them.
        labels = hard_labels(refined.prob, valid, self.threshold)
        losses['loss_consistency'] = self.consistency_weight * pseudo_label_loss(
            logits.unlabelled, refined.prob, labels, refined.weight
        )
        losses['blank_share'] = blank.float().mean()
        return losses

    def affinities(self, student: Tensor, teacher: Tensor, prob: Tensor, valid: Tensor) -> Affinities:
        """Affinity of either network's features (Eq. 1).

        Args:
            student: (B, C, h, w) of the student, resized where it is not on the grid of the affinity.
            teacher: (B, C, h, w) of the teacher, likewise.
            prob: (B, C, H, W) of the teacher.
            valid: (B, H, W) bool, false on padding.
        """
        student, teacher = self._on_grid(student, prob), self._on_grid(teacher, prob)
        prob, valid = self._pixels(prob, valid)
        with torch.no_grad():
            teacher = self.affinity_teacher(teacher, valid)
        return Affinities(self.affinity_head(student, valid), teacher, prob, valid)

    def contrast(self, affinities: Affinities) -> dict[str, Tensor]:
        """``loss_contrast`` (Eqs 2 to 6) and scalars; the memory bank grows, and its clusters follow it."""
        found = self.acl_head(*affinities)
        if self.use_aggregation:
            self.caa_head.update(self.acl_head.bank, self.iteration)
        found['loss_contrast'] = self.contrast_weight * found['loss_contrast']
        return found

    def aggregate(self, affinities: Affinities) -> Tensor:
        """Join affinity within and across images (Eqs 7 and 8): (B, N, N), row-stochastic, no gradient."""
        return self.caa_head(affinities.student, affinities.teacher, affinities.valid)

    def refine(self, prob: Tensor, images: Tensor, aggregated: Tensor | None, valid: Tensor) -> Refinement:
        """Refine the teacher's probabilities (Eqs 9 to 11); no gradient.

        Args:
            prob: (B, C, H, W) of the teacher.
            images: (B, 3, H, W) weak views, for the low-level kernel.
            aggregated: (B, N, N) from :meth:`aggregate`; not needed where HA is off.
            valid: (B, H, W) bool, false on padding.
        """
        return self.refiner(prob, images, aggregated, self._grid(images), valid)

    @torch.no_grad()
    def inspect(self, images: Tensor, valid: Tensor) -> Inspection:
        """What the pseudo-label path makes of ``images``, for watching and for pictures.

        Both networks run in ``eval`` mode and nothing of the model changes.

        Args:
            images: (B, 3, H, W), preprocessed.
            valid: (B, H, W) bool, false on padding.
        """
        training = self.training
        self.eval()
        with self.teacher_tap:
            prob = probabilities(self.run_teacher(images))
        with self.student_tap:
            self.student(images)
        affinities = self.affinities(self.student_tap.pop(), self.teacher_tap.pop(), prob, valid)
        aggregated = self.aggregate(affinities)
        refined = self.refine(prob, images, aggregated, valid)
        self.train(training)
        return Inspection(prob, affinities, aggregated, refined, self._grid(images))

    @property
    def refining(self) -> bool:
        """Whether pseudo-labels are refined at this iteration."""
        return self.iteration is None or self.iteration >= self.warmup_iters + self.refine_after

    @property
    def uses_aggregated(self) -> bool:
        """Whether the refinement of this iteration needs Eq. 8."""
        return self.refining and self.refiner.high

    @property
    def uses_affinity(self) -> bool:
        """Whether any component needs Eq. 1 at this iteration."""
        return self.acl_head is not None or self.uses_aggregated

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """The segmentor and the affinity head."""
        return [*super().ema_pairs(), (self.affinity_teacher, self.affinity_head)]
