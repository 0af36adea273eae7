"""What an encoder gives out: one entry a level, a map or a pair of a map and a class token (the ViT of DPT)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# A map (B, C, h, w), or a pair of one and the class token (B, C).
Level = Tensor | Sequence[Tensor]


def map_of(level: Level) -> Tensor:
    """The map (B, C, h, w) of a level."""
    return level if isinstance(level, Tensor) else level[0]


def with_map(level: Level, feature: Tensor) -> Level:
    """The level with another map, and the class token that it had."""
    return feature if isinstance(level, Tensor) else [feature, *level[1:]]


def each_part(level: Level, change: Callable[[Tensor], Tensor]) -> Level:
    """The level with its map changed, and its class token where there is one."""
    return change(level) if isinstance(level, Tensor) else [change(part) for part in level]


def outputs_of_a_small_image(network: nn.Module, forward: Callable[[Tensor], Any], backbone: nn.Module) -> Any:
    """What ``forward`` makes of a black image in eval mode: nothing else says how many channels a backbone gives out.

    Args:
        network: What is put into eval mode for it.
        forward: Takes an image (1, 3, h, w).
        backbone: Says by its ``patch_size``, if it has one, which sides it takes.
    """
    patch = getattr(backbone, 'patch_size', 1)
    side = -(-64 // patch) * patch if isinstance(patch, int) else 64
    training = network.training
    network.eval()
    with torch.no_grad():
        outputs = forward(torch.zeros(1, 3, side, side))
    network.train(training)
    return outputs
