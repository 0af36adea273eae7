"""A threshold on confidence that follows how sure a network is (Sun et al. 2024, Sec. 3.5)."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor


@torch.no_grad()
def highest_confidence(prob: Tensor, valid: Tensor) -> Tensor | None:
    """Mean over the predicted classes of the highest confidence of a pixel of each, over the batches of all ranks.

    Args:
        prob: (B, C, H, W) probabilities. Every rank has to call it.
        valid: (B, H, W) bool, false on padding.

    Returns:
        A scalar in [1 / C, 1]; None where no pixel is valid.
    """
    confidence, labels = prob.max(dim=1)
    highest = prob.new_zeros(prob.shape[1])
    highest.scatter_reduce_(0, labels[valid], confidence[valid], 'amax')
    all_reduce(highest, op='max')
    predicted = highest > 0
    return highest[predicted].mean() if predicted.any() else None
