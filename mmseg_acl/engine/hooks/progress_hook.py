"""Log lines that keep coming, however long an iteration takes."""

from __future__ import annotations

import time

from mmengine.hooks import LoggerHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class ProgressLoggerHook(LoggerHook):
    """mmengine's logger, which also speaks when it has been silent for long and at the last iteration.

    At 80 seconds an iteration, every fiftieth is once in an hour; and a run of three iterations would end
    without having shown a loss. The first line comes sooner, and before it what it waits for.

    Args:
        seconds: Longest silence.
        first: Longest silence before the first line, unless one iteration takes longer.
        **kwargs (Any): See mmengine's ``LoggerHook``.
    """

    def __init__(self, seconds: float = 60.0, first: float = 10.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.seconds, self.first = seconds, first
        self._spoke, self._silence = time.monotonic(), first

    def before_train(self, runner: Runner) -> None:
        """Say what comes, so that nobody waits for a line without knowing why."""
        super().before_train(runner)
        self._spoke, self._silence = time.monotonic(), self.first
        runner.logger.info(
            f'training begins at iteration {runner.iter + 1} of {runner.max_iters}. A line follows after the first '
            f'iterations, then every {self.interval} of them or {self.seconds:.0f} s'
        )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Log this iteration where it is due."""
        silent = time.monotonic() - self._spoke
        last = runner.iter + 1 == runner.max_iters
        if not (last or silent >= self._silence or self.every_n_inner_iters(batch_idx, self.interval)):
            return
        self._spoke, self._silence = time.monotonic(), self.seconds
        tag, line = runner.log_processor.get_log_after_iter(runner, batch_idx, 'train')
        runner.logger.info(line)
        runner.visualizer.add_scalars(tag, step=runner.iter + 1, file_path=self.json_log_path)
