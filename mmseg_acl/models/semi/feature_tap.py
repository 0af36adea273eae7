"""A segmentor's features, caught on their way: before its classifier or after a stage of its backbone."""

from __future__ import annotations

from torch import Tensor, nn

from mmseg_acl.models.semi.head_families import family_of, last_head
from mmseg_acl.models.semi.levels import map_of, outputs_of_a_small_image


class FeatureTap:
    """Catch a feature of a forward pass, while used as a context.

    By default it is the input of the classifier, before the head's dropout: student and teacher features are
    alike only there, since the student applies dropout and the teacher does not. So the hook stands on the
    dropout where there is one, else on ``conv_seg``; heads that classify in another way stand in the table
    ``HEAD_FAMILIES``::

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
            self.channels: int = family_of(head).tap(segmentor, head, self._catch)
        elif isinstance(source, int):
            self.channels = self._tap_backbone(segmentor.backbone, source)
        else:
            raise ValueError(f"the source of features is {source!r}; allowed are 'head' and the index of a stage")

    def _tap_backbone(self, backbone: nn.Module, stage: int) -> int:
        outputs = outputs_of_a_small_image(backbone, backbone, backbone)
        # Some give out nothing but the last feature in eval mode (DDRNet, PIDNet).
        stages = [map_of(level) for level in outputs] if isinstance(outputs, (list, tuple)) else []
        usable = [i for i, feature in enumerate(stages) if isinstance(feature, Tensor) and feature.ndim == 4]
        if stage not in usable:
            raise ValueError(
                f'the source of features is stage {stage}; {type(backbone).__name__} gives out feature maps at '
                f"{', '.join(map(str, usable)) or 'no stage'}: give one of these or 'head'"
            )
        backbone.register_forward_hook(lambda module, args, outputs: self._catch(map_of(outputs[stage])))
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
