"""Other seeds and slightly other start weights for the tests that train: on any machine they have to pass.

Machines round differently, and training makes much of little. What a test says of a trained network must therefore
hold for its neighbours too. Two variables of the environment ask for one of them, in this process and in those that
it starts:

- ``MMSEG_ACL_TEST_SEED`` is added to every seed that is set (scaled, so that no two tests or steps swap theirs);
- ``MMSEG_ACL_TEST_DISTURB`` is the relative size of a disturbance of all start weights, such as 1e-6.

``make test-robust`` runs the tests marked ``trained`` under all variations; see robustness.py. A test in which an
optimizer steps must carry that mark (shared_fixtures.py looks after it); with ``trained(stored=True)``, which is for
comparisons with stored numbers, it stays with its one seed.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from unittest.mock import patch

import numpy as np
import torch
from mmengine.model import BaseModule
from mmengine.runner import Runner

SEED, DISTURB = 'MMSEG_ACL_TEST_SEED', 'MMSEG_ACL_TEST_DISTURB'
# Two seeds of one test are never this far apart.
_STRIDE = 1_000_003


def is_varied() -> bool:
    """Whether seeds or start weights are others than the tests'."""
    return bool(int(os.environ.get(SEED, 0)) or float(os.environ.get(DISTURB, 0)))


def vary() -> ExitStack:
    """Change what the environment asks for, until the result is closed."""
    changes = ExitStack()
    if number := int(os.environ.get(SEED, 0)):
        _shift_seeds(changes, number * _STRIDE)
    if size := float(os.environ.get(DISTURB, 0)):
        _disturb_weights(changes, size, number)
    return changes


def _shift_seeds(changes: ExitStack, shift: int) -> None:
    seed_torch, seed_numpy, new_rng, set_randomness = (
        torch.manual_seed,
        np.random.seed,
        np.random.default_rng,
        Runner.set_randomness,
    )

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed((seed + shift) % 2**63)

    def shifted_rng(seed=None):
        return new_rng(seed + shift if isinstance(seed, int) else seed)

    def shifted_randomness(self, seed, **options) -> None:
        set_randomness(self, None if seed is None else (seed + shift) % 2**31, **options)

    changes.enter_context(patch('torch.manual_seed', lambda seed: seed_torch((int(seed) + shift) % 2**63)))
    changes.enter_context(patch('torch.Generator', Generator))
    changes.enter_context(patch('numpy.random.seed', lambda seed: seed_numpy((seed + shift) % 2**32)))
    changes.enter_context(patch('numpy.random.default_rng', shifted_rng))
    changes.enter_context(patch.object(Runner, 'set_randomness', shifted_randomness))


def _disturb_weights(changes: ExitStack, size: float, number: int) -> None:
    """Multiply every weight by ``1 + size * normal`` once it is initialised; teachers are copied after that."""
    init_weights, depth = BaseModule.init_weights, 0

    def init_and_disturb(self) -> None:
        nonlocal depth
        depth += 1
        try:
            init_weights(self)
        finally:
            depth -= 1
        if depth:  # a part of a model that is disturbed as a whole
            return
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in self.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.mul_(1 + size * noise.to(parameter))

    changes.enter_context(patch.object(BaseModule, 'init_weights', init_and_disturb))
