"""Tell the model when a step begins and ends."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from mmseg_acl.models.semi.statistics import average_statistics
from mmseg_acl.models.semi.wrapping import unwrapped
from mmseg_acl.phases import resolve_model


@HOOKS.register_module()
class MeanTeacherHook(Hook):
    """Announce each step to a semi-supervised model and let it update its teachers afterwards.

    The iteration is the runner's own, so a resumed run goes on where it stopped. In distributed training the
    statistics of normalisation layers are averaged first; on a plain segmentor that is all the hook does, so that one
    default list of hooks serves supervised runs as well.
    """

    def before_train(self, runner: Runner) -> None:
        """Turn shares of the run into iterations, where the config was read by another program."""
        resolve_model(unwrapped(runner.model), runner.max_iters)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """``model.before_step(iteration)``."""
        model = unwrapped(runner.model)
        if hasattr(model, 'before_step'):
            model.before_step(runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Make the processes' networks equal; then ``model.after_step()``, the EMA update."""
        model = unwrapped(runner.model)
        average_statistics(model)
        if hasattr(model, 'after_step'):
            model.after_step()
