"""One forward pass of a segmentor over labelled and unlabelled images together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmseg.models.utils import resize
from mmseg.utils import SampleList
from torch import Tensor, nn

from mmseg_acl.models.semi.feature_tap import by_class, dense_heads, head_list, is_pointwise, last_head

# Which output of a head with several is the one it predicts by; the first unless it stands here.
MAIN_OUTPUT = {'PIDHead': 1, 'IterativeDecodeHead': -1}


def slice_batch(outputs: Any, part: slice) -> Any:
    """Slice the batch of every tensor in nested lists, tuples and dicts."""
    if isinstance(outputs, Tensor):
        return outputs[part]
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(slice_batch(item, part) for item in outputs)
    if isinstance(outputs, dict):
        return {key: slice_batch(item, part) for key, item in outputs.items()}
    return outputs


def main_logits(head: nn.Module, outputs: Any) -> Tensor:
    """The logits (B, C, h, w) that ``head`` predicts by, out of whatever its forward returns."""
    if isinstance(outputs, Tensor):
        return outputs
    return main_logits(head, outputs[by_class(MAIN_OUTPUT, head, default=0)])


def sum_losses(losses: dict[str, Any]) -> Tensor:
    """Total of the entries that mmengine would sum up: those with ``loss`` in their key."""
    total = 0
    for key, value in losses.items():
        if 'loss' in key:
            total = total + sum(v.mean() for v in (value if isinstance(value, list) else [value]))
    return total


def check_labels(head: nn.Module, samples: SampleList) -> None:
    """Refuse labels that ``head`` cannot learn from.

    Raises:
        ValueError: PIDNet's head learns boundaries too, and the pipeline makes none.
    """
    if hasattr(head, 'd_head') and not all('gt_edge_map' in sample for sample in samples):
        raise ValueError(
            f"{type(head).__name__} needs the labels' edges: put dict(type='GenerateEdge', edge_width=4) into the "
            'pipeline of the labelled data set, after the geometry'
        )


def full_image_metas(images: Tensor) -> list[dict]:
    """Meta information of images (B, 3, H, W) that are neither crops nor padded, as ``encode_decode`` wants it."""
    shape = tuple(images.shape[2:])
    return [dict(ori_shape=shape, img_shape=shape, pad_shape=shape, padding_size=[0] * 4) for _ in images]


def decode(segmentor: nn.Module, features: Any, size: tuple[int, int]) -> Tensor:
    """Logits (B, C, H, W) of a segmentor's decode head, plain or cascade, for features that are given.

    Args:
        segmentor: An mmseg encoder-decoder.
        features: What its ``extract_feat`` gives out, changed or not.
        size: (H, W).
    """
    first, *later = dense_heads(segmentor)
    outputs = first(features)
    for head in later:
        outputs = head(features, outputs)
    return logits_at(size, last_head(segmentor), outputs)


def logits_at(size: tuple[int, int], head: nn.Module, outputs: Any) -> Tensor:
    """The logits that ``head`` predicts by, (B, C, H, W) with (H, W) = ``size``."""
    return resize(main_logits(head, outputs), size=size, mode='bilinear', align_corners=head.align_corners)


def joint_pass(
    segmentor: nn.Module,
    labelled: Tensor,
    samples: SampleList,
    unlabelled: Tensor,
    perturb: Callable[[Any], Any] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Supervised losses of the labelled images and logits of all, from one pass where the heads allow it.

    BatchNorm sees both kinds of image in one batch, and one pass is faster than two. A head that classifies
    sampled points alone (PointRend's) learns from the labelled part; it refines what is predicted, and the
    logits are those of the stage before it.

    Args:
        segmentor: An mmseg encoder-decoder, plain or cascade.
        labelled: (L, 3, H, W).
        samples: L data samples with ``gt_sem_seg``.
        unlabelled: (U, 3, H, W).
        perturb: Takes the features of all images, the labelled first, as ``extract_feat`` gives them out, and
            returns those that the heads are to see.

    Returns:
        ``loss_seg`` (Eq. 14, all stages), ``loss_aux`` where there are auxiliary heads, ``acc_seg``; and the
        main logits (L + U, C, H, W), in the order of the images.

    Raises:
        ValueError: See :func:`check_labels`.
    """
    images = torch.cat([labelled, unlabelled])
    here = slice(0, len(labelled))
    features = segmentor.extract_feat(images)
    if perturb is not None:
        features = perturb(features)
    stages: dict[str, Tensor] = {}
    outputs = None
    for i, head in enumerate(head_list(segmentor.decode_head)):
        check_labels(head, samples)
        if is_pointwise(head):
            found = head.loss(*slice_batch((features, outputs), here), samples, segmentor.train_cfg)
        else:
            earlier = () if i == 0 else (outputs,)  # the next stage of a cascade takes what the last gave out
            outputs = head(features, *earlier)
            found = head.loss_by_feat(slice_batch(outputs, here), samples)
        stages.update({f'{i}.{key}': value for key, value in found.items()})
    losses = {'loss_seg': sum_losses(stages)}
    losses.update({key.split('.')[1]: value for key, value in stages.items() if key.endswith('acc_seg')})
    if segmentor.with_auxiliary_head:
        found = [
            sum_losses(head.loss(slice_batch(features, here), samples, segmentor.train_cfg))
            for head in head_list(segmentor.auxiliary_head)
        ]
        losses['loss_aux'] = sum(found)
    return losses, logits_at(images.shape[2:], last_head(segmentor), outputs)
