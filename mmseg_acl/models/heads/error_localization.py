"""The error localization network of ELN (Kwon & Kwak 2022): where is a prediction right?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.models.semi.entropy import entropy

# Every width is a multiple of it.
_GROUPS = 8


@MODELS.register_module()
class ErrorLocalizationNetwork(BaseModule):
    """A small U-Net on image, entropy and logits that gives each pixel one logit: above 0 where it is right.

    The public code takes a DeepLabv3+ on ResNet-34; here the input is averaged to ``stride`` first and seen at three
    scales, so that the network costs little beside the segmentor. GroupNorm, since
    good and deliberately bad predictions share a batch in training while only good ones are judged later, and
    running means of such a mixture would fit neither.

    Args:
        num_classes: Channels of the logits, at least 2.
        channels: Width at ``stride``; it doubles at each of the two coarser scales. A multiple of 8.
        stride: Stride at which the network works.
        init_cfg: Passed to mmengine's ``BaseModule``.

    Raises:
        ValueError: A number outside what is allowed.
    """

    def __init__(self, num_classes: int, channels: int = 32, stride: int = 4, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if num_classes < 2:
            raise ValueError(f'num_classes is {num_classes}; the logits need at least 2 channels')
        if channels < _GROUPS or channels % _GROUPS:
            raise ValueError(f'channels is {channels}; it must be a positive multiple of {_GROUPS}')
        if stride < 1:
            raise ValueError(f'stride is {stride}; it must be at least 1')
        self.stride = stride
        c = channels
        self.fine = _conv(3 + 1 + num_classes, c)
        self.middle = nn.Sequential(_conv(c, 2 * c, stride=2), _conv(2 * c, 2 * c))
        self.coarse = nn.Sequential(_conv(2 * c, 4 * c, stride=2), _conv(4 * c, 4 * c))
        self.up_middle = _conv(2 * c + 4 * c, 2 * c)
        self.up_fine = _conv(c + 2 * c, c)
        self.classifier = nn.Conv2d(c, 1, 1)

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Logits (B, H, W) of each pixel's prediction being right.

        Args:
            images: (B, 3, H, W).
            logits: (B, num_classes, H, W); no gradient flows into them, so that a prediction never learns to
                look right.
        """
        logits = logits.detach().float()
        doubt = entropy(logits.softmax(dim=1)).unsqueeze(1)
        height, width = images.shape[2:]
        grid = max(1, height // self.stride), max(1, width // self.stride)
        x = F.adaptive_avg_pool2d(torch.cat([images, doubt, logits], dim=1), grid)
        fine = self.fine(x)
        middle = self.middle(fine)
        x = self.up_middle(torch.cat([middle, _resize(self.coarse(middle), middle.shape[2:])], dim=1))
        x = self.up_fine(torch.cat([fine, _resize(x, grid)], dim=1))
        return _resize(self.classifier(x), (height, width)).squeeze(1)


def error_localization_loss(score: Tensor, right: Tensor, valid: Tensor, groups: Tensor | None = None) -> Tensor:
    """Binary cross-entropy with where a prediction is right, both sides of equal say.

    Wrong pixels are few, so they weigh ``n_right / n_wrong``, counted over the batch; mean over valid pixels.
    Neither count is taken for less than 1: without a wrong pixel there is nothing to weigh, and without a right
    one the wrong ones keep a small weight instead of none.

    Args:
        score: (B, H, W) logits of the :class:`ErrorLocalizationNetwork`.
        right: (B, H, W) bool, true where the prediction is right.
        valid: (B, H, W) bool, false where there is no label; such a pixel is neither right nor wrong.
        groups: (B, H, W) integers, such as the predicted classes: right and wrong are counted, and balanced,
            in each group apart. None for a single count, as in the public code.

    Returns:
        A scalar; 0, still connected to ``score``, where no pixel is valid.
    """
    groups = torch.zeros_like(valid, dtype=torch.long) if groups is None else groups
    weight = torch.zeros_like(score, dtype=torch.float)
    for group in groups.unique():
        here = valid & (groups == group)
        n_right, n_wrong = (here & right).sum(), (here & ~right).sum()
        weight += here * torch.where(right, 1.0, n_right.clamp(min=1) / n_wrong.clamp(min=1))
    loss = F.binary_cross_entropy_with_logits(score.float(), right.float(), reduction='none')
    return (weight * loss).sum() / valid.sum().clamp(min=1)


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> ConvModule:
    return ConvModule(
        in_channels, out_channels, 3, stride=stride, padding=1, norm_cfg=dict(type='GN', num_groups=_GROUPS)
    )


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=False)
