"""The last whole checkpoint of a run, from which it goes on."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.engine.checkpoint import check_numbers, number_fault, read_checkpoint, require_kind, state_of
from mmseg_acl.engine.same_run import check_same_run

NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')
NEEDED = ('meta', 'state_dict', 'message_hub', 'optimizer')


class Checkpoint(NamedTuple):
    """A checkpoint and what was read of it."""

    path: Path
    content: dict


def prepare_resume(config: Config, read: Callable[[Path], dict] = read_checkpoint) -> Checkpoint | None:
    """Name the checkpoint to go on from in ``config.load_from``, and check that the config is the run's own.

    Args:
        config: With ``resume`` set. ``load_from`` may name the checkpoint; else it is the last whole one of the work
            dir, or of the folder that ``default_hooks.checkpoint.out_dir`` names for it.
        read: Reads a checkpoint.

    Returns:
        The checkpoint; None where there is none, so that the run starts at iteration 0.

    Raises:
        FileNotFoundError: The named checkpoint does not exist.
        ValueError: No checkpoint is whole, it holds weights alone, or is of a run with other settings.
    """
    fresh_model = functools.cache(functools.partial(_build_model, config))
    if config.get('load_from'):
        found = _read_whole(Path(config.load_from), fresh_model, read)
    else:
        found = last_whole_checkpoint(config.work_dir, _other_folder(config), fresh_model, read)
    if found is None:
        print_log(
            f'NOTHING TO RESUME: {config.work_dir} has no checkpoint, so the run starts at iteration 0',
            logger='current',
            level=logging.WARNING,
        )
        config.resume = False
        return None
    check_same_run(config, found.content, found.path)
    config.load_from = str(found.path)
    return found


def has_checkpoint(config: Config) -> bool:
    """Whether a run has left a checkpoint, whole or not, in the folders that a config names."""
    return any(_candidates(Path(config.work_dir), _other_folder(config)))


def last_whole_checkpoint(
    work_dir: str | Path,
    out_dir: Path | None = None,
    fresh_model: Callable[[], nn.Module] | None = None,
    read: Callable[[Path], dict] = read_checkpoint,
) -> Checkpoint | None:
    """The newest checkpoint of a run from which it can go on; None where there is none at all.

    Files are tried by their numbers, downwards: a run that was killed may not have come to note the last one in
    ``last_checkpoint``. One that is cut short or damaged is named in a warning and left out. Of ``last_checkpoint``
    only the file's name counts: in a copied work dir the path is that of another run.

    Args:
        work_dir: Folder of the run.
        out_dir: Where else the run keeps its checkpoints.
        fresh_model: Gives the run's model, not trained; called where weights are no finite numbers.
        read: Reads a checkpoint.

    Raises:
        ValueError: There are checkpoints, but none is whole; or there is none, but one elsewhere is noted.
    """
    work_dir = Path(work_dir)
    faults = []
    for path in _candidates(work_dir, out_dir):
        try:
            found = _read_whole(path, fresh_model, read)
        except (ValueError, OSError) as error:
            faults.append(str(error))
            continue
        if faults:
            print_log(
                f'NOT resumed from the newest checkpoint: {"; ".join(faults)}. Going on from {path}',
                logger='current',
                level=logging.WARNING,
            )
        return found
    if faults:
        raise ValueError(
            f'no checkpoint in {work_dir} is whole: {"; ".join(faults)}. Restore one of them, or start anew in '
            'another --work-dir'
        )
    noted = _noted(work_dir)
    if noted and noted.is_absolute() and noted.is_file():
        raise ValueError(
            f'{work_dir} has no checkpoint of its own: last_checkpoint names {noted}, which is elsewhere. Copy it '
            f'into the work dir, or go on from it by --cfg-options resume=True load_from={noted}'
        )
    return None


def _read_whole(path: Path, fresh_model: Callable[[], nn.Module] | None, read: Callable[[Path], dict]) -> Checkpoint:
    """A checkpoint that has all that a run goes on from.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is cut short or damaged, is no checkpoint of a run, or its numbers are not finite.
    """
    content = read(path)
    missing = [key for key in NEEDED if key not in content]
    if missing:
        raise ValueError(
            f'{path} has no {", ".join(missing)}, so no run can go on from it: resume from an iter_*.pth, or start '
            'a new run from its weights with load_from and without --resume'
        )
    for key in ('iter', 'epoch'):
        require_kind(content['meta'].get(key), int, f'meta.{key}', path)
    require_kind(content['message_hub'], dict, 'message_hub', path)
    for key in ('log_scalars', 'runtime_info', 'resumed_keys'):
        require_kind(content['message_hub'].get(key, {}), dict, f'message_hub.{key}', path)
    schedules = content.get('param_schedulers', [])
    require_kind(schedules, (list, dict), 'param_schedulers', path)
    for states in schedules.values() if isinstance(schedules, dict) else [schedules]:
        require_kind(states, list, 'param_schedulers', path)
        for one in states:
            require_kind(one, dict, 'param_schedulers', path)
    _check_optimizer(content['optimizer'], 'optimizer', path)
    state = state_of(content)
    if fresh_model is not None and any(map(number_fault, state.values())):
        check_numbers(state, path, fresh_model())
    return Checkpoint(path, content)


def _check_optimizer(state: Any, name: str, path: Path) -> None:
    """Refuse an optimizer's state that is none, or not finite: the next step would break the weights."""
    require_kind(state, dict, name, path)
    several = 'param_groups' not in state and 'state' not in state
    for key, inner in state.items() if several else ():
        _check_optimizer(inner, f'{name}.{key}', path)
    if several:
        return
    require_kind(state.get('param_groups'), list, f'{name}.param_groups', path)
    for group in state['param_groups']:
        require_kind(group, dict, f'{name}.param_groups', path)
    require_kind(state.get('state'), dict, f'{name}.state', path)
    for index, moments in state['state'].items():
        require_kind(moments, dict, f'{name}.state.{index}', path)
        for key, value in moments.items():
            if isinstance(value, Tensor) and (fault := number_fault(value, value)):
                raise ValueError(
                    f'{path} cannot be used: {name}.state.{index}.{key} {fault}, with which a step would break '
                    'the weights. Resume from a checkpoint before it'
                )


def _candidates(work_dir: Path, out_dir: Path | None) -> Iterator[Path]:
    """Checkpoints of a run, newest first, in its own folders."""
    files = [path for folder in (work_dir, out_dir) if folder and folder.is_dir() for path in folder.glob('*.pth')]
    noted = _noted(work_dir)
    if noted and not NUMBERED.fullmatch(noted.name):
        # A name of the user's own, which says nothing of its age.
        yield from (path for path in files if path.name == noted.name)
    numbered = {path: int(match[1]) for path in files if (match := NUMBERED.fullmatch(path.name))}
    yield from sorted(numbered, key=numbered.get, reverse=True)


def _noted(work_dir: Path) -> Path | None:
    """What ``last_checkpoint`` names, wherever that is."""
    note = work_dir / 'last_checkpoint'
    text = note.read_bytes().decode(errors='replace').strip() if note.is_file() else ''
    return Path(text) if text else None


def _other_folder(config: Config) -> Path | None:
    """Where the checkpoint hook writes to, if not to the work dir."""
    hook = (config.get('default_hooks') or {}).get('checkpoint') or {}
    return Path(hook['out_dir'], Path(config.work_dir).name) if hook.get('out_dir') else None


def _build_model(config: Config) -> nn.Module:
    init_default_scope(config.get('default_scope', 'mmseg'))
    return MODELS.build(deepcopy(config.model))
