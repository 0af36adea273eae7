"""End a run in order when it is asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from mmseg_acl.engine.hooks.checkpoint_hook import AtomicCheckpointHook, accumulative_counts
from mmseg_acl.errors import Stopped

# SIGHUP: the terminal was closed. Windows has none.
SIGNALS = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGINT', 'SIGHUP') if hasattr(signal, name))


@HOOKS.register_module()
class StopSignalHook(Hook):
    """On SIGTERM (a preemption), Ctrl-C or a closed terminal: finish the iteration, save a checkpoint, and stop.

    A second Ctrl-C stops at once. All processes of a distributed run stop at the same iteration. The run ends with
    :class:`~mmseg_acl.errors.Stopped`, whose exit status is that of the signal.
    """

    # After the checkpoint hook: what it has just saved need not be saved again.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._signal: int | None = None
        self._before: dict[int, object] = {}
        self._process = os.getpid()
        self._within_step = False

    def before_train(self, runner: Runner) -> None:
        """Take over the signals; only a main thread can."""
        self._signal, self._process = None, os.getpid()
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if not _is_left_to_nohup(number)]
            self._before = {number: signal.signal(number, self._note) for number in heard}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """From here on the state is that of no iteration."""
        self._within_step = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Stop after this iteration if asked to, unless its gradients wait for those of the next."""
        done = runner.iter + 1
        if done % accumulative_counts(runner) == 0 and self._agreed():
            self._stop(runner, done)
        # Only now: should another process be gone, this state has no number yet that it could be saved under.
        self._within_step = False

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: list | None = None
    ) -> None:
        """Stop in a validation too, which may take longer than a scheduler waits; it is made up for on resume."""
        if self._before and self._signal is not None and get_world_size() == 1:
            self._stop(runner, runner.iter)

    def stop_if_asked(self, runner: Runner) -> None:
        """Stop between two steps, where the next batch cannot be had any more."""
        if self._signal is not None and not self._within_step and runner.iter % accumulative_counts(runner) == 0:
            self._stop(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A loader's worker has a copy of this handler. It leaves Ctrl-C and the end of a terminal to the main
            # process, and ends without an error when it is told to.
            if number == signal.SIGTERM:
                os._exit(0)
            return
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        name = signal.Signals(number).name
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):  # a terminal that is gone
            text = f'{name}: stopping after this iteration, with a checkpoint (Ctrl-C again: at once)\n'
            # On a terminal behind what stands there: ^C, or the bar of a training.
            os.write(2, ('\n' if os.isatty(2) else '').encode() + text.encode())

    def _agreed(self) -> bool:
        """Whether any process was asked to stop."""
        if get_world_size() == 1:
            return self._signal is not None
        asked = torch.tensor(self._signal or 0)
        all_reduce(asked, op='max')
        self._signal = int(asked) or None
        return self._signal is not None

    def _stop(self, runner: Runner, done: int) -> None:
        number = self._signal
        savers = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        saved = savers[0].save_now(runner, done) if savers else None
        self.after_train(runner)
        what = f'saved {saved}; go on with --resume' if saved else 'what came after the last checkpoint is lost'
        raise Stopped(f'stopped by {signal.Signals(number).name} after iteration {done}: {what}', number)


def _is_left_to_nohup(number: int) -> bool:
    """Whether the run is to outlive its terminal: nohup has SIGHUP ignored."""
    return number == getattr(signal, 'SIGHUP', None) and signal.getsignal(number) is signal.SIG_IGN
