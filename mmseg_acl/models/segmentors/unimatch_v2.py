"""UniMatch V2: pushing the limit of semi-supervised semantic segmentation (Yang, Zhao and Zhao, TPAMI 2025)."""

from __future__ import annotations

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_acl.models.segmentors.fixmatch import FixMatch
from mmseg_acl.models.segmentors.semi_supervised import SemiBatch
from mmseg_acl.models.semi.feature_dropout import complementary_dropout
from mmseg_acl.models.semi.joint_pass import join_batches, slice_batch
from mmseg_acl.models.semi.pseudo_label import probabilities


@MODELS.register_module()
class UniMatchV2(FixMatch):
    """An EMA teacher labels the weak view; two strong views follow it, each with the channels the other lacks.

    Both perturbations of UniMatch in one stream: strong colours and CutMix on the image, complementary channel
    dropout (:func:`~mmseg_acl.models.semi.feature_dropout.complementary_dropout`) on the feature. Either view weighs
    one half.

    Its home is DINOv2, all of whose levels have the same width and share one draw; the levels of a convolutional
    encoder differ, and each width draws its own. Else ours is as in :class:`FixMatch`.

    Cost: the student sees L + 2 U images forward and backward, the teacher U.

    Example, a config that trains it on one's own segmentor::

        _base_ = ['../_base_/networks/mbv2.py', '../_base_/methods/unimatch_v2_128.py', ...]
        model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
        train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=_base_.two_views_pipeline)))

    Arguments and errors are those of :class:`FixMatch`.
    """

    def semi_supervised_loss(self, batch: SemiBatch) -> dict[str, Tensor]:
        """``loss_seg``, ``loss_consistency``, and ``kept_share``, the share of pixels above the threshold."""
        first, second = batch.two_strong_views()
        images = len(batch.weak)
        prob = probabilities(self.run_teacher(batch.weak))
        (first, *label_one), (second, *label_two) = (self.mixed(view, prob, batch.valid) for view in (first, second))

        def drop(features: list) -> list:
            rest, views = slice_batch(features, slice(-2 * images)), slice_batch(features, slice(-2 * images, None))
            return join_batches(rest, complementary_dropout(views))

        losses, logits, *_ = self.run_student(batch, torch.cat([first, second]), drop)
        one, two = logits.unlabelled.chunk(2)
        strong = self.confident(one, *label_one) + self.confident(two, *label_two)
        losses['loss_consistency'] = self.consistency_weight * strong / 2
        losses['kept_share'] = self.kept(prob, batch.valid)
        return losses
