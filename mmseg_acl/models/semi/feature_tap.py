"""A segmentor's features, caught on their way: before its classifier or after a stage of its backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def last_head(segmentor: nn.Module) -> nn.Module:
    """The head that predicts: the last stage of a cascade, else the decode head."""
    head = segmentor.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


class FeatureTap:
    """Catch a feature of a forward pass, while used as a context.

    By default it is the input of the classifier, before the head's dropout: student and teacher features are
    alike only there, since the student applies dropout and the teacher does not. So the hook stands on the
    dropout where there is one, else on ``conv_seg``::

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
        ValueError: The head has no ``conv_seg``, or the backbone no such output.
    """

    def __init__(self, segmentor: nn.Module, source: str | int = 'head') -> None:
        self._listening = False
        self._feature: Tensor | None = None
        if source == 'head':
            self.channels: int = self._tap_head(last_head(segmentor))
        elif isinstance(source, int):
            self.channels = self._tap_backbone(segmentor.backbone, source)
        else:
            raise ValueError(f"the source of features is {source!r}; allowed are 'head' and the index of a stage")

    def _tap_head(self, head: nn.Module) -> int:
        if not isinstance(getattr(head, 'conv_seg', None), nn.Conv2d):
            raise ValueError(
                f'{type(head).__name__} has no conv_seg, so the feature before its classifier is unknown; '
                'use a head derived from BaseDecodeHead that classifies by cls_seg, or a stage of the backbone'
            )
        (head.dropout or head.conv_seg).register_forward_pre_hook(lambda module, args: self._catch(args[0]))
        return head.conv_seg.in_channels

    def _tap_backbone(self, backbone: nn.Module, stage: int) -> int:
        # Backbones do not say how many channels they give out, so one small image asks.
        training = backbone.training
        backbone.eval()
        with torch.no_grad():
            outputs = backbone(torch.zeros(1, 3, 64, 64))
        backbone.train(training)
        if not isinstance(outputs, (list, tuple)) or not 0 <= stage < len(outputs):
            count = len(outputs) if isinstance(outputs, (list, tuple)) else 1
            raise ValueError(f'the source of features is stage {stage}; {type(backbone).__name__} gives out {count}')
        backbone.register_forward_hook(lambda module, args, outputs: self._catch(outputs[stage]))
        return outputs[stage].shape[1]

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
