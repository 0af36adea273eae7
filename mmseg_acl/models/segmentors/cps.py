"""CPS: cross pseudo supervision (Chen et al., CVPR 2021)."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor, nn

from mmseg_acl.models.losses import label_loss, pseudo_label_loss
from mmseg_acl.models.segmentors.paired import PairedSegmentor
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch
from mmseg_acl.models.semi.joint_pass import image_logits
from mmseg_acl.models.semi.mixing import BoxMix, mix
from mmseg_acl.models.semi.pair import summed_losses
from mmseg_acl.models.semi.pseudo_label import hard_labels, probabilities
from mmseg_acl.models.semi.wrapping import unwrapped


@MODELS.register_module()
class CPS(PairedSegmentor):
    """Two networks with the same pre-training and heads of their own; each learns the other's labels.

    There is no average and no threshold: ``L = sum of both supervised losses + w (CE(p1, y2) + CE(p2, y1))``. Either
    network labels the weak views without a gradient, in training mode; images and labels are mixed by the same boxes,
    three an image, and the other network learns them. The first network is the one that predicts.

    Networks that start alike stay alike, and would teach each other what they know: :meth:`init_weights` refuses
    them. A plain checkpoint of a segmentor, given by ``load_from``, fills both alike; give its encoder as
    ``segmentor.backbone.init_cfg`` instead.

    Ours: the student sees strong colours, where the paper has the boxes alone; the labels of the weak views serve
    them; ``dice`` adds the Dice loss with the other's probabilities, since with two classes both begin with all
    background. A warm-up on labelled images keeps them from agreeing on that.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/cps_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)

    Args:
        segmentor: Config of an mmseg segmentor; both networks are built from it.
        consistency_weight: Weight of the cross pseudo supervision.
        dice: Whether to add the Dice loss to it.
        boxes: Changes of the arguments of :class:`~mmseg_acl.models.semi.mixing.BoxMix`.
        **kwargs: See :class:`SemiSupervisedSegmentor`.
    """

    networks = ('first', 'second')

    def __init__(
        self,
        segmentor: dict,
        consistency_weight: float = 1.0,
        dice: bool = False,
        boxes: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(segmentor, **kwargs)
        self.consistency_weight, self.dice, self.boxes = consistency_weight, dice, BoxMix(**(boxes or {}))

    @property
    def first(self) -> nn.Module:
        """The network that predicts."""
        return unwrapped(self.segmentors).first

    @property
    def second(self) -> nn.Module:
        """The other one."""
        return unwrapped(self.segmentors).second

    def init_weights(self) -> None:
        """Initialise both.

        Raises:
            ValueError: They came out alike.
        """
        super().init_weights()
        pairs = zip(self.first.parameters(), self.second.parameters(), strict=True)
        if all(torch.equal(one, two) for one, two in pairs):
            raise ValueError(
                'both networks of CPS start with the same weights, so that neither could ever teach the other: let '
                'init_cfg name pre-trained weights for the backbone alone, so that each head draws its own'
            )

    def supervised_loss(self, images: Tensor, samples: SampleList) -> dict[str, Tensor]:
        """``loss_seg`` of both networks."""
        return summed_losses(*(found.losses for found in self.segmentors(images, samples, images[:0])))

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg`` of both networks, ``loss_consistency``, and ``agreement``, the share of equal labels."""
        boxes = self.boxes.draw(batch.weak)
        strong, valid = mix(batch.strong, boxes), mix(batch.valid, boxes)
        prob = [mix(self.label(network, batch.weak), boxes) for network in (self.first, self.second)]
        labels = [hard_labels(one, valid) for one in prob]

        first, second = self.segmentors(batch.labelled, batch.samples, strong)
        losses = summed_losses(first.losses, second.losses)
        lessons = zip((first, second), reversed(prob), reversed(labels), strict=True)
        losses['loss_consistency'] = self.consistency_weight * sum(
            pseudo_label_loss(own.logits.unlabelled, other, label)
            if self.dice
            else label_loss(own.logits.unlabelled, label)
            for own, other, label in lessons
        )
        losses['agreement'] = ((labels[0] == labels[1]) & valid).sum() / valid.sum().clamp(min=1)
        return losses

    @torch.no_grad()
    def label(self, network: nn.Module, images: Tensor) -> Tensor:
        """Probabilities (U, C, H, W) of a network for weak views, in the mode that it is trained in."""
        return probabilities(image_logits(network, images))
