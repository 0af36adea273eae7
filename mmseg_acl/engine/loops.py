"""Validation of every network of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.runner import ValLoop
from mmengine.visualization import Visualizer
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
            with predicting(model, network), pictures_named(self.runner.visualizer, prefix):
                metrics.update({f'{prefix}{key}': value for key, value in self._evaluate().items()})
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    def _evaluate(self) -> dict:
        for index, batch in enumerate(self.dataloader):
            self.run_iter(index, batch)
        return self.evaluator.evaluate(len(self.dataloader.dataset))


@contextmanager
def pictures_named(visualizer: Visualizer, prefix: str) -> Iterator[None]:
    """Put ``prefix`` before the name of every picture that hooks draw meanwhile.

    ``SegVisualizationHook`` names a picture after its image, so that those of a second network would replace those
    of the first.
    """
    draw = visualizer.add_datasample

    def named(name: str, *args: object, **kwargs: object) -> None:
        draw(f'{prefix.replace("/", "_")}{name}', *args, **kwargs)

    visualizer.add_datasample = named
    try:
        yield
    finally:
        del visualizer.add_datasample
