"""One forward pass of a segmentor over labelled and unlabelled images together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mmseg.models.utils import resize
from mmseg.utils import SampleList
from torch import Tensor, nn

from mmseg_acl.models.semi.head_families import dense_heads, family_of, head_list, is_pointwise, last_head


def slice_batch(outputs: Any, part: slice) -> Any:
    """Slice the batch of every tensor in nested lists, tuples and dicts."""
    if isinstance(outputs, Tensor):
        return outputs[part]
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(slice_batch(item, part) for item in outputs)
    if isinstance(outputs, dict):
        return {key: slice_batch(item, part) for key, item in outputs.items()}
    return outputs


def join_batches(*outputs: Any) -> Any:
    """Concatenate the batches of every tensor in nested lists and tuples of the same structure."""
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)
    return [join_batches(*parts) for parts in zip(*outputs, strict=True)]


class Parts(NamedTuple):
    """What was made of labelled and of unlabelled images together.

    Attributes:
        all: A tensor, or nested lists, tuples and dicts of them; the labelled images come first in each.
        num_labelled: L, how many these are.
    """

    all: Any
    num_labelled: int

    @property
    def labelled(self) -> Any:
        """The same of the labelled images."""
        return slice_batch(self.all, slice(None, self.num_labelled))

    @property
    def unlabelled(self) -> Any:
        """The same of the unlabelled images."""
        return slice_batch(self.all, slice(self.num_labelled, None))


class StudentPass(NamedTuple):
    """What a student makes of L labelled and U unlabelled images.

    Attributes:
        losses: Supervised losses: ``loss_seg`` (Eq. 14, all stages), ``loss_aux`` where there are auxiliary heads,
            ``acc_seg``.
        logits: (L + U, C or 1, H, W), those that it predicts by.
        encoded: The features that the heads saw: what ``extract_feat`` gave out, changed by ``perturb`` if any.
        features: (L + U, channels, h, w) of the method's tap; None where it has none.
    """

    losses: dict[str, Tensor]
    logits: Parts
    encoded: Parts
    features: Parts | None = None


def main_logits(head: nn.Module, outputs: Any) -> Tensor:
    """The logits (B, C, h, w) that ``head`` predicts by, out of whatever its forward returns."""
    if isinstance(outputs, Tensor):
        return outputs
    return main_logits(head, outputs[family_of(head).main_output])


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
    if family_of(head).needs_edges and not all('gt_edge_map' in sample for sample in samples):
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


def image_logits(segmentor: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, C or 1, H, W) of images (B, 3, H, W) in the mode that the segmentor is in, with their gradient."""
    return decode(segmentor, segmentor.extract_feat(images), images.shape[2:])


def logits_at(size: tuple[int, int], head: nn.Module, outputs: Any) -> Tensor:
    """The logits that ``head`` predicts by, (B, C, H, W) with (H, W) = ``size``."""
    return resize(main_logits(head, outputs), size=size, mode='bilinear', align_corners=head.align_corners)


def joint_pass(
    segmentor: nn.Module,
    labelled: Tensor,
    samples: SampleList,
    unlabelled: Tensor,
    perturb: Callable[[Any], Any] | None = None,
) -> StudentPass:
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
            returns those that the heads are to see. It may append features, which count as unlabelled images.

    Returns:
        All but ``features``, which a method taps.

    Raises:
        ValueError: See :func:`check_labels`.
    """
    images, num_labelled = torch.cat([labelled, unlabelled]), len(labelled)
    features = segmentor.extract_feat(images)
    if perturb is not None:
        features = perturb(features)
    encoded = Parts(features, num_labelled)
    stages: dict[str, Tensor] = {}
    outputs = None
    for i, head in enumerate(head_list(segmentor.decode_head)):
        check_labels(head, samples)
        if is_pointwise(head):
            found = head.loss(encoded.labelled, Parts(outputs, num_labelled).labelled, samples, segmentor.train_cfg)
        else:
            earlier = () if i == 0 else (outputs,)  # the next stage of a cascade takes what the last gave out
            outputs = head(features, *earlier)
            found = head.loss_by_feat(Parts(outputs, num_labelled).labelled, samples)
        stages.update({f'{i}.{key}': value for key, value in found.items()})
    losses = {'loss_seg': sum_losses(stages)}
    losses.update({key.split('.')[1]: value for key, value in stages.items() if key.endswith('acc_seg')})
    if segmentor.with_auxiliary_head:
        found = [
            sum_losses(head.loss(encoded.labelled, samples, segmentor.train_cfg))
            for head in head_list(segmentor.auxiliary_head)
        ]
        losses['loss_aux'] = sum(found)
    logits = logits_at(images.shape[2:], last_head(segmentor), outputs)
    return StudentPass(losses, Parts(logits, num_labelled), encoded)
