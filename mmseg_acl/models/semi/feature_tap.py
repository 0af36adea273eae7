"""The feature just before a segmentor's classifier, from any mmseg decode head."""

from __future__ import annotations

from torch import Tensor, nn


def last_head(segmentor: nn.Module) -> nn.Module:
    """The head that predicts: the last stage of a cascade, else the decode head."""
    head = segmentor.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


class FeatureTap:
    """Catch the input of the classifier, before the head's dropout, while used as a context.

    Student and teacher features are alike only before dropout, which the student applies and the teacher
    does not; so the hook stands on the dropout where there is one, else on ``conv_seg``::

        with tap:
            segmentor(images)
        feature = tap.pop()

    Args:
        segmentor: An mmseg segmentor whose last decode head classifies by ``conv_seg``.

    Attributes:
        channels: Channels of the feature.

    Raises:
        ValueError: The head has no ``conv_seg``.
    """

    def __init__(self, segmentor: nn.Module) -> None:
        head = last_head(segmentor)
        if not isinstance(getattr(head, 'conv_seg', None), nn.Conv2d):
            raise ValueError(
                f'{type(head).__name__} has no conv_seg, so the feature before its classifier is unknown; '
                'use a head derived from BaseDecodeHead that classifies by cls_seg'
            )
        self.channels: int = head.conv_seg.in_channels
        self._listening = False
        self._feature: Tensor | None = None
        (head.dropout or head.conv_seg).register_forward_pre_hook(self._catch)

    def __enter__(self) -> FeatureTap:
        self._listening = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._listening = False

    def _catch(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self._listening:
            self._feature = args[0]

    def pop(self) -> Tensor:
        """The feature (B, channels, h, w) of the last forward pass in the context; it is forgotten here.

        Raises:
            RuntimeError: There was no forward pass in the context.
        """
        if self._feature is None:
            raise RuntimeError('no feature was caught: run the segmentor inside `with tap:` before pop()')
        feature, self._feature = self._feature, None
        return feature
