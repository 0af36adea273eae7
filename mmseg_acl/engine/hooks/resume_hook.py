"""What a run that is interrupted needs to go on as if it had not been."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from mmseg_acl.engine.same_run import note_data

# No name that begins with 'val': mmengine would log it among the scores. It did, by the former name.
VALIDATED, FORMERLY = 'iter_validated', 'validated_iter'


@HOOKS.register_module()
class ResumeHook(Hook):
    """Note in checkpoints which images a run draws from, and validate first where it may not have come to it.

    A checkpoint is saved before the validation of its iteration, and mmengine goes on after it: the scores, the
    best checkpoint and whatever follows from them would differ from those of a run that was never interrupted.
    """

    # Before the checkpoint hook, which saves after a better score.
    priority = 'LOW'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the numbers of images and processes, which a resume compares."""
        note_data(runner.train_dataloader.dataset, checkpoint['meta'])

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Note in later checkpoints which iteration has been validated."""
        runner.message_hub.update_info(VALIDATED, runner.iter)

    def before_train_epoch(self, runner: Runner) -> None:
        """Validate the iteration that is resumed from, where one is due and none is noted."""
        loop, iteration = runner.train_loop, runner.iter
        if not iteration or runner.val_loop is None or not hasattr(loop, 'val_interval'):
            return
        known = runner.message_hub.runtime_info
        if FORMERLY in known:
            known[VALIDATED] = known.pop(FORMERLY)
        due = iteration >= loop.val_begin and (iteration % loop.val_interval == 0 or iteration == loop.max_iters)
        if due and known.get(VALIDATED) != iteration:
            runner.logger.info(f'Validating iteration {iteration}, which the interrupted run may not have done')
            runner.val_loop.run()
