"""Whether refining the pseudo-labels helps, while it trains."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from mmseg_acl.engine.hooks.mean_teacher_hook import unwrapped
from mmseg_acl.models.segmentors.aclnet import ACLNet
from mmseg_acl.models.semi.pseudo_label import IGNORE, foreground_dice


@HOOKS.register_module()
class PseudoLabelRefinementHook(Hook):
    """Log the quality of ACL-Net's pseudo-labels before and after each term of Eq. 11.

    Dice in percent of the teacher's labels (``teacher``) and of what refinement makes of them (``high``,
    ``low`` or ``joint``): ``labelled/*`` on labelled images sent through the same path, ``hidden/*`` on
    unlabelled images whose hidden masks exist. The latter is a diagnosis only, never a training signal. If
    refinement hurts, these say so. On other models the hook does nothing, so that one list of hooks serves
    all methods.

    Args:
        interval: Iterations between two measurements, at least 1.
    """

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ValueError(f'interval is {interval}; it must be at least 1')
        self.interval = interval

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Measure this step's images."""
        model = unwrapped(runner.model)
        if not isinstance(model, ACLNet) or (runner.iter + 1) % self.interval or not model.refining:
            return
        batch = model.data_preprocessor(data_batch, training=True)
        inputs, samples = batch['inputs'], batch['data_samples']
        masks = torch.cat([sample.gt_sem_seg.data for sample in samples['sup']])
        self._measure(runner, 'labelled', inputs['sup'], masks, masks != IGNORE)
        weak = samples['unsup_weak']
        if all('hidden_sem_seg' in sample for sample in weak):
            masks = torch.cat([sample.hidden_sem_seg.data for sample in weak])
            valid = torch.cat([sample.valid.data for sample in weak]).bool()
            self._measure(runner, 'hidden', inputs['unsup_weak'], masks, valid)

    @staticmethod
    def _measure(
        runner: Runner, name: str, images: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor
    ) -> None:
        seen = unwrapped(runner.model).inspect(images, valid)
        stages = {'teacher': seen.prob[:, 1], **seen.refined.stages}
        for stage, p in stages.items():
            dice = foreground_dice(torch.stack([1 - p, p], dim=1), masks, valid)
            runner.message_hub.update_scalar(f'train/{name}/{stage}', dice)
