"""A fully convolutional discriminator of probability maps (Hung et al., BMVC 2018, Section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class FCDiscriminator(BaseModule):
    """Says, region by region, whether a probability map looks like a ground-truth map.

    4x4 convolutions of stride 2 with LeakyReLU (0.2) between them, and one more to a single channel, whose
    output is resized to the size of the map. There is no BatchNorm, so that a map is judged by itself.

    Args:
        in_channels: Number of classes, at least 2.
        channels: Channels of all layers but the last.
        init_cfg: Passed to mmengine's ``BaseModule``.

    Attributes:
        stride: Side of the region that one output of the last layer stands for.

    Raises:
        ValueError: Fewer than two classes, or a layer without channels.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int] = (64, 128, 256, 512), init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if in_channels < 2:
            raise ValueError(f'in_channels is {in_channels}; a probability map has a channel a class, at least 2')
        if not channels or min(channels) < 1:
            raise ValueError(f'channels is {tuple(channels)}; give at least one layer, each of at least 1 channel')
        sizes = [in_channels, *channels]
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 4, stride=2, padding=1))
        self.stride = 2 ** len(sizes)

    def forward(self, maps: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of ``maps`` (B, C, H, W) being ground truth.

        Raises:
            ValueError: The maps are smaller than one region.
        """
        size = maps.shape[2:]
        if min(size) < self.stride:
            raise ValueError(
                f'maps are {size[0]}x{size[1]}; {len(self.layers) // 2 + 1} layers of stride 2 need at least '
                f'{self.stride}x{self.stride}: take larger crops or give the discriminator fewer channels'
            )
        return F.interpolate(self.layers(maps), size=size, mode='bilinear', align_corners=False)
