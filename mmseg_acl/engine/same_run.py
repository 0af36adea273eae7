"""Whether a config is that of the run whose checkpoint it is to go on from.

A resumed run has the optimizer and the schedules of its checkpoint, whatever its config says, and takes its images
from where the number of steps leads. So a config that sets them otherwise would be read over, or draw other images.
Lengths, intervals, the work dir, workers, transforms and the weights of losses may change.
"""

from __future__ import annotations

import ast
import logging
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path, PureWindowsPath
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset

from mmseg_acl.phases import keep_phases

# What a resumed run has from its checkpoint.
OPTIMIZING = ('constructor', 'optimizer', 'paramwise_cfg', 'accumulative_counts', 'separate')
# What its place in the data depends on.
LOADING = ('batch_size', 'sampler', 'batch_sampler', 'drop_last')
# What chooses the images of a data set. Where they lie may change.
CHOOSING = (
    'ann_file',
    'data_prefix',
    'dataset',
    'datasets',
    'exclude',
    'folder',
    'img_suffix',
    'indices',
    'labelled',
    'partition',
    'times',
    'type',
    'unlabelled',
)
# Set or not, it is the same.
DEFAULTS = {'accumulative_counts': 1, 'shuffle': True, 'drop_last': False}
# What may change in these parts. Ends of schedules are compared with those that the checkpoint has.
FREE = {'clip_grad', 'dtype', 'end', 'loss_scale'}
# Of a group of parameters: what it is made of, and what its rate and decay were multiplied by already.
NO_SETTINGS = {'params', 'lr_mult', 'decay_mult'}
# Under what a checkpoint's ``meta`` has the numbers of images and processes.
IMAGES, PROCESSES = 'images', 'processes'
WAYS_OUT = 'or start a new run from the weights with load_from and without --resume'
MANY = 8


class _Unreadable:
    """A value in a stored config that is no plain one; it is not compared."""


def check_same_run(config: Config, content: dict, path: str | Path) -> None:
    """Refuse a config under which a resumed run would not be the one it seems.

    A config without a seed gets that of the checkpoint.

    Raises:
        ValueError: Seed, schedule, kind of optimizer, batches or lists of images are others than in the run; the
            message has each value, there and here.
    """
    _check_seed(config, content, path)
    _keep_phases(config, content, path)
    _check_schedule_ends(config, content, path)
    changed = _changes(config, content)
    if changed is None:
        print_log(
            f'{path} does not say with which settings its run was started, so this config is not compared with them',
            logger='current',
            level=logging.WARNING,
        )
        return
    _refuse([change for name, change in changed.items() if not _is_judged_by_effect(name)], path)


def check_same_optimizer(runner: Runner, content: dict, path: str | Path) -> None:
    """Refuse a config whose optimizer is another than that of the checkpoint, which would be used in its place.

    Settings are judged by what comes of them: one learning rate can be written in several ways. Where the config is
    the run's own and yet gives other numbers, a hook may have changed them; that is only said.

    Args:
        runner: Built, its optimizer not yet.
        content: Of the checkpoint.
        path: Of the checkpoint.

    Raises:
        ValueError: The optimizers differ; the message has the settings that make them differ.
    """
    wrapper = runner.build_optim_wrapper(deepcopy(runner.optim_wrapper))
    runner.scale_lr(wrapper, runner.auto_scale_lr)
    wrappers = wrapper if isinstance(wrapper, OptimWrapperDict) else {'': wrapper}
    here = {name: one.optimizer.param_groups for name, one in wrappers.items()}
    stored = content['optimizer']
    stored = {'': stored} if 'param_groups' in stored else stored
    there = {name: state['param_groups'] for name, state in stored.items()}
    # A cycle begins at a rate of its own, whatever the optimizer has.
    cycles = {'lr' for name, value in _settings(runner.cfg).items() if name.endswith('.type') and 'OneCycle' in value}
    differing = _differing_groups(there, here, cycles)
    if not differing:
        return
    changed = _changes(runner.cfg, content)
    if changed is None:
        _refuse(differing, path)
    else:
        _refuse([change for name, change in changed.items() if _is_judged_by_effect(name)], path)
    print_log(
        f'{path} has an optimizer that is not as the config has it, and is used as it is: {"; ".join(differing)}',
        logger='current',
        level=logging.WARNING,
    )


