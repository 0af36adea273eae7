"""A model hears of each step, before and after; a plain segmentor has nothing to hear."""

from __future__ import annotations

from types import SimpleNamespace

from torch import nn

from mmseg_acl.engine.hooks import MeanTeacherHook


class Listening(nn.Module):
    """Notes what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = []

    def before_step(self, iteration: int) -> None:
        self.heard.append(('before', iteration))

    def after_step(self) -> None:
        self.heard.append('after')


def step(model: nn.Module, iteration: int) -> None:
    hook, runner = MeanTeacherHook(), SimpleNamespace(model=model, iter=iteration)
    hook.before_train_iter(runner, 0)
    hook.after_train_iter(runner, 0)


def test_the_model_is_told_the_iteration_of_the_runner():
    model = Listening()
    step(model, 41)
    step(model, 42)
    assert model.heard == [('before', 41), 'after', ('before', 42), 'after']


def test_a_plain_segmentor_is_left_alone():
    model = nn.Conv2d(1, 1, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, 1)
    assert all(before[name].equal(value) for name, value in model.state_dict().items())
