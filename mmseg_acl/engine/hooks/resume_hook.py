"""Make up for the validation that an interruption took."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

VALIDATED = 'validated_iter'


@HOOKS.register_module()
class ResumeHook(Hook):
    """Validate first where the run that is resumed may not have come to it.

    A checkpoint is saved before the validation of its iteration, and mmengine goes on after it: the scores, the
    best checkpoint and whatever follows from them would differ from those of a run that was never interrupted.
    """

    # Before the checkpoint hook, which saves after a better score.
    priority = 'LOW'

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Note in later checkpoints which iteration has been validated."""
        runner.message_hub.update_info(VALIDATED, runner.iter)

    def before_train_epoch(self, runner: Runner) -> None:
        """Validate the iteration that is resumed from, where one is due and none is noted."""
        loop, iteration = runner.train_loop, runner.iter
        if not iteration or runner.val_loop is None or not hasattr(loop, 'val_interval'):
            return
        due = iteration >= loop.val_begin and (iteration % loop.val_interval == 0 or iteration == loop.max_iters)
        if due and runner.message_hub.runtime_info.get(VALIDATED) != iteration:
            runner.logger.info(f'Validating iteration {iteration}, which the interrupted run may not have done')
            runner.val_loop.run()