def _changes(config: Mapping, content: dict) -> dict[str, str] | None:
    """What a config has otherwise than the one that a checkpoint is of, by name; None where that is not known."""
    before, now = _read(content['meta'].get('cfg')), _settings(config)
    if before is None:
        return None
    before = _settings(before)
    return {
        name: f'{name} is {_text(before, name)} there, {_text(now, name)} here'
        for name in sorted(before.keys() | now.keys())
        if before.get(name) is not _Unreadable and before.get(name) != now.get(name)
    }


def _refuse(changed: list[str], path: str | Path) -> None:
    if changed:
        more = f'; and {len(changed) - MANY} more' if len(changed) > MANY else ''
        raise ValueError(
            f'{path} is of a run with other settings: {"; ".join(changed[:MANY])}{more}. A resumed run keeps its '
            f'optimizer and its place in the data. Set them to what they were, {WAYS_OUT}'
        )


def _is_judged_by_effect(name: str) -> bool:
    """Whether a setting bears on the optimizer alone, which can be compared itself."""
    own = name.startswith('optim_wrapper.') and name.rpartition('.')[2] != 'accumulative_counts'
    return own and not name.endswith('optimizer.type') or name.startswith('auto_scale_lr.')


def _differing_groups(there: dict[str, list[dict]], here: dict[str, list[dict]], left_out: set[str]) -> list[str]:
    """What of the groups of parameters is not the same, by optimizer."""
    if there.keys() != here.keys():
        return [f'its optimizers are {", ".join(there) or "one"}, those of this config {", ".join(here) or "one"}']
    found = []
    for name, groups in here.items():
        of = f' of {name}' if name else ''
        sizes = [[len(group.get('params', ())) for group in part] for part in (there[name], groups)]
        if sizes[0] != sizes[1]:
            found.append(f'the optimizer{of} has {len(sizes[0])} groups of parameters there, {len(sizes[1])} here')
            continue
        for key in sorted(groups[0].keys() - left_out - NO_SETTINGS):
            pairs = [(_base(old, key), _base(new, key)) for old, new in zip(there[name], groups, strict=True)]
            pairs = [pair for pair in pairs if None not in pair and not _alike(*pair)]
            if pairs:
                found.append(f'{key}{of} is {pairs[0][0]!r} there, {pairs[0][1]!r} here')
    return found


def _alike(a: Any, b: Any) -> bool:
    both = all(isinstance(value, (int, float)) for value in (a, b))
    return math.isclose(a, b, rel_tol=1e-6) if both else a == b


def _base(group: dict, key: str) -> Any:
    """A setting of a group of parameters, without what a schedule has made of it."""
    value = group.get(f'initial_{key}', group.get(key))
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else value.tolist()
    return tuple(value) if isinstance(value, list) else value


def note_data(dataset: Dataset, meta: dict) -> None:
    """Put the numbers that :func:`check_same_data` compares into a checkpoint's ``meta``."""
    meta.update({IMAGES: _sizes(dataset), PROCESSES: get_world_size()})


def check_same_data(dataset: Dataset, meta: dict, path: str | Path) -> None:
    """Refuse a data set that has other numbers of images than that of the run; warn of other numbers of processes.

    Raises:
        ValueError: The numbers of images, by source, differ, so that the order of images would be another.
    """
    before, now = meta.get(IMAGES), _sizes(dataset)
    if before is not None and before != now:
        raise ValueError(
            f'{path} is of a run on {before} images (by source), this data set has {now}: their order depends on '
            f'their number. Restore the lists and folders, {WAYS_OUT}'
        )
    processes = meta.get(PROCESSES, get_world_size())
    if processes != get_world_size():
        print_log(
            f'{path} was written by {processes} processes, there are {get_world_size()} now: images come in another '
            'order, and as many steps see another number of them. This is not the run that it would have been',
            logger='current',
            level=logging.WARNING,
        )


def _sizes(dataset: Dataset) -> list[int]:
    return list(getattr(dataset, 'source_sizes', None) or [len(dataset)])


def _check_seed(config: Config, content: dict, path: str | Path) -> None:
    """The order of images follows from the seed, so that a resumed run has to keep it."""
    seed, wanted = content['meta'].get('seed'), config.get('randomness', {}).get('seed')
    if wanted is None and seed is not None:
        config.randomness = dict(config.get('randomness', {}), seed=seed)
    elif seed is not None and seed != wanted:
        raise ValueError(
            f'{path} is of a run with seed {seed}, this one has seed {wanted}: resume with --seed {seed}'
        )


