"""The entropy of probabilities, and the split of pixels into reliable and unreliable ones by its percentile."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy(prob: Tensor) -> Tensor:
    """Entropy ``-sum_c p_c log p_c`` in nats, in [0, log C].

    Args:
        prob: (B, C, H, W) probabilities; a probability of 0 adds 0.

    Returns:
        (B, H, W).
    """
    return torch.special.entr(prob).sum(dim=1)


def quantile(values: Tensor, share: float) -> Tensor:
    """The value below which ``share`` of all ``values`` lie, interpolated linearly as by ``torch.quantile``.

    ``torch.quantile`` refuses more than 2**24 values, which a batch of large maps has; this does not.

    Args:
        values: Of any shape.
        share: In [0, 1].

    Returns:
        A scalar; infinity where there are no values.
    """
    if not values.numel():
        return values.new_tensor(float('inf'))
    ordered = values.flatten().sort().values
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)


def reliable_pixels(uncertainty: Tensor, valid: Tensor, drop: float) -> Tensor:
    """Valid pixels but for the ``drop`` most uncertain of the batch.

    A pixel exactly at the threshold stays, so that none is lost at ``drop=0`` and a constant map stays whole.

    Args:
        uncertainty: (B, H, W), such as :func:`entropy`.
        valid: (B, H, W) bool; other pixels are never reliable and have no say in the threshold.
        drop: Share of the valid pixels to be dropped, in [0, 1).

    Returns:
        (B, H, W) bool.
    """
    return valid & (uncertainty <= quantile(uncertainty[valid], 1 - drop))


def drop_share(step: int, total: int, start: float) -> float:
    """Share of pixels to be dropped at ``step``: ``start`` at first, falling linearly to 0 at ``total``."""
    return start * (1 - min(max(step / total, 0.0), 1.0))
