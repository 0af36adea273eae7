"""Phases of a run: what lasts for, or begins after, some of its iterations.

A config gives a phase as a share of the run (a float from 0 to 1), so that it follows ``train_cfg.max_iters``, or as
a whole number of iterations, which stays as it is. Which keys are phases is said here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from mmengine.config import Config
from torch import nn

# Arguments of the models, and the least that they can be.
MODEL_PHASES = {
    'warmup_iters': 0,
    'rampup_iters': 0,
    'refine_after': 0,
    'labels_after': 0,
    'eln_iters': 1,
    'alternate_every': 1,
    'total_iters': 1,
}
# Of schedules that count iterations.
SCHEDULE_PHASES = ('begin', 'end', 'milestones', 'step_size', 'T_max')
# Where a config does not say when to validate and to save, that is so many times in a run, but never sooner than
# after SHORTEST iterations.
INTERVALS, SHORTEST = 20, 300


def is_share(value: Any) -> bool:
    """Whether a phase is given as a share of the run."""
    return isinstance(value, float) and 0 <= value <= 1


def check_phase(name: str, value: Any) -> None:
    """Refuse what is neither a number of iterations nor a share.

    Raises:
        ValueError: See above; the message names the argument.
    """
    least = MODEL_PHASES[name]
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not whole and not (is_share(value) and value >= min(least, 1e-9)):
        raise ValueError(
            f'{name} is {value!r}; it must be a whole number of iterations of at least {least}, or a share of '
            'the run, written with a point, from 0.0 to 1.0'
        )


def resolve_model(model: nn.Module, length: int) -> None:
    """Turn shares that a model still has into iterations: `load_config` does, other programs read configs themselves.

    Args:
        model: A method.
        length: Iterations of the run.
    """
    for name, least in MODEL_PHASES.items():
        value = getattr(model, name, None)
        if is_share(value):
            setattr(model, name, _iterations(value, length, least))


def resolve_phases(config: Config, iters: int | None = None, given: Collection[str] = ()) -> None:
    """Turn all shares of a config into iterations, in place, and fill in the two intervals where they are not set.

    Args:
        config: A config as it stands in its file, with the options of the command line laid over it.
        iters: The new length of the run. Phases that are numbers of iterations are scaled with it, too.
        given: Dotted keys from the command line, which stay as they are given.

    Raises:
        ValueError: `iters` is below 1 or the run is counted in epochs, or a share has no length to refer to.
    """
    train = config.get('train_cfg') or {}
    length = train.get('max_iters') if isinstance(train, dict) else None
    if iters is not None:
        if iters < 1:
            raise ValueError(f'--iters is {iters}; a run has at least 1 iteration')
        if not _is_length(length):
            raise ValueError(f'--iters {iters}: {config.filename} has no train_cfg.max_iters that it could replace')
        if 'train_cfg.max_iters' in given:
            raise ValueError('--iters and --cfg-options train_cfg.max_iters both give the length: leave one out')
    if not _is_length(length):
        if any(is_share(part.get(key)) for part, key, _, _ in _phases(config)):
            raise ValueError(f'{config.filename} has shares of a run, but no train_cfg.max_iters that they refer to')
        return
    scale = 1 if iters is None else iters / length
    length = train.max_iters = length if iters is None else iters
    for part, key, path, least in _phases(config):
        value = part.get(key)
        if is_share(value):
            part[key] = _iterations(value, length, least)
        elif scale != 1 and path not in given:
            part[key] = _scaled(value, scale, least)
    _fill_in_intervals(config, length)


def too_late(config: Config) -> str | None:
    """What of a method a run is too short for; None where it reaches all of it."""
    model, train = config.get('model') or {}, config.get('train_cfg') or {}
    length = train.get('max_iters') if isinstance(train, dict) else None
    found = {key: model.get(key, 0) for key in MODEL_PHASES}
    if not _is_length(length) or not all(_is_length(value) for value in found.values()):
        return None
    warmup = found['warmup_iters']
    if warmup and warmup >= length:
        return (
            f'the warm-up lasts {warmup} iterations and the run {length}: it will learn from labelled images ALONE. '
            'Lower model.warmup_iters, or raise train_cfg.max_iters'
        )
    for key, begins, what in (
        ('refine_after', warmup + found['refine_after'], 'pseudo-labels will NEVER be refined'),
        ('eln_iters', warmup + found['eln_iters'], 'it will NEVER learn from unlabelled images'),
        ('labels_after', found['labels_after'], 'pseudo-labels will NEVER begin'),
    ):
        if found[key] and begins >= length:
            return (
                f'{what}: that begins at iteration {begins}, and the run ends at {length}. Lower model.{key}, or '
                'raise train_cfg.max_iters'
            )
    return None


def keep_phases(config: Config, stored: Config) -> dict[str, tuple[int, int]]:
    """Give a resumed run of another length the phases that it began with, in place.

    Returns:
        For each key that differed, what the config had and what the run has.
    """
    now, then = ([part.get(key) or {} for key in ('model', 'train_cfg')] for part in (config, stored))
    if now[1].get('max_iters') == then[1].get('max_iters'):
        return {}
    differing = [key for key in MODEL_PHASES if key in now[0] and key in then[0] and now[0][key] != then[0][key]]
    kept = {f'model.{key}': (now[0][key], then[0][key]) for key in differing}
    now[0].update({key: then[0][key] for key in differing})
    return kept


def _phases(config: Config) -> Iterator[tuple[dict, str, str, int]]:
    """Each phase that a config sets: the dict that has it, its key there, its dotted name and the least it can be."""
    model = config.get('model')
    if isinstance(model, dict):
        yield from ((model, key, f'model.{key}', least) for key, least in MODEL_PHASES.items() if key in model)
    for part, key, path in _interval_places(config):
        if part.get(key) is not None:
            yield part, key, path, 1
    schedules = config.get('param_scheduler') or []
    several = isinstance(schedules, dict) and 'type' not in schedules
    for name, listed in schedules.items() if several else [('', schedules)]:
        for number, schedule in enumerate([listed] if isinstance(listed, dict) else listed):
            if isinstance(schedule, dict) and not schedule.get('by_epoch', True):
                path = '.'.join(filter(None, ('param_scheduler', name, str(number))))
                yield from (
                    (schedule, key, f'{path}.{key}', int(key == 'step_size'))
                    for key in SCHEDULE_PHASES
                    if schedule.get(key) is not None
                )


def _interval_places(config: Config) -> Iterator[tuple[dict, str, str]]:
    """Where a run that counts iterations has its two intervals."""
    train = config.get('train_cfg')
    if isinstance(train, dict) and train.get('max_iters') is not None:
        yield train, 'val_interval', 'train_cfg.val_interval'
        hook = (config.get('default_hooks') or {}).get('checkpoint')
        if isinstance(hook, dict) and not hook.get('by_epoch', True):
            yield hook, 'interval', 'default_hooks.checkpoint.interval'


def _fill_in_intervals(config: Config, length: int) -> None:
    wrapper = config.get('optim_wrapper')
    counts = wrapper.get('accumulative_counts', 1) if isinstance(wrapper, dict) else 1
    for part, key, _ in _interval_places(config):
        if part.get(key) is None:
            part[key] = min(max(round(length / INTERVALS), SHORTEST), length)
            if isinstance(counts, int) and counts > 1:  # gradients that wait for more are in no checkpoint
                part[key] = max(part[key] // counts, 1) * counts


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _iterations(share: float, length: int, least: int) -> int:
    return max(round(share * length), least)


def _scaled(value: Any, scale: float, least: int) -> Any:
    """A number of iterations, or a list of them, in a run that is `scale` times as long; -1 stays."""
    if isinstance(value, (list, tuple)):
        return [_scaled(inner, scale, least) for inner in value]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return value
    return max(round(value * scale), least)
