"""Correlation maps of a feature: predictions carried along them, and regions that take one label (CorrMatch)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmseg_acl.models.semi.precision import full_precision
from mmseg_acl.models.semi.pseudo_label import IGNORE, one_hot


class Correlation(BaseModule):
    """How much every pixel of a feature has to do with every other (Sun et al. 2024, Eqs 3 and 4).

    A 3x3 convolution with BatchNorm, then two 1x1 convolutions f1 and f2; ``A = softmax(f1^T f2 / sqrt(D))``, each
    row by itself.

    Args:
        in_channels: Channels of the feature.
        channels: Channels after the first convolution.
        map_channels: D, channels that are compared.
        dropout: Share of the ``channels`` that are dropped, whole, in [0, 1).
        init_cfg: Passed to mmengine's ``BaseModule``.

    Raises:
        ValueError: A number below 1, or a share outside what is allowed.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        map_channels: int = 32,
        dropout: float = 0.1,
        init_cfg: dict | None = None,
    ) -> None:
        for name, value in dict(channels=channels, map_channels=map_channels).items():
            if value < 1:
                raise ValueError(f'{name} is {value}; a correlation needs at least 1')
        if not 0 <= dropout < 1:
            raise ValueError(f'dropout of the correlation is {dropout}; it is a share of channels, in [0, 1)')
        super().__init__(init_cfg=init_cfg)
        self.reduce = ConvModule(in_channels, channels, 3, padding=1, norm_cfg=dict(type='BN'))
        self.dropout = nn.Dropout2d(dropout)
        self.one = nn.Conv2d(channels, map_channels, 1)
        self.two = nn.Conv2d(channels, map_channels, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """Maps (B, N, N) of a feature (B, in_channels, h, w), N = h w; every row is positive and sums to 1."""
        feature = self.dropout(self.reduce(feature))
        return self._rows(self.one(feature).flatten(2), self.two(feature).flatten(2))

    @full_precision
    def _rows(self, one: Tensor, two: Tensor) -> Tensor:
        return (one.transpose(1, 2) @ two / one.shape[1] ** 0.5).softmax(dim=-1)


def correlate(logits: Tensor, maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Logits carried along correlation maps, ``logits A`` (Sun et al. 2024, Eq. 5), back at their size.

    Args:
        logits: (B, C or 1, H, W), as a rule without their gradient.
        maps: (B, N, N).
        grid: (h, w) of the maps, h w = N.
    """
    small = F.interpolate(logits.float(), grid, mode='bilinear', align_corners=True)
    carried = (small.flatten(2) @ maps).unflatten(2, grid)
    return F.interpolate(carried, logits.shape[2:], mode='bilinear', align_corners=True)


@torch.no_grad()
def correlated_regions(rows: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Regions (R, H, W) bool of one image: where a row is above the middle between its smallest and largest value.

    Args:
        rows: (R, N) of a correlation map.
        grid: (h, w) of the map.
        size: (H, W); rows are interpolated to it first. A row that is the same everywhere has no region.
    """
    maps = F.interpolate(rows.float().unflatten(1, grid)[None], size, mode='bilinear', align_corners=True)[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return 2 * (maps - low) > high - low


@torch.no_grad()
def propagate(labels: Tensor, sure: Tensor, regions: Tensor, threshold: float, num_classes: int) -> Tensor:
    """Give whole regions of an image the class that their sure pixels agree on (Sun et al. 2024, Sec. 3.4).

    A region takes a class where the share of its pixels that are sure is at least ``threshold``, and the share of one
    class among these is above it. All regions ask the labels that are given; where two overlap the later one wins.

    Args:
        labels: (H, W) classes.
        sure: (H, W) bool.
        regions: (R, H, W) bool.
        threshold: In [0, 1).
        num_classes: C.

    Returns:
        (H, W) labels, 255 where a pixel is neither sure nor in a region that took a class.
    """
    found = labels.masked_fill(~sure, IGNORE)
    inside = regions.flatten(1).float()
    votes = inside @ one_hot(found[None], num_classes)[0].flatten(1).T
    counted, (most, top) = votes.sum(1), votes.max(1)
    takes = (counted > 0) & (counted >= threshold * inside.sum(1)) & (most > threshold * counted)
    for region in takes.nonzero()[:, 0].tolist():
        found[regions[region]] = top[region]
    return found
