"""Stop at the first loss that is no number, while it can still be seen why."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.engine.checkpoint import is_finite
from mmseg_acl.errors import CheckpointError, NonFiniteError
from mmseg_acl.models.semi.wrapping import unwrapped


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """End the run when a loss is NaN or infinite, before the weights are updated with it.

    The message names the iteration, the losses and the samples. ``non_finite_iter_N.pth`` in the work dir holds
    what repeats the step, for ``mmseg_acl.engine.read_checkpoint``: ``iter``, ``seed``, ``losses``, ``samples``
    (image files by view), ``batch`` (the images before normalisation and their maps), ``state_dict`` and
    ``optimizer``, both as they were before the step.

    All losses are looked at together, so that a step on a GPU waits for one number. Weights are looked at when a
    checkpoint is due: none is written of a model that has broken, so the last good one stays.
    """

    def __init__(self) -> None:
        self._runner: Runner | None = None
        self._batch: dict | None = None
        self._handle: Any = None

    def before_train(self, runner: Runner) -> None:
        """Look at the weights to start from, and at what the model returns from now on."""
        model = unwrapped(runner.model)
        broken = [name for name, value in model.named_parameters() if not is_finite(value.detach())]
        if broken:
            raise ValueError(
                f'{len(broken)} of the weights to start from are NaN or infinite, such as {broken[0]}: look at '
                'load_from, and at the files that init_cfg names'
            )
        self._runner = runner
        self._handle = unwrapped(runner.model).register_forward_hook(self._check, with_kwargs=True)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Keep the batch at hand."""
        self._batch = data_batch

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save weights that are no numbers."""
        state = checkpoint['state_dict']
        model = unwrapped(runner.model)
        names = [name for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, nn.Parameter)]
        broken = [name for name in names if name in state and not is_finite(state[name])]
        if broken:
            raise NonFiniteError(
                f'{len(broken)} of the {len(names)} weights are NaN or infinite before iteration {runner.iter + 1} '
                f'ends, such as {broken[0]}, though every loss was finite: a gradient was not. No checkpoint is '
                'written, the last good one stays. Lower the learning rate, or clip gradients '
                '(optim_wrapper.clip_grad)'
            )

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was."""
        self._handle.remove()

    def _check(self, model: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if kwargs.get('mode') != 'loss' or not isinstance(output, dict):
            return
        broken = broken_losses(output)
        if not broken:
            return
        values = {name: float(_total(value)) for name, value in output.items() if 'loss' in name}
        runner, samples = self._runner, _image_files(self._batch)
        path = Path(runner.work_dir) / f'non_finite_iter_{runner.iter + 1}{_of_rank()}.pth'
        state = dict(
            iter=runner.iter,
            seed=runner.seed,
            losses=values,
            samples=samples,
            batch=_plain(self._batch),
            state_dict=model.state_dict(),
            optimizer=runner.optim_wrapper.state_dict(),
        )
        others = [f'{name} = {value:.4g}' for name, value in values.items() if name not in broken]
        files = [f'{view}: {", ".join(names)}' for view, names in samples.items()]
        raise NonFiniteError(
            f'not a finite number at iteration {runner.iter + 1}: '
            f'{", ".join(f"{name} = {values[name]}" for name in broken)} (finite: {", ".join(others) or "none"}). '
            f'The samples: {"; ".join(files)}. {_save(state, path)} The weights were not updated, the last '
            'checkpoint stays. Look at these images and masks; lower the learning rate, or clip gradients '
            '(optim_wrapper.clip_grad)'
        )


def broken_losses(output: dict[str, Tensor | list[Tensor]]) -> list[str]:
    """Names of the losses that are NaN or infinite; where there is none, the device is waited for once."""
    losses = {name: _total(value) for name, value in output.items() if 'loss' in name}
    if not losses or torch.isfinite(torch.stack(list(losses.values()))).all():
        return []
    return [name for name, value in losses.items() if not torch.isfinite(value)]


def _total(value: Tensor | list[Tensor]) -> Tensor:
    """A loss as mmengine sums it up, without its graph."""
    parts = [value] if isinstance(value, Tensor) else value
    return sum(part.detach().float().mean() for part in parts)


def _views(batch: dict) -> Iterator[tuple[str, list[Tensor], list[SegDataSample]]]:
    """The views of a batch; a plain one counts as one view."""
    inputs, samples = batch['inputs'], batch['data_samples']
    if isinstance(inputs, dict):
        yield from ((view, inputs[view], samples[view]) for view in inputs)
    else:
        yield 'images', inputs, samples


def _image_files(batch: dict) -> dict[str, list[str]]:
    return {view: [sample.get('img_path', '?') for sample in samples] for view, _, samples in _views(batch)}


def _plain(batch: dict) -> dict[str, dict[str, list]]:
    """A batch of tensors alone, which any loader reads: by view, images and the maps of each."""
    return {
        view: dict(images=list(images), maps=[_maps(sample) for sample in samples])
        for view, images, samples in _views(batch)
    }


def _maps(sample: SegDataSample) -> dict[str, Tensor]:
    return {key: pixels.data for key, pixels in sample.items() if hasattr(pixels, 'data')}


def _of_rank() -> str:
    return f'_rank_{get_rank()}' if get_rank() else ''


def _save(state: dict, path: Path) -> str:
    """Write the state; what was done about it, for the message."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        write_atomically(buffer.getvalue(), path)
    except CheckpointError as error:
        return f'The state could not be saved: {error}.'
    return f'The state before this step is saved in {path}.'
