"""One batch of validation before training, and the names of the scores that it gives."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmseg_acl._stack import errors_alone
from mmseg_acl.datasets.image_files import inspect_image
from mmseg_acl.datasets.semi_supervised import random_scope
from mmseg_acl.engine.loops import StudentTeacherValLoop, score_prefix
from mmseg_acl.engine.start.rehearsal import peek
from mmseg_acl.models.networks import networks_of, predicting


def rehearse_validation(runner: Runner) -> list[str] | None:
    """Predict and score one batch of validation images, and look for the scores that hooks will ask for.

    A model that cannot predict, or a score that nothing gives, would otherwise end the run at its first validation.
    No random state, no weight and no file changes.

    Returns:
        The names of the scores; None where one of the metrics needs more than one batch.

    Raises:
        ValueError: The message says what does not fit.
    """
    keys = _score_names(runner)
    if keys is None:
        return None
    for hook in runner.hooks:
        for setting, wanted in _wanted(hook):
            if wanted not in keys:
                raise ValueError(
                    f'{setting} is {wanted!r}, which no validation of this run gives. There are {", ".join(keys)}'
                )
    return keys


def _score_names(runner: Runner) -> list[str] | None:
    """Names of the scores of a validation; None where one of its metrics needs more than one batch."""
    loop, model = runner.val_loop, runner.model
    networks = list(networks_of(model)) if isinstance(loop, StudentTeacherValLoop) else [None]
    keys: list[str] = []
    training = model.training
    model.eval()
    try:
        with random_scope([0]), torch.no_grad():
            batch = _batch(loop.dataloader)
            for network in networks:
                outputs = _predict(model, network, batch)
                names = _names_of(loop.evaluator, outputs, batch, runner.logger)
                if names is None:
                    return None
                prefix = score_prefix(model, network) if network else ''
                keys += [f'{prefix}{name}' for name in names]
    finally:
        model.train(training)
    return keys


def _predict(model: nn.Module, network: str | None, batch: dict) -> list:
    """What one network says of a batch; None for the one that the model predicts with."""
    try:
        with predicting(model, network) if network else nullcontext():
            return model.val_step(batch)
    except Exception as error:  # a model of the user's own, in a mode that training never has
        several = ' (images of different sizes need val_dataloader.batch_size=1)' if len(batch['inputs']) > 1 else ''
        raise ValueError(
            f'the model cannot predict the first batch of val_dataloader: {type(error).__name__}: {error}{several}'
        ) from error


def _batch(loader: DataLoader) -> dict:
    """A first batch, of images of different sizes where there are such."""
    dataset = loader.dataset
    count = min(loader.batch_size or 1, len(dataset))
    chosen = list(range(count))
    if count > 1 and (other := _of_other_size(dataset)):
        chosen[-1] = other
    try:
        return loader.collate_fn([peek(dataset, index) for index in chosen])
    except RuntimeError as error:
        raise ValueError(f'images of val_dataloader do not make a batch of {count}: {error}') from error


def _of_other_size(dataset: torch.utils.data.Dataset) -> int | None:
    """Index of the first image that has another size than the first one."""
    if not hasattr(dataset, 'get_data_info'):
        return None
    sizes: Iterator = (inspect_image(Path(dataset.get_data_info(i)['img_path'])).size for i in range(len(dataset)))
    first = next(sizes)
    return next((index for index, size in enumerate(sizes, 1) if size != first), None)


def _names_of(evaluator: object, outputs: list, batch: dict, logger: logging.Logger) -> list[str] | None:
    """Names of the scores, from copies of the metrics that write and say nothing."""
    names = []
    for metric in deepcopy(evaluator.metrics):
        if hasattr(metric, 'out_csv'):
            metric.out_csv = None
        metric.results.clear()
        metric.dataset_meta = evaluator.dataset_meta
        with errors_alone(logger):
            metric.process(batch, [output.to_dict() for output in outputs])
            try:
                found = [*metric.compute_metrics(metric.results), *getattr(metric, 'CONDITIONAL', ())]
            except Exception:  # one of the user's own, for which a batch is too little
                return None
        names += [f'{metric.prefix}/{key}' if metric.prefix else key for key in dict.fromkeys(found)]
    return names


def _wanted(hook: object) -> Iterator[tuple[str, str]]:
    """Names of scores that a hook looks for, after the setting that names them."""
    if isinstance(hook, CheckpointHook) and hook.save_best:
        wanted = [hook.save_best] if isinstance(hook.save_best, str) else hook.save_best
        yield from (('save_best of the checkpoint hook', key) for key in wanted if key != 'auto')
    elif isinstance(hook, EarlyStoppingHook):
        yield 'monitor of the early stopping hook', hook.monitor
