"""What a step draws follows from seed and iteration alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmseg_acl.engine.hooks import StepSeedHook
from mmseg_acl.engine.hooks import step_seed_hook as module


def drawn(seed: int, iteration: int) -> list[float]:
    StepSeedHook().before_train_iter(SimpleNamespace(seed=seed, iter=iteration), 0)
    return torch.rand(4).tolist()


@pytest.fixture(autouse=True)
def generator():
    """Other tests find torch's generator as it was."""
    with torch.random.fork_rng():
        yield


def test_a_step_draws_the_same_whatever_was_drawn_before():
    first = drawn(seed=3, iteration=7)
    torch.rand(100)
    assert drawn(seed=3, iteration=7) == first


def test_seeds_iterations_and_processes_draw_apart(monkeypatch):
    found = [drawn(3, 7), drawn(4, 7), drawn(3, 8), drawn(7, 3)]
    monkeypatch.setattr(module, 'get_rank', lambda: 1)
    found.append(drawn(3, 7))
    assert len(set(map(tuple, found))) == len(found)
