"""What has to be known of mmseg's families of decode heads, beyond what all of them have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

Catch = Callable[[Tensor], None]


def head_list(heads: nn.Module) -> list[nn.Module]:
    """The stages of a cascade, or several auxiliary heads; a single head as a list of one."""
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def is_pointwise(head: nn.Module) -> bool:
    """Whether a head classifies sampled points, not all pixels (PointRend's, the last of a cascade)."""
    return hasattr(head, 'get_points_train')


def dense_heads(segmentor: nn.Module) -> list[nn.Module]:
    """The decode heads that give logits for all pixels, in the order of the cascade."""
    return [head for head in head_list(segmentor.decode_head) if not is_pointwise(head)]


def last_head(segmentor: nn.Module) -> nn.Module:
    """The head that predicts: the last stage of a cascade that gives dense logits, else the decode head."""
    return dense_heads(segmentor)[-1]


def reading_head(segmentor: nn.Module) -> nn.Module:
    """The head that reads the features for the one that predicts: that one itself, but for K-Net's."""
    head = last_head(segmentor)
    return getattr(head, 'kernel_generate_head', head)


# ---------------------------------------------------------------- where the last feature of a head is


def tap_classifier(segmentor: nn.Module, head: nn.Module, catch: Catch) -> int:
    """Have ``catch`` called with the input of ``cls_seg``: of dropout, where there is one, or of ``conv_seg``.

    Returns:
        Channels of that feature.

    Raises:
        ValueError: The head has no ``conv_seg``.
    """
    if not isinstance(getattr(head, 'conv_seg', None), nn.Conv2d):
        raise ValueError(
            f'{type(head).__name__} has no conv_seg, so the feature before its classifier is unknown; '
            'use a head derived from BaseDecodeHead that classifies by cls_seg, or give feature_source the index '
            "of one of the backbone's outputs"
        )
    (head.dropout or head.conv_seg).register_forward_pre_hook(lambda module, args: catch(args[0]))
    return head.conv_seg.in_channels


def tap_kernel_generator(segmentor: nn.Module, head: nn.Module, catch: Catch) -> int:
    """K-Net: its kernels, of every stage, are applied to the feature that its first head classifies."""
    return tap_classifier(segmentor, head.kernel_generate_head, catch)


def tap_patches(segmentor: nn.Module, head: nn.Module, catch: Catch) -> int:
    """Segmenter: the patches' embeddings (B, N, D), which are compared with the classes', put on their grid.

    mmseg calls ``head.forward`` directly when it predicts, which passes by the hooks of the head itself; the
    grid is therefore that of the head's input.
    """
    grid: list[int] = []

    def note_grid(module: nn.Module, args: tuple, features: Any) -> None:
        grid[:] = head._transform_inputs(features).shape[2:]

    def catch_patches(module: nn.Module, args: tuple, patches: Tensor) -> None:
        catch(patches.transpose(1, 2).unflatten(2, grid))

    (segmentor.neck if segmentor.with_neck else segmentor.backbone).register_forward_hook(note_grid)
    head.patch_proj.register_forward_hook(catch_patches)
    return head.patch_proj.out_features


# ---------------------------------------------------------------- the table


class HeadFamily(NamedTuple):
    """In what a family of heads differs; the defaults are those of mmseg's ``BaseDecodeHead``.

    Attributes:
        tap: Finds the feature before the classifier: given segmentor, head and what is to be called with the
            feature (B, channels, h, w), it returns its channels.
        main_output: Of a head that gives out several logits, which it predicts by.
        one_channel: Whether it works with one channel and a sigmoid. Some give out one channel a class whatever
            ``out_channels`` says; the losses of others do not ignore padding then.
        same_features: Whether its backbone gives out the same features in training and in ``eval`` mode.
        needs_edges: Whether it learns the labels' edges, which the pipeline has to draw.
    """

    tap: Callable[[nn.Module, nn.Module, Catch], int] = tap_classifier
    main_output: int = 0
    one_channel: bool = True
    same_features: bool = True
    needs_edges: bool = False


# By name, as some of these classes are missing in some versions of mmseg. A head that stands here neither by its own
# class nor by a base of it is like most.
HEAD_FAMILIES = {
    'DDRHead': HeadFamily(one_channel=False, same_features=False),
    'IterativeDecodeHead': HeadFamily(tap=tap_kernel_generator, main_output=-1, one_channel=False),
    'PIDHead': HeadFamily(main_output=1, one_channel=False, same_features=False, needs_edges=True),
    'SegmenterMaskTransformerHead': HeadFamily(tap=tap_patches, one_channel=False),
}


def family_of(head: nn.Module) -> HeadFamily:
    """The family of a head, by its class or the nearest of its bases that stands in the table."""
    names = (cls.__name__ for cls in type(head).__mro__)
    return next((HEAD_FAMILIES[name] for name in names if name in HEAD_FAMILIES), HeadFamily())
