"""The affinity of labelled images, taught by their masks: ACL-Net+ and supervised_plus share it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from mmseg_acl.models.losses import affinity_loss, no_loss
from mmseg_acl.models.segmentors.semi_supervised import SemiSupervisedSegmentor
from mmseg_acl.models.semi.collapse import CollapseWatch
from mmseg_acl.models.semi.feature_tap import FeatureTap
from mmseg_acl.models.semi.pseudo_label import IGNORE, one_hot, true_labels

# A labelled cell with this share of one class counts as that class.
_PURE = 0.9


class LabelledAffinitySegmentor(SemiSupervisedSegmentor):
    """A base for methods with an affinity head (Eq. 1 of ACL-Net) on a feature of the student.

    Whatever a method does with the affinity of unlabelled images, that of labelled ones can be taught: of each pair
    of pixels the masks say whether both are of one class. No paper of the methods here has this loss.

    Args:
        segmentor: Config of an mmseg segmentor.
        affinity: Arguments of the ``AffinityHead`` but its ``in_channels``, which follow from the source.
        affinity_weight: Weight of :func:`~mmseg_acl.models.losses.affinity_loss` on labelled images, at least 0.
        feature_source: ``'head'`` for the feature before the classifier, or the index of a backbone's output.
        feature_stride: Stride at which affinities are computed; features are resized to it.
        **kwargs: See :class:`SemiSupervisedSegmentor`.
    """

    def __init__(
        self,
        segmentor: dict,
        affinity: dict | None = None,
        affinity_weight: float = 0.0,
        feature_source: str | int = 'head',
        feature_stride: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(segmentor, **kwargs)
        self.student_tap = FeatureTap(self.student, feature_source)
        self.affinity_config = dict(affinity or {}, type='AffinityHead', in_channels=self.student_tap.channels)
        self.affinity_head = MODELS.build(self.affinity_config)
        self.affinity_weight, self.feature_stride = affinity_weight, feature_stride
        self.collapse = CollapseWatch()

    def supervised_loss(self, images: Tensor, samples: SampleList) -> dict[str, Tensor]:
        """Losses on labelled images (L, 3, H, W) alone, ``loss_affinity`` among them where it has a weight."""
        with self.student_tap:
            losses = super().supervised_loss(images, samples)
        feature = self.student_tap.pop()
        if self.teaches_affinity:
            losses['loss_affinity'] = self.labelled_affinity_loss(feature, samples)
        return losses

    def labelled_affinity_loss(self, features: Tensor, samples: SampleList) -> Tensor:
        """How far the student's affinity of labelled images is from what their masks say of each pair of pixels.

        Cells that a polyp's boundary crosses say nothing.

        Args:
            features: (B, C, h, w) of the student, resized where it is not on the grid of the affinity.
            samples: B data samples with ``gt_sem_seg``.

        Returns:
            A scalar, times ``affinity_weight``.
        """
        truth = true_labels(samples)
        maps = one_hot(truth, self.student.num_classes).to(features)
        shares, valid = self._pixels(maps, truth != IGNORE)
        members = shares > _PURE
        members[..., 0] = shares[..., 1:].sum(-1) < 1 - _PURE
        affinity = self.affinity_head(self._on_grid(features, maps), valid)
        self.collapse.look(affinity.map, valid, self.iteration)
        loss = self.affinity_weight * affinity_loss(affinity.map, members & valid[..., None])
        # The vectors of Eq. 1 have no loss where there is no contrast.
        return loss + no_loss(self.affinity_head)

    @property
    def teaches_affinity(self) -> bool:
        """Whether masks teach the affinity of labelled images."""
        return self.affinity_weight > 0

    def _grid(self, images: Tensor) -> tuple[int, int]:
        """Height and width of the affinity's grid."""
        return images.shape[2] // self.feature_stride, images.shape[3] // self.feature_stride

    def _on_grid(self, feature: Tensor, images: Tensor) -> Tensor:
        """A feature (B, C, h, w), resized where it is not at the stride of the affinity."""
        grid = self._grid(images)
        if feature.shape[2:] == grid:
            return feature
        return F.interpolate(feature, size=grid, mode='bilinear', align_corners=False)

    def _pixels(self, prob: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (B, N, C) and validity (B, N) of the grid's pixels."""
        grid = self._grid(prob)
        prob_on_grid = F.adaptive_avg_pool2d(prob, grid).flatten(2).transpose(1, 2)
        return prob_on_grid, F.adaptive_avg_pool2d(valid.to(prob), grid).flatten(1) >= 0.5
