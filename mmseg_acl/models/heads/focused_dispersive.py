"""The two feature blocks of CAFD and how any segmentor gets one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.models.semi.head_families import head_list
from mmseg_acl.models.semi.levels import map_of, outputs_of_a_small_image, with_map

BATCH_NORM = dict(type='BN')


def residual(channels: int, in_channels: int) -> nn.Conv2d:
    """A 1x1 convolution back to ``in_channels`` that starts at zero.

    A block whose last layer it is begins as the identity, so that pre-trained features reach the head as they
    are, and the block has its say as far as it has learnt one.
    """
    conv = nn.Conv2d(channels, in_channels, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


@MODELS.register_module()
class FocusedBlock(BaseModule):
    """Attention to the polyp and its boundary, for what is compact.

    A one-channel map says where the polyp is; its morphological gradient (3x3 dilation less erosion) is high
    along its edge. The feature is weighted by the sum of both, convolved and added to the input.

    Args:
        in_channels: Channels of the feature.
        channels: Channels inside.
        norm_cfg: Normalisation of the convolutions.
        init_cfg: Passed to mmengine's ``BaseModule``.
    """

    def __init__(
        self, in_channels: int, channels: int = 64, norm_cfg: dict = BATCH_NORM, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.reduce = ConvModule(in_channels, channels, 1, norm_cfg=norm_cfg)
        self.region = nn.Conv2d(channels, 1, 1)
        self.fuse = ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg)
        self.restore = residual(channels, in_channels)

    def forward(self, feature: Tensor) -> Tensor:
        """Weight ``feature`` (B, in_channels, h, w); the shape stays."""
        inside = self.reduce(feature)
        region, boundary = self.attend(inside)
        return feature + self.restore(self.fuse(inside * (region + boundary)))

    def attend(self, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Region and boundary (B, 1, h, w), each in [0, 1], of the reduced feature (B, channels, h, w)."""
        region = self.region(inside).sigmoid()
        dilated = F.max_pool2d(region, 3, stride=1, padding=1)
        eroded = -F.max_pool2d(-region, 3, stride=1, padding=1)
        return region, dilated - eroded


@MODELS.register_module()
class DispersiveBlock(BaseModule):
    """A large receptive field, for what is spread out.

    Depthwise 3x3 convolutions at several dilations, of the same input, side by side with the mean over the
    whole image; a 1x1 convolution joins them and the result is added to the input.

    Args:
        in_channels: Channels of the feature.
        channels: Channels of each branch.
        dilations: One branch for each, in pixels of the feature, at least 1.
        norm_cfg: Normalisation of the convolutions.
        init_cfg: Passed to mmengine's ``BaseModule``.

    Raises:
        ValueError: A dilation below 1, or none.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 64,
        dilations: Sequence[int] = (1, 2, 4, 8),
        norm_cfg: dict = BATCH_NORM,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not dilations or min(dilations) < 1:
            raise ValueError(f'dilations is {tuple(dilations)}; give at least one, none below 1')
        self.reduce = ConvModule(in_channels, channels, 1, norm_cfg=norm_cfg)
        self.branches = nn.ModuleList(
            ConvModule(channels, channels, 3, padding=d, dilation=d, groups=channels, norm_cfg=norm_cfg)
            for d in dilations
        )
        # Without normalisation: a single pixel of a single image has no statistics.
        self.context = ConvModule(channels, channels, 1)
        self.fuse = ConvModule(channels * (len(dilations) + 1), channels, 1, norm_cfg=norm_cfg)
        self.restore = residual(channels, in_channels)

    def forward(self, feature: Tensor) -> Tensor:
        """Spread ``feature`` (B, in_channels, h, w); the shape stays."""
        inside = self.reduce(feature)
        context = self.context(inside.mean(dim=(2, 3), keepdim=True)).expand_as(inside)
        branches = [branch(inside) for branch in self.branches]
        return feature + self.restore(self.fuse(torch.cat([*branches, context], dim=1)))


class BlockNeck(BaseModule):
    """A segmentor's neck, if it has one, and then a block on one of the features it gives out.

    Args:
        block: A module that keeps the shape of a feature (B, C, h, w).
        index: Which of the features passes through it.
        neck: The segmentor's own neck.
    """

    def __init__(self, block: nn.Module, index: int, neck: nn.Module | None = None) -> None:
        super().__init__()
        self.block, self.index, self.neck = block, index, neck

    def forward(self, features: Any) -> tuple[Tensor, ...]:
        """The features (B, C_i, h_i, w_i) with one of them changed."""
        features = list(features if self.neck is None else self.neck(features))
        level = features[self.index]
        features[self.index] = with_map(level, self.block(map_of(level)))
        return tuple(features)


def add_block(segmentor: nn.Module, block: dict) -> None:
    """Put a block between a segmentor's features and its decode head, in place.

    As a neck, it serves any decode head, plain or cascade. It stands on the feature that the head reads, the
    last of them where it reads several; an auxiliary head that reads the same one sees it changed too.

    Args:
        segmentor: An mmseg encoder-decoder.
        block: Config of the block but its ``in_channels``. Its ``norm_cfg`` is by default the head's.

    Raises:
        ValueError: The features are no list of maps.
    """
    head = head_list(segmentor.decode_head)[0]
    index = getattr(head, 'in_index', -1)
    index = index[-1] if isinstance(index, (list, tuple)) else index
    feature = _feature(segmentor, index)
    norm_cfg = getattr(head, 'norm_cfg', None) or BATCH_NORM
    block = {'norm_cfg': norm_cfg, **block, 'in_channels': feature.shape[1]}
    segmentor.neck = BlockNeck(MODELS.build(block), index, segmentor.neck if segmentor.with_neck else None)


def _feature(segmentor: nn.Module, index: int) -> Tensor:
    """A feature of one small image."""
    features = outputs_of_a_small_image(segmentor, segmentor.extract_feat, segmentor.backbone)
    count = len(features) if isinstance(features, (list, tuple)) else 0
    feature = map_of(features[index]) if -count <= index < count else None
    if not isinstance(feature, Tensor) or feature.ndim != 4:
        raise ValueError(
            f'{type(segmentor.backbone).__name__} gives out no list of feature maps (B, C, h, w) of which number '
            f'{index} could pass through a block: take a backbone that does, or give it several out_indices'
        )
    return feature
