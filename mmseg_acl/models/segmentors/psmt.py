"""PSMT: perturbed and strict mean teachers (Liu et al., CVPR 2022)."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.models.losses import pixel_cross_entropy
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch, SemiSupervisedSegmentor, without_weights
from mmseg_acl.models.semi.adversarial import AdversarialNoise
from mmseg_acl.models.semi.ensemble import Ensemble
from mmseg_acl.models.semi.head_families import family_of, last_head, reading_head
from mmseg_acl.models.semi.levels import Level, each_part, map_of, with_map
from mmseg_acl.models.semi.mixing import CutMix, mix
from mmseg_acl.models.semi.pseudo_label import IGNORE, hard_labels, probabilities
from mmseg_acl.models.semi.rampup import cosine_rampup
from mmseg_acl.models.semi.student import build_segmentor
from mmseg_acl.models.semi.teacher import ema_decay, ema_update, freeze
from mmseg_acl.phases import check_phase


@MODELS.register_module()
class PSMT(SemiSupervisedSegmentor):
    """The student, perturbed in three ways, learns the confident labels of two teachers strictly.

    The paper's three perturbations are of the network (two teachers, each an average of other stretches of the
    student's way, label by the mean of their logits), of the image (strong colours and CutMix on top of the
    weak view that the teachers see) and of the feature (noise between encoder and decode head, adversarial for
    the teachers' heads: "T-VAT"). "Strict" is the loss: cross-entropy where Mean Teacher has a squared error,
    weighted by the teachers' confidence ("Conf-CE").

    ``predict_on='teacher'`` is the mean of both, as the paper tests.

    Defaults are those of the public code but for the noise. The public code's is practically none: with its xi of
    1e-6 a float32 feature leaves nothing of the direction but rounding (see
    :class:`~mmseg_acl.models.semi.adversarial.AdversarialNoise`), and a constant in the normalisation shrinks the
    noise's length of 2 to .008. Ours follows the paper. Ours differs further in these points:

    - The paper trains three networks of their own during the warm-up. Here both teachers start as copies of the
      student at its end. The mean of networks that were initialised differently is none of them, so that a
      teacher under way to the student would be useless for a while, and within a few epochs the EMA forgets its
      start in any case; what keeps the two apart for good is that they are updated in turn.
    - Noise is added to the features of unlabelled images alone, where there is a consistency to be disturbed; the
      public code adds it to those of labelled images too. It enters before the decode head, where the public code
      has it after ASPP and the fusion with low-level features. Its length is a tenth of the feature's, where the
      paper has 2 for every network.
    - A CutMix partner is never the image itself, and every image draws a box size of its own. Boxes of the public
      code are clipped at the borders, so that they are .36 of the image on average; ours are .50.
    - The top-7 trick of the public code, which needs seven classes and is said there to bring no improvement, is
      left out.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/psmt_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)

    Args:
        segmentor: Config of an mmseg segmentor.
        alternate_every: Iterations before it is the other teacher's turn; the paper's are those of an epoch.
        threshold: Pixels of a less confident label are ignored, in [0, 1).
        consistency_weight: Weight of the loss on unlabelled images after the ramp.
        rampup_iters: Length of the cosine ramp, counted from the end of the warm-up.
        cutmix: Changes of the arguments of :class:`~mmseg_acl.models.semi.mixing.CutMix`; by default every image
            gets a square box whose share of it is drawn from a Beta(4, 4) distribution.
        noise: Arguments of :class:`~mmseg_acl.models.semi.adversarial.AdversarialNoise`. The noise goes onto the
            feature that the decode head reads, the last of them where it reads several.
        **kwargs: See :class:`SemiSupervisedSegmentor`.

    Raises:
        ValueError: An argument out of range, or a decode head for which there is no noise; see
            :func:`feature_level`.
    """

    def __init__(
        self,
        segmentor: dict,
        alternate_every: int | float = 169,
        threshold: float = 0.6,
        consistency_weight: float = 1.5,
        rampup_iters: int | float = 2028,
        cutmix: dict | None = None,
        noise: dict | None = None,
        teacher_momentum: float = 0.996,
        **kwargs: Any,
    ) -> None:
        check_phase('alternate_every', alternate_every)
        check_phase('rampup_iters', rampup_iters)
        if not 0 <= threshold < 1:
            raise ValueError(f'threshold is {threshold}; a confidence threshold is in [0, 1)')
        super().__init__(segmentor, teacher_momentum=teacher_momentum, **kwargs)
        self.alternate_every, self.threshold = alternate_every, threshold
        self.consistency_weight, self.rampup_iters = consistency_weight, rampup_iters
        self.cutmix = CutMix(**dict(dict(prob=1.0, beta=(4.0, 4.0), aspect=(1.0, 1.0), stride=1), **(cutmix or {})))
        self.noise = AdversarialNoise(**(noise or {}))
        self.level = feature_level(self.student)

    def build_networks(self, segmentor: dict) -> None:
        """The student, and two teachers as one."""
        self.student = build_segmentor(segmentor)
        self.teacher = Ensemble(freeze(build_segmentor(without_weights(segmentor))) for _ in range(2))

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg``, ``loss_consistency``, and ``kept_share``, the share of pixels above the threshold."""
        prob = probabilities(self.run_teacher(batch.weak))
        boxes = self.cutmix.draw(batch.weak)
        strong, prob, valid = (mix(x, boxes) for x in (batch.strong, prob, batch.valid))

        losses, logits, *_ = self.run_student(batch, strong, lambda features: self.perturb(features, valid))

        labels = hard_labels(prob, valid, self.threshold)
        ramp = cosine_rampup(self.iteration - self.warmup_iters, self.rampup_iters)
        losses['loss_consistency'] = (
            self.consistency_weight * ramp * confident_cross_entropy(logits.unlabelled, labels, prob)
        )
        losses['kept_share'] = (labels != IGNORE).sum() / valid.sum().clamp(min=1)
        return losses

    def perturb(self, features: list[Level], valid: Tensor) -> list[Level]:
        """Add adversarial noise to one level of the unlabelled images' features.

        Args:
            features: The student's, (L + U, d, h, w) each, or pairs of such a map and a class token, which has no
                noise; the unlabelled images are the last.
            valid: (U, H, W) bool, false on padding.
        """
        features, unlabelled = list(features), slice(-len(valid), None)
        feature = map_of(features[self.level])

        def predict(noisy: Tensor) -> Tensor:
            levels = [each_part(level, lambda part: part[unlabelled].detach().to(noisy)) for level in features]
            levels[self.level] = with_map(levels[self.level], noisy)
            return self.teacher.decode(levels, valid.shape[1:])

        noise = self.noise(feature[unlabelled], predict, valid)
        everywhere = torch.zeros_like(feature, dtype=noise.dtype)
        everywhere[unlabelled] = noise
        features[self.level] = with_map(features[self.level], feature + everywhere)
        return features

    def after_step(self) -> None:
        """Move the teacher whose turn it is towards the student; until the warm-up ends both stay its copies."""
        steps = self.iteration + 1 - self.warmup_iters
        pairs = self.ema_pairs()
        if steps > 0:
            pairs = [pairs[(steps - 1) // self.alternate_every % len(pairs)]]
        for teacher, student in pairs:
            ema_update(teacher, student, ema_decay(steps, self.teacher_momentum))

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Both teachers follow the one student."""
        return [(teacher, self.student) for teacher in self.teacher.members]


def confident_cross_entropy(logits: Tensor, labels: Tensor, prob: Tensor) -> Tensor:
    """Cross-entropy weighted by the confidence of the labels (Conf-CE), mean over the pixels that are not ignored.

    Args:
        logits: (B, C or 1, H, W) of the student.
        labels: (B, H, W) pseudo-labels, 255 where they are to be ignored.
        prob: (B, C, H, W) probabilities that the labels come from, no gradient.

    Returns:
        A scalar; 0, still connected to ``logits``, where every pixel is ignored.
    """
    confidence = prob.amax(dim=1)
    return (confidence * pixel_cross_entropy(logits, labels)).sum() / (labels != IGNORE).sum().clamp(min=1)


def feature_level(segmentor: nn.Module) -> int:
    """Index of the feature that a segmentor's decode head reads, of the last where it reads several.

    Raises:
        ValueError: The head does not say, or a teacher's cannot read the student's features.
    """
    head = reading_head(segmentor)
    index, kind = getattr(head, 'in_index', None), type(head).__name__
    if index is None or not family_of(last_head(segmentor)).same_features:
        reason = 'has no in_index' if index is None else 'reads other features in training than in eval mode'
        raise ValueError(
            f"{kind} {reason}, so the teachers' heads cannot be asked for the noise on the student's features; use "
            'another head derived from BaseDecodeHead'
        )
    return index if isinstance(index, int) else index[-1]