def _keep_phases(config: Config, content: dict, path: str | Path) -> None:
    """A longer run would have a longer warm-up, which the one that goes on has behind it."""
    stored = _read(content['meta'].get('cfg'))
    for key, (here, there) in (keep_phases(config, stored) if stored is not None else {}).items():
        print_log(
            f'{key} stays {there}, as in the run that {path} is of; by the new length it would be {here}', 'current'
        )


def _check_schedule_ends(config: Config, content: dict, path: str | Path) -> None:
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
                f'{ends}; a resumed run keeps the former. Set param_scheduler.N.end to what they were, {WAYS_OUT}'
            )


def _settings(config: Mapping) -> dict[str, Any]:
    """What a resume may not change, by its dotted name; without what is not set, or is the default."""
    names = ('train_cfg', 'train_dataloader', 'optim_wrapper', 'auto_scale_lr')
    train, loader, wrapper, scale = (_mapping(config.get(name)) for name in names)
    schedules = config.get('param_scheduler')
    parts = {
        'train_cfg': _only(train, ('type', 'by_epoch')),
        'train_dataloader': {**_only(loader, LOADING), 'dataset': _images(loader.get('dataset') or {})},
        'optim_wrapper': _only(wrapper, OPTIMIZING),
        'param_scheduler': [schedules] if isinstance(schedules, Mapping) and 'type' in schedules else schedules,
        'auto_scale_lr': scale if scale.get('enable') else None,
    }
    return {
        name: value
        for name, value in _leaves(parts)
        if value not in (None, '', ()) and value != DEFAULTS.get(name.rpartition('.')[2])
    }


def _mapping(part: Any) -> Mapping:
    return part if isinstance(part, Mapping) else {}


def _only(part: Mapping, keys: tuple[str, ...]) -> dict:
    return {key: part[key] for key in keys if key in part}


def _images(dataset: Any) -> Any:
    """A data set's config without all that does not choose its images."""
    if isinstance(dataset, Mapping):
        return {key: _images(value) for key, value in dataset.items() if key in CHOOSING}
    return [_images(one) for one in dataset] if _is_list_of_dicts(dataset) else dataset


def _leaves(part: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """Values and lists of values below a part of a config, by their names."""
    if isinstance(part, Mapping) or _is_list_of_dicts(part):
        for key, value in part.items() if isinstance(part, Mapping) else enumerate(part):
            if key not in FREE:
                yield from _leaves(value, f'{name}.{key}' if name else str(key))
    else:
        yield name, _plain(part, name.rpartition('.')[2] == 'type')


def _is_list_of_dicts(part: Any) -> bool:
    return isinstance(part, (list, tuple)) and bool(part) and isinstance(part[0], Mapping)


def _plain(value: Any, is_type: bool) -> Any:
    """A value that compares well: lists are tuples, a type is its bare name, and of a full path the end counts."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(one, False) for one in value)
    if isinstance(value, type):
        return value if value is _Unreadable else value.__name__
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and is_type:
        return value.rpartition('.')[2]
    if isinstance(value, str) and (Path(value).is_absolute() or PureWindowsPath(value).is_absolute()):
        return PureWindowsPath(value).name
    return value


def _text(settings: dict[str, Any], name: str) -> str:
    last = name.rpartition('.')[2]
    return repr(settings[name]) if name in settings else repr(DEFAULTS[last]) if last in DEFAULTS else 'not set'


def _read(text: Any) -> dict[str, Any] | None:
    """A config from the text that mmengine stores, which is a program but is not executed."""
    try:
        tree = ast.parse(text)
        return {
            target.id: _evaluate(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _evaluate(node: ast.expr) -> Any:
    """A value that is written as a literal, or as a call of ``dict``."""
    match node:
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=keywords):
            return {keyword.arg: _evaluate(keyword.value) for keyword in keywords}
        case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as inner], keywords=[]):
            return _evaluate(inner)
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {key.value: _evaluate(value) for key, value in pairs if isinstance(key, ast.Constant)}
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_evaluate(part) for part in parts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return _Unreadable
