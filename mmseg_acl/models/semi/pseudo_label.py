"""From logits to probabilities, from probabilities to pseudo-labels, and how good those are."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = 255


def probabilities(logits: Tensor) -> Tensor:
    """Class probabilities (B, C, H, W) in [0, 1], summing to 1.

    A sigmoid head's single channel becomes the two-class simplex ``(1 - p, p)``.
    """
    if logits.shape[1] == 1:
        p = logits.float().sigmoid()
        return torch.cat([1 - p, p], dim=1)
    return logits.float().softmax(dim=1)


def hard_labels(prob: Tensor, valid: Tensor, threshold: float = 0.0) -> Tensor:
    """Thresholded pseudo-labels (B, H, W): the likeliest class, 255 where it is to be ignored.

    Args:
        prob: (B, C, H, W) probabilities.
        valid: (B, H, W) bool, false on padding.
        threshold: A pixel less confident than this is ignored; in [0, 1).
    """
    confidence, labels = prob.max(dim=1)
    return labels.masked_fill(~valid | (confidence < threshold), IGNORE)


def foreground_dice(prob: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Dice in percent of the likeliest class being foreground (not class 0), over all pixels of a batch.

    Args:
        prob: (B, C, H, W) probabilities.
        target: (B, H, W) class indices.
        valid: (B, H, W) bool, false on pixels that do not count.
    """
    predicted = (prob.argmax(dim=1) > 0) & valid
    actual = (target > 0) & (target != IGNORE) & valid
    total = predicted.sum() + actual.sum()
    both = (predicted & actual).sum()
    return torch.where(total > 0, 200.0 * both / total.clamp(min=1), prob.new_tensor(100.0))
