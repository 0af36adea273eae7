"""The last whole checkpoint of a run, and whether a config goes on from it."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from mmseg_acl.engine.checkpoint import read_checkpoint

NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')


def last_whole_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest checkpoint of a run that can be read to its end; None where there is none at all.

    Files are tried by their numbers, downwards: a run that was killed may not have come to note the last one in
    ``last_checkpoint``. One that is cut short or damaged is named in a warning and left out.

    Raises:
        ValueError: There are checkpoints, but none is whole.
    """
    faults = []
    for path in _candidates(Path(work_dir)):
        try:
            require_whole(path)
        except (ValueError, OSError) as error:
            faults.append(str(error))
            continue
        if faults:
            print_log(
                f'NOT resumed from the newest checkpoint: {"; ".join(faults)}. Going on from {path}',
                logger='current',
                level=logging.WARNING,
            )
        return path
    if faults:
        raise ValueError(
            f'no checkpoint in {work_dir} is whole: {"; ".join(faults)}. Restore one of them, or start anew in '
            'another --work-dir'
        )
    return None


def require_whole(path: Path) -> dict:
    """Content of a checkpoint whose every byte is as it was written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is cut short or damaged, or is no checkpoint.
    """
    content = read_checkpoint(path)
    # torch reads over damaged tensors; the archive has a checksum of each.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f'{path} is damaged: the checksum of {damaged} does not fit')
    return content


def prepare_resume(config: Config) -> None:
    """Name the checkpoint to go on from in ``config.load_from``, and check that the config is the run's own.

    Args:
        config: With ``resume`` set. ``load_from`` may name the checkpoint; else it is the last whole one.

    Raises:
        FileNotFoundError: The named checkpoint does not exist.
        ValueError: No checkpoint is whole, it holds weights alone, or its seed or schedule is another.
    """
    path = config.get('load_from') or last_whole_checkpoint(config.work_dir)
    if path is None:
        print_log(
            f'NOTHING TO RESUME: {config.work_dir} has no checkpoint, so the run starts at iteration 0',
            logger='current',
            level=logging.WARNING,
        )
        config.resume = False
        return
    content = require_whole(Path(path))
    missing = [key for key in ('meta', 'state_dict', 'message_hub', 'optimizer') if key not in content]
    if missing:
        raise ValueError(
            f'{path} has no {", ".join(missing)}, so no run can go on from it: resume from an iter_*.pth, or start '
            'a new run from its weights with load_from and without --resume'
        )
    _check_seed(config, content, path)
    _check_schedule(config, content, path)
    config.load_from = str(path)


def _candidates(work_dir: Path) -> Iterator[Path]:
    """Checkpoints of a run, newest first, in its folder and in the one that ``last_checkpoint`` names."""
    pointer = work_dir / 'last_checkpoint'
    folders = [work_dir]
    if pointer.is_file():
        noted = Path(pointer.read_text().strip())
        if noted.is_file() and not NUMBERED.fullmatch(noted.name):
            yield noted  # a name of the user's own, which says nothing of its age
        if noted.parent.resolve() != work_dir.resolve() and noted.parent.is_dir():
            folders.append(noted.parent)
    numbered = {
        path: int(match[1])
        for folder in folders
        for path in folder.glob('*.pth')
        if (match := NUMBERED.fullmatch(path.name))
    }
    yield from sorted(numbered, key=numbered.get, reverse=True)


def _check_seed(config: Config, content: dict, path: str | Path) -> None:
    """The order of images follows from the seed, so that a resumed run has to keep it."""
    seed, wanted = content['meta'].get('seed'), config.get('randomness', {}).get('seed')
    if wanted is None and seed is not None:
        config.randomness = dict(config.get('randomness', {}), seed=seed)
    elif seed is not None and seed != wanted:
        raise ValueError(
            f'{path} is of a run with seed {seed}, this one has seed {wanted}: resume with --seed {seed}'
        )


def _check_schedule(config: Config, content: dict, path: str | Path) -> None:
    """mmengine restores a schedule with its end: a run that is prolonged would train at the last rate."""
    schedules, stored = config.get('param_scheduler') or [], content.get('param_schedulers') or []
    # With several optimizers, schedules are stored by the optimizer's name; the config may give one list for all.
    for name, states in stored.items() if isinstance(stored, dict) else [(None, stored)]:
        own = schedules.get(name, []) if isinstance(schedules, dict) and 'type' not in schedules else schedules
        own = [own] if isinstance(own, dict) else own
        if any(schedule.get('by_epoch', True) for schedule in own):
            continue
        ends = [schedule.get('end', config.train_cfg.get('max_iters')) for schedule in own]
        stored_ends = [state.get('end') for state in states]
        if ends != stored_ends:
            raise ValueError(
                f'{path} is of a run whose schedules end at iterations {stored_ends}, those of this config end at '
                f'{ends}; a resumed run keeps the former. Set param_scheduler.N.end to what they were, or start a '
                'new run from the weights with load_from and without --resume'
            )
