"""BCP: bidirectional copy-paste (Bai et al., CVPR 2023)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from mmseg_acl.models.losses import no_loss, pseudo_label_loss
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch, SemiSupervisedSegmentor
from mmseg_acl.models.semi.joint_pass import image_logits
from mmseg_acl.models.semi.mixing import relabelled
from mmseg_acl.models.semi.pseudo_label import IGNORE, hard_labels, one_hot, probabilities, true_labels


@MODELS.register_module()
class BCP(SemiSupervisedSegmentor):
    """Labelled and unlabelled images are pasted into each other, so that both are learnt in one picture.

    One box a batch, two thirds of the height and of the width, shows the labelled image in the unlabelled one
    ("inward") and the reverse ("outward"). Each region has a cross-entropy and a Dice loss of its own, means over the
    region; labelled regions weigh 1, unlabelled ones ``consistency_weight``. An EMA teacher labels the unlabelled
    images; with ``largest_component`` each class keeps its largest connected part alone, which mends stray pixels and
    drops second polyps. During the warm-up labelled images are pasted into each other.

    Ours: every image is in both mixtures, where the public code halves the batch. The head's own losses, and those of
    auxiliary heads, are at work during the warm-up alone: afterwards no picture is labelled as a whole.

    Cost: the student sees 2 U images forward and backward, the teacher U.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/bcp_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)

    Args:
        segmentor: Config of an mmseg segmentor.
        consistency_weight: Weight of unlabelled regions.
        box: Sides of the box as a share of the image's, within (0, 1).
        largest_component: Whether labels keep the largest connected part of each foreground class alone.
        **kwargs: See :class:`SemiSupervisedSegmentor`.

    Raises:
        ValueError: A box outside what is allowed.
    """

    def __init__(
        self,
        segmentor: dict,
        consistency_weight: float = 0.5,
        box: float = 2 / 3,
        largest_component: bool = False,
        teacher_momentum: float = 0.99,
        **kwargs: Any,
    ) -> None:
        if not 0 < box < 1:
            raise ValueError(f"box is {box}; it is a share of the image's sides, within (0, 1)")
        super().__init__(segmentor, teacher_momentum=teacher_momentum, **kwargs)
        self.consistency_weight, self.box, self.largest_component = consistency_weight, box, largest_component

    def supervised_loss(self, images: Tensor, samples: SampleList) -> dict[str, Tensor]:
        """Losses of the warm-up: each labelled image with a box of the one before it in the batch."""
        inside, truth = self.draw_box(images), true_labels(samples)
        images = torch.where(inside, images.roll(1, dims=0), images)
        truth = torch.where(inside[:, 0], truth.roll(1, dims=0), truth)
        return super().supervised_loss(images, relabelled(samples, truth))

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg`` (labelled regions of both mixtures) and ``loss_consistency`` (unlabelled ones)."""
        labels = hard_labels(probabilities(self.run_teacher(batch.weak)), batch.valid)
        if self.largest_component:
            labels = largest_components(labels)
        # Labelled images come round again where there are fewer of them.
        partner = torch.arange(len(batch.weak), device=labels.device) % len(batch.labelled)
        labelled, truth = batch.labelled[partner], true_labels(batch.samples)[partner]

        inside = self.draw_box(batch.weak)
        inward = torch.where(inside, labelled, batch.weak)
        outward = torch.where(inside, batch.weak, labelled)
        first, second = image_logits(self.student, torch.cat([inward, outward])).chunk(2)

        inside = inside[:, 0]
        known = region_loss(first, truth, inside) + region_loss(second, truth, ~inside)
        guessed = region_loss(first, labels, ~inside) + region_loss(second, labels, inside)
        waiting = no_loss(*[part for part in self.student.children() if part is not self.student.decode_head])
        return dict(loss_seg=known + waiting, loss_consistency=self.consistency_weight * guessed)

    def draw_box(self, images: Tensor) -> Tensor:
        """One box for all images (B, 3, H, W): a mask (1, 1, H, W), true inside."""
        height, width = images.shape[2:]
        h, w = (max(1, int(side * self.box)) for side in (height, width))
        y, x = (int(torch.randint(side - length + 1, ())) for side, length in ((height, h), (width, w)))
        mask = torch.zeros(1, 1, height, width, dtype=torch.bool, device=images.device)
        mask[..., y : y + h, x : x + w] = True
        return mask


def region_loss(logits: Tensor, labels: Tensor, region: Tensor) -> Tensor:
    """Cross-entropy plus Dice over one region, mean over its pixels that have a label.

    Args:
        logits: (B, C or 1, H, W) of the student.
        labels: (B, H, W) class indices, 255 where they are unknown.
        region: (1, H, W) bool.
    """
    labels = labels.masked_fill(~region, IGNORE)
    return pseudo_label_loss(logits.float(), one_hot(labels, max(logits.shape[1], 2)), labels)


def largest_components(labels: Tensor) -> Tensor:
    """Labels (B, H, W) in which each foreground class keeps its largest 8-connected part; the rest is background.

    Args:
        labels: Class indices, 0 background; 255 stays.
    """
    kept = labels.cpu().numpy().copy()
    for image in kept:
        for label in np.unique(image[(image > 0) & (image != IGNORE)]):
            count, parts, stats, _ = cv2.connectedComponentsWithStats(
                (image == label).astype(np.uint8), connectivity=8
            )
            if count > 2:
                largest = 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
                image[(parts > 0) & (parts != largest)] = 0
    return torch.from_numpy(kept).to(labels)
