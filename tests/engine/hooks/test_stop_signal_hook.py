"""When a signal stops a run; whole runs that are stopped are in ../test_interruption.py."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from mmseg_acl.engine.hooks import AtomicCheckpointHook, StopSignalHook
from mmseg_acl.errors import Stopped


class Saver(AtomicCheckpointHook):
    """Notes what it is asked to save."""

    saved: list[int]

    def save_now(self, runner: SimpleNamespace, iteration: int) -> str:
        self.saved.append(iteration)
        return f'iter_{iteration}.pth'


@pytest.fixture
def run():
    """A runner whose hook has the signals, and gives them back."""
    saver = Saver()
    saver.saved = []
    runner = SimpleNamespace(iter=0, hooks=[saver], optim_wrapper=SimpleNamespace(_accumulative_counts=1))
    hook = StopSignalHook()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook.before_train(runner)
    runner.hook, runner.saved = hook, saver.saved
    yield runner
    hook.after_train(runner)
    assert before == {number: signal.getsignal(number) for number in before}


def step(runner: SimpleNamespace, iteration: int, asked: int | None = None) -> None:
    runner.iter = iteration
    runner.hook.before_train_iter(runner, iteration)
    if asked:
        os.kill(os.getpid(), asked)
    runner.hook.after_train_iter(runner, iteration)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_iteration_is_finished_and_saved(run, number):
    step(run, 0)
    with pytest.raises(Stopped, match=f'stopped by {number.name} after iteration 2: saved iter_2.pth; go on') as end:
        step(run, 1, asked=number)
    assert run.saved == [2] and end.value.status == 128 + number


def test_gradients_that_wait_for_the_next_iteration_are_not_lost(run):
    run.optim_wrapper._accumulative_counts = 2
    step(run, 0, asked=signal.SIGTERM)
    assert run.saved == []
    with pytest.raises(Stopped, match='after iteration 2'):
        step(run, 1)
    assert run.saved == [2]


def test_a_second_ctrl_c_stops_at_once(run):
    run.hook.before_train_iter(run, 0)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert run.saved == []


def test_between_two_steps_the_state_is_that_of_the_last(run):
    step(run, 0)
    run.hook.stop_if_asked(run)  # nobody has
    os.kill(os.getpid(), signal.SIGTERM)
    run.iter = 1
    with pytest.raises(Stopped, match='after iteration 1: saved iter_1.pth'):
        run.hook.stop_if_asked(run)


def test_within_a_step_there_is_no_state_to_save(run):
    run.hook.before_train_iter(run, 0)
    os.kill(os.getpid(), signal.SIGTERM)
    run.hook.stop_if_asked(run)
    assert run.saved == []


def test_without_a_checkpoint_hook_the_message_says_what_is_lost(run):
    run.hooks = []
    with pytest.raises(Stopped, match='what came after the last checkpoint is lost'):
        step(run, 0, asked=signal.SIGTERM)
