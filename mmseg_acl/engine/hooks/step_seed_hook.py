"""Randomness of a step from its number alone."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Reseed torch's generators from (seed, rank, iteration) before each step.

    What a step draws (dropout, mixing boxes, anchors) then depends neither on how often validation ran nor
    on whether the run was resumed.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Seed from a hash of the three numbers."""
        words = np.random.SeedSequence([runner.seed, get_rank(), runner.iter]).generate_state(2)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
