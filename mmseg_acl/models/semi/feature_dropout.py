"""Channel dropout on encoder features: a perturbation of the feature, where strong colours are one of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def channel_dropout(features: Sequence[Tensor], prob: float = 0.5) -> list[Tensor]:
    """Drop whole channels of every encoder output, each level for itself (UniMatch, Yang et al. 2023, Sec. 3.2).

    Args:
        features: (B, C, h, w) each.
        prob: Chance of a channel of an image to be dropped, in [0, 1); the others are scaled by 1 / (1 - prob).
    """
    return [F.dropout2d(feature, prob) for feature in features]


def with_dropped(features: Sequence[Tensor], images: int, prob: float) -> list[Tensor]:
    """Encoder outputs (B, C, h, w), and behind them the last ``images`` of the batch again with dropped channels."""
    dropped = channel_dropout([feature[-images:] for feature in features], prob)
    return [torch.cat(both) for both in zip(features, dropped, strict=True)]


def complementary_dropout(features: Sequence[Tensor]) -> list[Tensor]:
    """Drop the channels of one view that the other keeps (UniMatch V2, Yang et al. 2025, Sec. 3.3).

    For each image and channel b is 0 or 1 with the same chance; the first view's features are multiplied by 2 b, the
    second's by 2 - 2 b, so that the mean of both is what it was. A random half of the images, rounded down, is exempt
    in both views. Levels of the same width share b; others draw their own.

    Args:
        features: (2 B, C, h, w) each, the B images' first views and then their second.
    """
    images = len(features[0]) // 2
    exempt = torch.zeros(images, dtype=torch.bool)
    exempt[torch.randperm(images)[: images // 2]] = True
    scales: dict[int, Tensor] = {}
    dropped = []
    for feature in features:
        channels = feature.shape[1]
        if channels not in scales:
            kept = 2.0 * torch.bernoulli(torch.full((images, channels), 0.5))
            kept[exempt] = 1
            scales[channels] = torch.cat([kept, 2 - kept])
        dropped.append(feature * scales[channels].to(feature)[..., None, None])
    return dropped
