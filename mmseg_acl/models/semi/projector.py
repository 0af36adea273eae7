"""From a segmentor's features to the space in which pixels are contrasted."""

from __future__ import annotations

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn


class Projector(BaseModule):
    """A pixel-wise perceptron: 1x1 convolutions with ReLU between them.

    Its outputs are not scaled to length one, since the losses use cosines. By default there is no
    normalisation and a bias instead, so that a pixel's projection depends on that pixel alone.

    Args:
        in_channels: Channels of the feature.
        hidden_channels: Channels of every layer but the last.
        out_channels: Length of a projected vector.
        num_layers: Convolutions, at least 1.
        norm_cfg: Normalisation after every layer but the last, such as ``dict(type='BN')``. None for none.
        init_cfg: Passed to mmengine's ``BaseModule``.

    Attributes:
        out_channels: Length of a projected vector.

    Raises:
        ValueError: A number below 1.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 256,
        out_channels: int = 128,
        num_layers: int = 2,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        sizes = dict(
            in_channels=in_channels, hidden_channels=hidden_channels, out_channels=out_channels, num_layers=num_layers
        )
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f'{name} is {value}; a projector needs at least 1')
        self.out_channels = out_channels
        channels = [in_channels, *[hidden_channels] * (num_layers - 1)]
        hidden = [ConvModule(a, b, 1, norm_cfg=norm_cfg) for a, b in zip(channels, channels[1:], strict=False)]
        self.layers = nn.Sequential(*hidden, nn.Conv2d(channels[-1], out_channels, 1))

    def forward(self, feature: Tensor) -> Tensor:
        """Project (B, in_channels, h, w) to (B, out_channels, h, w)."""
        return self.layers(feature)
