"""Validation of every network of a model."""

from __future__ import annotations

from mmengine.runner import ValLoop
from mmseg.registry import LOOPS
from torch import nn

from mmseg_acl.models.networks import is_semi_supervised, networks_of, predicting


def score_prefix(model: nn.Module, network: str) -> str:
    """What stands before the names of a network's scores; nothing for a plain segmentor."""
    return f'{network}/' if is_semi_supervised(model) else ''


@LOOPS.register_module()
class StudentTeacherValLoop(ValLoop):
    """Validate student and teacher; metrics are named ``student/mDice``, ``teacher/mDice``.

    The two score differently, and which one is better is a finding, not a choice to be made before. A plain
    segmentor is validated as usual, under bare names.
    """

    def run(self) -> dict:
        """Launch validation. Returns the metrics of all networks."""
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        model, metrics = self.runner.model, {}
        for network in networks_of(model):
            prefix = score_prefix(model, network)
            with predicting(model, network):
                metrics.update({f'{prefix}{key}': value for key, value in self._evaluate().items()})
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    def _evaluate(self) -> dict:
        for index, batch in enumerate(self.dataloader):
            self.run_iter(index, batch)
        return self.evaluator.evaluate(len(self.dataloader.dataset))
