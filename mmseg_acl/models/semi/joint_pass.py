"""One forward pass of a segmentor over labelled and unlabelled images together."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models.utils import resize
from mmseg.utils import SampleList
from torch import Tensor, nn

from mmseg_acl.models.semi.feature_tap import last_head

# Which output of a head with several is the one it predicts by; the first unless it stands here.
MAIN_OUTPUT = {'PIDHead': 1, 'IterativeDecodeHead': -1}


def take(outputs: Any, part: slice) -> Any:
    """Slice the batch of every tensor in nested lists, tuples and dicts."""
    if isinstance(outputs, Tensor):
        return outputs[part]
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(take(item, part) for item in outputs)
    if isinstance(outputs, dict):
        return {key: take(item, part) for key, item in outputs.items()}
    return outputs


def head_list(heads: nn.Module) -> list[nn.Module]:
    """The stages of a cascade, or several auxiliary heads; a single head as a list of one."""
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def main_logits(head: nn.Module, outputs: Any) -> Tensor:
    """The logits (B, C, h, w) that ``head`` predicts by, out of whatever its forward returns."""
    if isinstance(outputs, Tensor):
        return outputs
    index = next((MAIN_OUTPUT[c.__name__] for c in type(head).__mro__ if c.__name__ in MAIN_OUTPUT), 0)
    return main_logits(head, outputs[index])


def sum_losses(losses: dict[str, Any]) -> Tensor:
    """Total of the entries that mmengine would sum up: those with ``loss`` in their key."""
    total = 0
    for key, value in losses.items():
        if 'loss' in key:
            total = total + sum(v.mean() for v in (value if isinstance(value, list) else [value]))
    return total


def needs_features(head: nn.Module) -> bool:
    """Whether the head's loss takes more than its logits (PointRend), so that one pass cannot serve."""
    return hasattr(head, 'get_points_train')


def joint_pass(
    segmentor: nn.Module, labelled: Tensor, samples: SampleList, unlabelled: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Supervised losses of the labelled images and logits of all, from one pass where the heads allow it.

    BatchNorm sees both kinds of image in one batch, and one pass is faster than two. Heads whose loss needs
    more than their logits get a pass for each part.

    Args:
        segmentor: An mmseg encoder-decoder, plain or cascade.
        labelled: (L, 3, H, W).
        samples: L data samples with ``gt_sem_seg``.
        unlabelled: (U, 3, H, W).

    Returns:
        ``loss_seg`` (Eq. 14, all stages), ``loss_aux`` where there are auxiliary heads, ``acc_seg``; and the
        main logits (L + U, C, H, W), in the order of the images.
    """
    images = torch.cat([labelled, unlabelled])
    here = slice(0, len(labelled))
    features = segmentor.extract_feat(images)
    heads = head_list(segmentor.decode_head)
    stages: dict[str, Tensor] = {}
    outputs = None
    for i, head in enumerate(heads):
        earlier = () if i == 0 else (outputs,)  # the next stage of a cascade takes what the last gave out
        outputs = head(features, *earlier)
        if needs_features(head):
            found = head.loss(*take((features, *earlier), here), samples, segmentor.train_cfg)
        else:
            found = head.loss_by_feat(take(outputs, here), samples)
        stages.update({f'{i}.{key}': value for key, value in found.items()})
    losses = {'loss_seg': sum_losses(stages)}
    losses.update({key.split('.')[1]: value for key, value in stages.items() if key.endswith('acc_seg')})
    if segmentor.with_auxiliary_head:
        found = [
            sum_losses(head.loss(take(features, here), samples, segmentor.train_cfg))
            for head in head_list(segmentor.auxiliary_head)
        ]
        losses['loss_aux'] = sum(found)
    head = last_head(segmentor)
    logits = resize(
        main_logits(head, outputs),
        size=images.shape[2:],
        mode='bilinear',
        align_corners=head.align_corners,
    )
    return losses, logits
