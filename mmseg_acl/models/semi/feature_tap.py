"""A segmentor's features, caught on their way: before its classifier or after a stage of its backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
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


def by_class(table: dict[str, Any], module: nn.Module, default: Any) -> Any:
    """The entry of ``table`` for the class of ``module`` or the nearest of its bases.

    Tables of heads name classes instead of importing them: some are missing in some versions of mmseg.
    """
    return next((table[c.__name__] for c in type(module).__mro__ if c.__name__ in table), default)


# ---------------------------------------------------------------- where the last feature of a head is


def _tap_classifier(segmentor: nn.Module, head: nn.Module, catch: Catch) -> int:
    """The rule: the input of ``cls_seg``, which is dropout, where there is one, and ``conv_seg``."""
    if not isinstance(getattr(head, 'conv_seg', None), nn.Conv2d):
        raise ValueError(
            f'{type(head).__name__} has no conv_seg, so the feature before its classifier is unknown; '
            'use a head derived from BaseDecodeHead that classifies by cls_seg, or give feature_source the index '
            "of one of the backbone's outputs"
        )
    (head.dropout or head.conv_seg).register_forward_pre_hook(lambda module, args: catch(args[0]))
    return head.conv_seg.in_channels


def _tap_kernel_generator(segmentor: nn.Module, head: nn.Module, catch: Catch) -> int:
    """K-Net: its kernels, of every stage, are applied to the feature that its first head classifies."""
    return _tap_classifier(segmentor, head.kernel_generate_head, catch)


def _tap_patches(segmentor: nn.Module, head: nn.Module, catch: Catch) -> int:
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


# Heads for which the rule, _tap_classifier, does not hold.
TAPS = {
    'IterativeDecodeHead': _tap_kernel_generator,
    'SegmenterMaskTransformerHead': _tap_patches,
}


class FeatureTap:
    """Catch a feature of a forward pass, while used as a context.

    By default it is the input of the classifier, before the head's dropout: student and teacher features are
    alike only there, since the student applies dropout and the teacher does not. So the hook stands on the
    dropout where there is one, else on ``conv_seg``; heads that classify in another way stand in ``TAPS``::

        with tap:
            segmentor(images)
        feature = tap.pop()

    Args:
        segmentor: An mmseg segmentor.
        source: ``'head'`` for the feature before the classifier of the last decode head, or the index of one
            of the backbone's outputs.

    Attributes:
        channels: Channels of the feature.

    Raises:
        ValueError: It is not known where the head has its feature, or the backbone has no such output.
    """

    def __init__(self, segmentor: nn.Module, source: str | int = 'head') -> None:
        self._listening = False
        self._feature: Tensor | None = None
        if source == 'head':
            head = last_head(segmentor)
            self.channels: int = by_class(TAPS, head, _tap_classifier)(segmentor, head, self._catch)
        elif isinstance(source, int):
            self.channels = self._tap_backbone(segmentor.backbone, source)
        else:
            raise ValueError(f"the source of features is {source!r}; allowed are 'head' and the index of a stage")

    def _tap_backbone(self, backbone: nn.Module, stage: int) -> int:
        # Backbones do not say how many channels they give out, so one small image asks.
        training = backbone.training
        backbone.eval()
        with torch.no_grad():
            outputs = backbone(torch.zeros(1, 3, 64, 64))
        backbone.train(training)
        # Some give out nothing but the last feature in eval mode (DDRNet, PIDNet), others pairs of a
        # feature and a class token (the ViT of DPT).
        stages = outputs if isinstance(outputs, (list, tuple)) else []
        usable = [i for i, feature in enumerate(stages) if isinstance(feature, Tensor) and feature.ndim == 4]
        if stage not in usable:
            raise ValueError(
                f'the source of features is stage {stage}; {type(backbone).__name__} gives out feature maps at '
                f"{', '.join(map(str, usable)) or 'no stage'}: give one of these or 'head'"
            )
        backbone.register_forward_hook(lambda module, args, outputs: self._catch(outputs[stage]))
        return stages[stage].shape[1]

    def __enter__(self) -> FeatureTap:
        self._listening = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._listening = False

    def _catch(self, feature: Tensor) -> None:
        if self._listening:
            self._feature = feature

    def pop(self) -> Tensor:
        """The feature (B, channels, h, w) of the last forward pass in the context; it is forgotten here.

        Raises:
            RuntimeError: There was no forward pass in the context.
        """
        if self._feature is None:
            raise RuntimeError('no feature was caught: run the segmentor inside `with tap:` before pop()')
        feature, self._feature = self._feature, None
        return feature
