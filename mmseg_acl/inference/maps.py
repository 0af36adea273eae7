"""From a network's logits to probabilities at the size of a frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def frame_probabilities(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """(C, H, W) probabilities at the frame's size from logits (C, h, w); two classes from one channel.

    mmseg does the same, and besides takes the arg max at that size, which on a CPU is half of all the time.
    """
    logits = F.interpolate(logits[None].float(), size, mode='bilinear', align_corners=align_corners)[0]
    if len(logits) == 1:
        logits = torch.cat([torch.zeros_like(logits), logits])
    return logits.softmax(0)
