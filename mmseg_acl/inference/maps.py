"""From a network's logits to probabilities at the size of a frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def frame_probabilities(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """(C, H, W) probabilities at the frame's size from logits (C, h, w); two classes from one channel.

    mmseg does the same, and besides takes the arg max at that size, which on a CPU is half of all the time. Of two
    classes one map is enlarged, their difference, since softmax(a, b)[1] is sigmoid(b - a): half of the time again.
    """
    logits = logits.float()
    if len(logits) == 2:
        logits = logits[1:] - logits[:1]
    logits = F.interpolate(logits[None], size, mode='bilinear', align_corners=align_corners)[0]
    if len(logits) > 1:
        return logits.softmax(0)
    prob = logits.new_empty(2, *size)
    torch.sigmoid(logits[0], out=prob[1])
    torch.sub(1, prob[1], out=prob[0])
    return prob
