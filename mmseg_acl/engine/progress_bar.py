"""A bar at the bottom of the terminal while a run trains, with the lines of its log above it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TextIO

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

# The loss of so many iterations is averaged, as in the log's lines.
SMOOTHED = 10


@contextmanager
def progress_bar(runner: Runner) -> Iterator[None]:
    """Show how far a training is, where a terminal looks on; elsewhere do nothing.

    What is logged or printed meanwhile goes above the bar; the log file stays as it is. The bar vanishes at the end,
    however that comes.

    Args:
        runner: About to train.
    """
    terminal = sys.stdout
    console = Console(file=_UntilGone(terminal))
    # isatty, too: FORCE_COLOR makes a console call a pipe a terminal.
    if runner.rank != 0 or not terminal.isatty() or not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    progress = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[state]}'),
        console=console,
        transient=True,
        # By a thread it would draw between the two halves of a fork, which loaders are made by.
        auto_refresh=False,
        redirect_stderr=sys.stderr.isatty(),
    )
    handlers = [
        handler
        for handler in runner.logger.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is terminal
    ]
    runner.register_hook(_BarHook(progress))
    for handler in handlers:
        handler.setStream(_Above(console))
    try:
        with progress:
            yield
    finally:
        for handler in handlers:
            handler.setStream(terminal)


class _UntilGone:
    """A terminal that takes what is written, also when it has been closed: a run may outlive it."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._terminal.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._terminal.flush()


class _Above:
    """A stream to a console whose lines are left as long as they are, with their colours."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> None:
        self._console.print(Text.from_ansi(text), end='\n' if text.endswith('\n') else '', soft_wrap=True)

    def flush(self) -> None:
        """Nothing is kept back."""


class _BarHook(Hook):
    """Move the bar with each iteration, and with each batch of a validation."""

    priority = 'LOW'  # when the runner knows the iteration's loss and time

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._training = progress.add_task('training', total=None, state='')
        self._validating = progress.add_task('validating', total=None, state='', visible=False)

    def before_train(self, runner: Runner) -> None:
        self._show(self._training, completed=runner.iter, total=runner.max_iters)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        found = runner.message_hub
        loss = found.get_scalar('train/loss').mean(SMOOTHED)
        left = timedelta(seconds=int(found.get_info('eta') or 0))
        self._show(self._training, completed=runner.iter + 1, state=f'loss {loss:.3f}, {left} to go')

    def before_val_epoch(self, runner: Runner) -> None:
        self._progress.update(self._training, visible=False)
        self._progress.update(self._validating, visible=True)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: list | None = None
    ) -> None:
        self._show(self._validating, completed=batch_idx + 1, total=len(runner.val_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._progress.update(self._validating, visible=False)
        self._show(self._training, visible=True)

    def _show(self, task: int, **changes: object) -> None:
        self._progress.update(task, refresh=True, **changes)
