"""Build an mmseg segmentor to be a student, and say at once why one cannot be."""

from __future__ import annotations

from copy import deepcopy

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from torch import nn

from mmseg_acl.models.one_channel import with_threshold
from mmseg_acl.models.semi.head_families import dense_heads, family_of, head_list, last_head, reading_head
from mmseg_acl.models.semi.pseudo_label import IGNORE


def build_segmentor(config: dict) -> nn.Module:
    """Build a segmentor and check that it can be trained by what this package does with it.

    Raises:
        ImportError: It needs operators that the installed mmcv was not compiled with.
        TypeError: It is no encoder-decoder, or a head gives no logits a pixel.
        ValueError: A loss has weights for another number of classes or settings that exclude each other, a head
            cannot have one channel, has another threshold than 0.5 or ignores another label than 255.
    """
    try:
        segmentor = MODELS.build(deepcopy(with_threshold(config)))  # mmseg writes into it
    except RuntimeError as error:
        if 'ops' not in str(error):
            raise
        raise ImportError(
            f"the segmentor needs mmcv's compiled operators, which the installed mmcv does not have ({error}). "
            'In mmseg, CCNet, PSANet and PointRend need them: take another head, or an mmcv built with operators'
        ) from error
    check_segmentor(segmentor)
    return segmentor


def check_segmentor(segmentor: nn.Module) -> None:
    """See :func:`build_segmentor` for what is raised."""
    if not isinstance(segmentor, EncoderDecoder):
        raise TypeError(
            f'the segmentor is a {type(segmentor).__name__}; a student is an EncoderDecoder or a '
            'CascadeEncoderDecoder, as its logits are needed beside its losses'
        )
    foreign = [head for head in head_list(segmentor.decode_head) if not isinstance(head, BaseDecodeHead)]
    if foreign or not dense_heads(segmentor):
        raise TypeError(
            f'{type((foreign or head_list(segmentor.decode_head))[0]).__name__} does not give out one logit a class '
            'and pixel (MaskFormer and Mask2Former predict sets of masks), which the losses on unlabelled images '
            'need: take a head derived from BaseDecodeHead'
        )
    check_losses(segmentor)
    for head in segmentor.modules():
        if isinstance(head, BaseDecodeHead):
            if head.ignore_index not in (IGNORE, None):
                raise ValueError(
                    f'{type(head).__name__} has ignore_index={head.ignore_index}; padding and pseudo-labels to be '
                    f'ignored are {IGNORE} here: leave it at {IGNORE} and save such pixels of your masks as {IGNORE}'
                )
    _check_one_channel(segmentor)


def check_losses(model: nn.Module) -> None:
    """Refuse losses of mmseg's heads that would fail at the first step.

    Raises:
        ValueError: Class weights of another number than the head's channels, or settings that exclude each other.
    """
    for head in model.modules():
        if isinstance(head, BaseDecodeHead):
            _check_class_weights(head)
            _check_cross_entropy(head)


def _check_one_channel(segmentor: nn.Module) -> None:
    """mmseg has heads with one channel and a sigmoid for two classes, but not everything of it knows them."""
    head, trained = last_head(segmentor), reading_head(segmentor)
    if trained.out_channels == trained.num_classes:
        return
    obstacle = None
    if not family_of(head).one_channel:
        obstacle = type(head).__name__
    elif isinstance(segmentor.decode_head, nn.ModuleList):
        obstacle = 'a cascade of heads, whose prediction looks for a threshold at the wrong place,'
    elif head.sampler is not None:
        obstacle = f'the {type(head.sampler).__name__} of {type(head).__name__}'
    if obstacle:
        raise ValueError(
            f'out_channels={trained.out_channels} with num_classes={trained.num_classes}: in mmseg {obstacle} does '
            'not work with one channel. Leave out_channels out and use a softmax loss'
        )


def _check_cross_entropy(head: nn.Module) -> None:
    """mmseg's loss would end in an error that names neither setting, at the first step."""
    for loss in head.modules():
        if not isinstance(loss, CrossEntropyLoss) or loss.use_sigmoid or loss.use_mask:
            continue
        if head.out_channels == 1:
            raise ValueError(
                f'{type(head).__name__} has out_channels=1 and a CrossEntropyLoss over channels, of which it needs '
                "two: set loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True), or leave out_channels out"
            )
        if loss.class_weight is not None and loss.avg_non_ignore:
            raise ValueError(
                f"CrossEntropyLoss of {type(head).__name__} has class_weight and avg_non_ignore=True, which mmseg's "
                'does not compute together: leave avg_non_ignore out. With class_weight ignored pixels never count'
            )


def _check_class_weights(head: nn.Module) -> None:
    """mmseg would end in an error from inside the loss, at the first step."""
    for loss in head.modules():
        weights = getattr(loss, 'class_weight', None)
        if isinstance(weights, (list, tuple)) and len(weights) != head.out_channels:
            raise ValueError(
                f'{type(loss).__name__} of {type(head).__name__} has {len(weights)} class weights, and the head '
                f'gives out {head.out_channels} channels: give class_weight one value a channel, or None'
            )
