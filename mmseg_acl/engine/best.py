"""The best checkpoint of a run: by which score, on which images, and what to do with it at the end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from torch.utils.data import Dataset

from mmseg_acl.engine.hooks.checkpoint_hook import SCORES, AtomicCheckpointHook, best_score

AUTO = 'auto'


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
    hook, folder = _hook(runner), Path(runner.work_dir)
    config = folder / Path(runner.cfg.filename or 'config.py').name
    last = getattr(hook, 'last_ckpt', None)
    best = getattr(hook, 'best_ckpt_path', None) if hook is not None and hook.save_best else None
    lines = []
    if best and len(hook.key_indicators) == 1:
        score = runner.message_hub.get_info('best_score')
        lines.append(f'best checkpoint by {hook.key_indicators[0]} ({score:.2f}): {best}')
        lines.append(f'last checkpoint: {last}')
    elif last:
        reason = hook.no_best or ('no validation' if runner.val_loop is None else 'none was asked for or found')
        lines.append(f'last checkpoint: {last} (no best one is kept: {reason})')
    if best or last:
        chosen = _shown(best or last)
        lines += [
            'next:',
            f'  python tools/test.py {_shown(config)} {chosen}',
            f'  python tools/predict.py {_shown(config)} {chosen} FRAMES --out predicted --overlay',
            f'  python tools/export.py {_shown(config)} {chosen} --format onnx',
        ]
    return '\n'.join(lines)


def tell_next_steps(runner: Runner) -> None:
    """Log them, in the main process."""
    if is_main_process() and (text := next_steps(runner)):
        runner.logger.info(f'training has ended\n{text}')


def _shown(path: str | Path) -> str:
    return shlex.quote(str(path))


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
