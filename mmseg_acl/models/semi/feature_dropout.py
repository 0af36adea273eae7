"""Channel dropout on encoder features: a perturbation of the feature, where strong colours are one of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_acl.models.semi.joint_pass import join_batches, slice_batch
from mmseg_acl.models.semi.levels import Level, each_part, map_of


def channel_dropout(features: Sequence[Level], prob: float = 0.5) -> list[Level]:
    """Drop whole channels of every encoder output, each level for itself (UniMatch, Yang et al. 2023, Sec. 3.2).

    Args:
        features: (B, C, h, w) each, or pairs of such a map and a class token, which loses the channels of its map.
        prob: Chance of a channel of an image to be dropped, in [0, 1); the others are scaled by 1 / (1 - prob).
    """
    return [F.dropout2d(level, prob) if isinstance(level, Tensor) else _drop_pair(level, prob) for level in features]


def _drop_pair(level: Sequence[Tensor], prob: float) -> list[Tensor]:
    feature, cls_token = level
    dropped = F.dropout1d(torch.cat([feature.flatten(2), cls_token[..., None]], dim=2), prob)
    return [dropped[..., :-1].unflatten(2, feature.shape[2:]), dropped[..., -1]]


def with_dropped(features: Sequence[Level], images: int, prob: float) -> list[Level]:
    """Encoder outputs, and behind them the last ``images`` of the batch again with dropped channels."""
    return join_batches(features, channel_dropout(slice_batch(features, slice(-images, None)), prob))


def complementary_dropout(features: Sequence[Level]) -> list[Level]:
    """Drop the channels of one view that the other keeps (UniMatch V2, Yang et al. 2025, Sec. 3.3).

    For each image and channel b is 0 or 1 with the same chance; the first view's features are multiplied by 2 b, the
    second's by 2 - 2 b, so that the mean of both is what it was. A random half of the images, rounded down, is exempt
    in both views. Levels of the same width share b; others draw their own. The public code reads the maps alone; a
    class token that a head reads lacks the channels of its map, or it would give away what the map does not say.

    Args:
        features: (2 B, C, h, w) each, the B images' first views and then their second, or pairs of such a map and a
            class token (2 B, C).
    """
    images = len(map_of(features[0])) // 2
    exempt = torch.zeros(images, dtype=torch.bool)
    exempt[torch.randperm(images)[: images // 2]] = True
    scales: dict[int, Tensor] = {}

    def scaled(part: Tensor) -> Tensor:
        channels = part.shape[1]
        if channels not in scales:
            kept = 2.0 * torch.bernoulli(torch.full((images, channels), 0.5))
            kept[exempt] = 1
            scales[channels] = torch.cat([kept, 2 - kept])
        scale = scales[channels].to(part)
        return part * scale[(..., *[None] * (part.ndim - 2))]

    return [each_part(level, scaled) for level in features]
