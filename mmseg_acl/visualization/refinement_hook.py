"""Whether refining the pseudo-labels helps, while it trains."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from mmseg_acl.models.segmentors.aclnet import ACLNet, Inspection
from mmseg_acl.models.semi.pseudo_label import IGNORE, mean_dice
from mmseg_acl.models.semi.wrapping import unwrapped
from mmseg_acl.visualization.inspection import draw_inspection


@HOOKS.register_module()
class PseudoLabelRefinementHook(Hook):
    """Log the quality of ACL-Net's pseudo-labels before and after each term of Eq. 11.

    Dice in percent of the teacher's labels (``teacher``) and of what refinement makes of them (``high``,
    ``low`` or ``joint``): ``labelled/*`` on labelled images sent through the same path, ``hidden/*`` on
    unlabelled images whose hidden masks exist. The latter is a diagnosis only, never a training signal. If
    refinement hurts, these say so. On other models the hook does nothing, so that one list of hooks serves
    all methods.

    Every ``picture_interval`` iterations the first labelled image goes to the visualizer as a picture: frame,
    mask, pseudo-label before and after, and the affinity of a marked pixel in student, teacher and after
    aggregation, as in the paper's Figure 7.

    Args:
        interval: Iterations between two measurements, at least 1.
        picture_interval: Iterations between two pictures, at least 1.
    """

    def __init__(self, interval: int = 50, picture_interval: int = 300) -> None:
        for name, value in dict(interval=interval, picture_interval=picture_interval).items():
            if value < 1:
                raise ValueError(f'{name} is {value}; it must be at least 1')
        self.interval, self.picture_interval = interval, picture_interval

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Measure this step's images and draw the first, where it is due."""
        model = unwrapped(runner.model)
        if not isinstance(model, ACLNet) or not model.refining:
            return
        measure, draw = ((runner.iter + 1) % n == 0 for n in (self.interval, self.picture_interval))
        if not measure and not draw:
            return
        batch = model.data_preprocessor(data_batch, training=True)
        inputs, samples = batch['inputs'], batch['data_samples']
        masks = torch.cat([sample.gt_sem_seg.data for sample in samples['sup']])
        seen = model.inspect(inputs['sup'], masks != IGNORE)
        if draw:
            frame = data_batch['inputs']['sup'][0].permute(1, 2, 0).cpu().numpy()
            labels = masks[0].masked_fill(masks[0] == IGNORE, 0).cpu().numpy()
            picture = draw_inspection(frame, labels, seen)
            runner.visualizer.add_image('pseudo_label', picture[..., ::-1], step=runner.iter + 1)
        if measure:
            self._log(runner, 'labelled', seen, masks, masks != IGNORE)
            weak = samples['unsup_weak']
            if all('hidden_sem_seg' in sample for sample in weak):
                masks = torch.cat([sample.hidden_sem_seg.data for sample in weak]).long()
                valid = torch.cat([sample.valid.data for sample in weak]).bool()
                self._log(runner, 'hidden', model.inspect(inputs['unsup_weak'], valid), masks, valid)

    @staticmethod
    def _log(runner: Runner, name: str, seen: Inspection, masks: Tensor, valid: Tensor) -> None:
        for stage, prob in {'teacher': seen.prob, **seen.refined.stages}.items():
            runner.message_hub.update_scalar(f'train/{name}/{stage}', mean_dice(prob, masks, valid))
