"""The best checkpoint of a run: by which score, on which images, and what to do with it at the end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from torch.utils.data import Dataset

from mmseg_acl.commands import as_typed
from mmseg_acl.engine.hooks.checkpoint_hook import SCORES, AtomicCheckpointHook, best_score

AUTO = 'auto'
# Key of a config: what is known to make its scores wrong, said again wherever they are.
DATA_WARNINGS = 'data_warnings'


def image_files(dataset: Dataset) -> set[str]:
    """Real paths of the images of a data set, as far as it tells them."""
    if not hasattr(dataset, 'get_data_info'):
        return set()
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return {os.path.realpath(info['img_path']) for info in infos if info.get('img_path')}


def settle_best(runner: Runner, keys: Iterable[str] | None) -> None:
    """Say by which score the best checkpoint is kept, or why none is, before training.

    None is kept where validation images are test images: it would be chosen on what it is tested on.

    Args:
        runner: Built, with a validation.
        keys: Names of its scores; None where they are not known yet.
    """
    hook = _hook(runner)
    if hook is None or hook.save_best != [AUTO]:
        return
    validation = runner.val_loop.dataloader.dataset
    if tested := image_files(validation) & _tested(runner):
        hook.keep_no_best(f'{len(tested)} of the {len(validation)} images to validate on are test images')
    elif keys is not None and best_score(runner.model, keys) is None:
        hook.keep_no_best(f'its validation gives neither {" nor ".join(SCORES)}')
    else:
        score = best_score(runner.model, keys or ()) or 'the first score'
        runner.logger.info(
            f'the best checkpoint is kept by {score} on {len(validation)} images to validate on, beside the last one'
        )
        return
    runner.logger.info(f'no best checkpoint is kept, the last one counts: {hook.no_best}')


def next_steps(runner: Runner) -> str:
    """What a finished run leaves, and the commands that come next."""
    hook = _hook(runner)
    best, last = best_checkpoints(runner), getattr(hook, 'last_ckpt', None)
    lines = [f'best checkpoint by {key} ({score:.2f}): {path}' for key, (score, path) in best.items()]
    if best:
        lines.append(f'last checkpoint: {last}')
    elif last:
        reason = hook.no_best or ('no validation' if runner.val_loop is None else 'none was asked for or found')
        lines.append(f'last checkpoint: {last} (no best one is kept: {reason})')
    if best or last:
        run = _run_words(runner, Path(next(iter(best.values()))[1] if best else last), one=len(best) < 2)
        lines += [
            'next:',
            *([as_typed(f'  python tools/test.py {run}')] if runner.cfg.get('test_dataloader') else []),
            as_typed(f'  python tools/predict.py {run} FRAMES --out predicted --overlay'),
            as_typed(f'  python tools/export.py {run} --format onnx'),
        ]
    return '\n'.join([*lines, *data_warnings(runner.cfg)])


def data_warnings(config: Mapping) -> list[str]:
    """What is known of a run's data that makes its scores wrong."""
    return [f'WARNING: {text}' for text in config.get(DATA_WARNINGS, ())]


def best_checkpoints(runner: Runner) -> dict[str, tuple[float, str]]:
    """Best score and checkpoint so far, by the names of the scores that were asked for."""
    hook, found = _hook(runner), runner.message_hub.runtime_info
    if hook is None or not hook.save_best:
        return {}
    keys = hook.key_indicators
    ends = {keys[0]: ''} if len(keys) == 1 else {key: f'_{key}' for key in keys}
    return {
        key: (found[f'best_score{end}'], found[f'best_ckpt{end}'])
        for key, end in ends.items()
        if f'best_ckpt{end}' in found
    }


def tell_next_steps(runner: Runner) -> None:
    """Log them, in the main process."""
    if is_main_process() and (text := next_steps(runner)):
        runner.logger.info(f'training has ended\n{text}')


def _run_words(runner: Runner, checkpoint: Path, one: bool) -> str:
    """How the tools are told of this run: its work dir, where they would take this checkpoint from it."""
    folder = Path(runner.work_dir)
    others = set(map(str, folder.glob('best_*.pth'))) - {str(checkpoint)}
    if one and checkpoint.parent == folder and not others:
        return shlex.quote(str(folder))
    config = folder / Path(runner.cfg.filename or 'config.py').name
    return f'{shlex.quote(str(config))} {shlex.quote(str(checkpoint))}'


def _hook(runner: Runner) -> AtomicCheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)), None)


def _tested(runner: Runner) -> set[str]:
    """Images of the test set; none where there is no such set here, which training does not need."""
    config = (runner.cfg.get('test_dataloader') or {}).get('dataset')
    if not config:
        return set()
    if config == (runner.cfg.get('val_dataloader') or {}).get('dataset'):
        return image_files(runner.val_loop.dataloader.dataset)
    try:
        return image_files(DATASETS.build(config))
    except (OSError, ValueError, TypeError, KeyError):
        return set()
