"""CorrMatch: label propagation along correlation maps (Sun et al., CVPR 2024)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_acl.models.losses import kept_loss, label_loss, sure_divergence
from mmseg_acl.models.segmentors.fixmatch import FixMatch
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch
from mmseg_acl.models.semi.correlation import Correlation, correlate, correlated_regions, propagate
from mmseg_acl.models.semi.feature_dropout import with_dropped
from mmseg_acl.models.semi.feature_tap import FeatureTap
from mmseg_acl.models.semi.joint_pass import image_logits
from mmseg_acl.models.semi.mixing import mix
from mmseg_acl.models.semi.moving_threshold import highest_confidence
from mmseg_acl.models.semi.pseudo_label import IGNORE, hard_labels, probabilities, true_labels


@MODELS.register_module()
class CorrMatch(FixMatch):
    """One network that labels its own weak view; labels spread over regions that belong together.

    A correlation map says how much two pixels of an image have to do with each other. Logits that are carried along
    it learn as the network's own do, which teaches the map. Its rows are regions: one whose sure pixels agree takes
    their class as a whole, unsure pixels included, before the strong view learns it. The threshold on confidence
    follows the highest confidence of the predicted classes.

    The nearest relative of ACL-Net's high-level affinity: there a map refines probabilities, here it votes.

    Ours: the total is four times that of the public code, so that ``loss_seg`` has the weight 1 as in every other
    method, and the shares of the losses in it stay; labels spread before CutMix, so that a pasted part has them, too;
    the divergence is taken from the mixed probabilities, where the public code takes the unmixed ones inside of the
    box; all regions ask the labels of before, where there a region sees what earlier ones have changed; maps compare
    32 channels, where the public code has as many as classes; features finer than ``feature_stride`` are averaged, as
    the maps of a U-Net's would not fit into memory; the threshold stops at ``most``, since with two classes it creeps
    to 1.

    Cost: the network sees L + 2 U images forward and backward, decodes U more, and makes L + 2 U maps of N x N, N
    being the cells of the feature.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/corrmatch_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)

    Args:
        segmentor: Config of an mmseg segmentor.
        threshold: Where the threshold starts, in [0, 1).
        threshold_momentum: What of it stays at a step, in [0, 1].
        most: It does not pass this, in [0, 1).
        dropout: Share of the channels of the weak features that are dropped, within (0, 1).
        regions: Rows of a map that are asked, at least 1.
        feature_source: ``'head'`` for the feature before the classifier, or the index of a backbone's output.
        feature_stride: Least stride of the maps, in pixels; at least 1.
        correlation: Arguments of :class:`~mmseg_acl.models.semi.correlation.Correlation` but its ``in_channels``.
        **kwargs: See :class:`FixMatch`. There is no teacher that would follow.

    Raises:
        ValueError: See :class:`FixMatch`; an argument outside what is allowed.
    """

    networks = ('student',)

    def __init__(
        self,
        segmentor: dict,
        threshold: float = 0.85,
        threshold_momentum: float = 0.999,
        most: float = 0.95,
        dropout: float = 0.5,
        regions: int = 128,
        feature_source: str | int = 'head',
        feature_stride: int = 8,
        correlation: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= threshold_momentum <= 1:
            raise ValueError(f'threshold_momentum is {threshold_momentum}; it must be in [0, 1]')
        if not 0 <= most < 1:
            raise ValueError(f'most is {most}; a confidence threshold is in [0, 1)')
        if not 0 < dropout < 1:
            raise ValueError(f'dropout is {dropout}; it is a share of channels, within (0, 1)')
        if regions < 1:
            raise ValueError(f'regions is {regions}; at least 1 row of a map has to be asked')
        if feature_stride < 1:
            raise ValueError(f'feature_stride is {feature_stride}; it must be at least 1 pixel')
        super().__init__(segmentor, threshold=threshold, **kwargs)
        del self.threshold
        self.register_buffer('threshold', torch.tensor(float(threshold)))  # it moves, and is resumed
        self.threshold_momentum, self.most, self.dropout, self.regions = threshold_momentum, most, dropout, regions
        self.feature_stride = feature_stride
        self.student_tap = FeatureTap(self.student, feature_source)
        self.correlation = Correlation(self.student_tap.channels, **(correlation or {}))

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg``; losses of the strong view and of dropped features; losses of carried logits; and scalars.

        ``kept_share`` is that of the pixels that are sure, ``spread_share`` of those that have a label after it has
        spread.
        """
        images, number = len(batch.weak), len(batch.labelled)

        student = self.run_student(batch, batch.weak, partial(with_dropped, images=images, prob=self.dropout))
        weak, dropped = student.logits.unlabelled.chunk(2)
        carried, maps = self.carried(student.logits.all[:-images], student.features.all[: number + images])

        prob = probabilities(weak.detach())
        self.move_threshold(prob, batch.valid)
        labels = hard_labels(prob, batch.valid, self.threshold)
        spread = self.spread(prob, batch.valid, maps[number:], self.grid(student.features.all, prob))

        boxes = self.cutmix.draw(batch.strong)
        mixed = [mix(x, boxes) for x in (batch.strong, spread, labels, prob, batch.valid)]
        strong_view, spread_mixed, labels_mixed, prob_mixed, valid = mixed
        with self.student_tap:
            strong = image_logits(self.student, strong_view)
        strong_carried, _ = self.carried(strong, self.student_tap.pop())

        weight = self.consistency_weight
        carried_loss = self.followed(strong_carried, spread_mixed, valid)
        carried_loss = carried_loss + self.followed(carried[number:], labels, batch.valid)
        return student.losses | {
            'loss_correlation_labelled': label_loss(carried[:number], true_labels(batch.samples)),
            'loss_consistency': weight * self.followed(strong, spread_mixed, valid) / 2,
            'loss_divergence': weight * sure_divergence(strong, prob_mixed, labels_mixed != IGNORE, valid) / 2,
            'loss_feature': weight * self.followed(dropped, labels, batch.valid) / 2,
            'loss_correlation': weight * carried_loss / 4,
            'kept_share': self.kept(prob, batch.valid),
            'spread_share': (spread != IGNORE).sum() / batch.valid.sum().clamp(min=1),
            'threshold': self.threshold.clone(),
        }

    def carried(self, logits: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C or 1, H, W), detached and carried along the maps of a feature, and these maps (B, N, N)."""
        grid = self.grid(feature, logits)
        maps = self.correlation(feature if feature.shape[2:] == grid else F.adaptive_avg_pool2d(feature, grid))
        return correlate(logits.detach(), maps, grid), maps.detach()

    def grid(self, feature: Tensor, images: Tensor) -> tuple[int, int]:
        """Height and width of the maps: those of the feature, or fewer."""
        sizes = zip(feature.shape[2:], images.shape[2:], strict=True)
        return tuple(min(side, max(whole // self.feature_stride, 1)) for side, whole in sizes)

    def move_threshold(self, prob: Tensor, valid: Tensor) -> None:
        """Move it towards the highest confidence of the predicted classes, up to ``most``."""
        highest = highest_confidence(prob, valid)
        if highest is not None:
            self.threshold.lerp_(highest.to(self.threshold), 1 - self.threshold_momentum).clamp_(max=self.most)

    def spread(self, prob: Tensor, valid: Tensor, maps: Tensor, grid: tuple[int, int]) -> Tensor:
        """Labels (U, H, W) of weak views after they have spread over regions; 255 where there is none.

        Args:
            prob: (U, C, H, W) probabilities.
            valid: (U, H, W) bool, false on padding.
            maps: (U, N, N) correlation maps; rows of each are drawn.
            grid: (h, w) of the maps.
        """
        confidence, labels = prob.max(dim=1)
        sure, found = (confidence >= self.threshold) & valid, []
        for i, rows in enumerate(maps):
            drawn = rows[torch.randperm(len(rows))[: self.regions].to(rows.device)]
            regions = correlated_regions(drawn, grid, labels.shape[1:]) & valid[i]
            found.append(propagate(labels[i], sure[i], regions, float(self.threshold), prob.shape[1]))
        return torch.stack(found)

    def followed(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """:func:`~mmseg_acl.models.losses.kept_loss` with this method's criterion."""
        return kept_loss(logits, labels, valid, self.criterion)
