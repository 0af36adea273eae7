"""A warning when an affinity map no longer tells any two pixels apart."""

from __future__ import annotations

import logging

import torch
from mmengine.logging import print_log
from torch import Tensor

# Rows of each map that are looked at.
_ROWS = 32


class CollapseWatch:
    """Says once, in the log, that the affinity has collapsed: that its map has become constant.

    A network can die of too high a learning rate and go on training for hours: its losses stay finite, and those of
    the affinity stay where they are.

    Args:
        interval: Iterations between two looks, since on a GPU each waits for a number.
        spread: Least difference of the largest and the smallest affinity of an image; those of a head at its start
            are nearly 1 apart.
    """

    def __init__(self, interval: int = 50, spread: float = 0.01) -> None:
        self.interval, self.spread = interval, spread
        self.said = False

    @torch.no_grad()
    def look(self, affinity: Tensor, valid: Tensor, iteration: int | None) -> None:
        """Look at the maps of a batch, if it is time, and warn if no image's pixels are told apart.

        Args:
            affinity: (B, N, N).
            valid: (B, N) bool; an image with no two valid pixels says nothing.
            iteration: Number of steps done; None outside of training.
        """
        if self.said or iteration is None or iteration % self.interval:
            return
        step = max(affinity.shape[1] // _ROWS, 1)
        pairs = valid[:, ::step, None] & valid[:, None]
        rows = affinity[:, ::step]
        high = rows.masked_fill(~pairs, float('-inf')).amax((1, 2))
        low = rows.masked_fill(~pairs, float('inf')).amin((1, 2))
        spread = (high - low)[pairs.sum((1, 2)) > 1]
        if len(spread) and float(spread.max()) < self.spread:
            self.said = True
            print_log(
                f"the affinity map has become constant: at iteration {iteration} an image's affinities differ by "
                f'{float(spread.max()):.1g} at most, so no two pixels are told apart. loss_contrast and '
                'loss_affinity teach nothing any more, and high-level refinement averages over the whole image. '
                'Most often the learning rate is too high: lower optim_wrapper.optimizer.lr, or clip gradients by '
                'optim_wrapper.clip_grad=dict(max_norm=...), and start again, or from a checkpoint of before',
                logger='current',
                level=logging.WARNING,
            )
