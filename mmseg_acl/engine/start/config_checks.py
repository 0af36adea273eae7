"""What is wrong with a config, said before anything is built of it."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Iterable, Iterator

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import OPTIMIZERS

from mmseg_acl.renamed import renamed_parts

# What the runner takes, and what is read of the config beside it.
RUN_KEYS = (set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}) | {
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'sync_bn',
}
NEEDED = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
# Settings that are looked up one by one, so that a misspelt one would go unnoticed; others become arguments.
LOOKED_UP = {
    'clip_grad': {'clip_value', 'error_if_nonfinite', 'foreach', 'max_norm', 'norm_type', 'type'},
    'env_cfg': {'cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'},
    'test_cfg': {'crop_size', 'mode', 'stride', 'type'},
    'paramwise_cfg': {
        'bias_decay_mult',
        'bias_lr_mult',
        'bypass_duplicate',
        'custom_keys',
        'dcn_offset_lr_mult',
        'dwconv_decay_mult',
        'flat_decay_mult',
        'norm_decay_mult',
    },
}
RANK_OF = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}
START_WITH = {'pytorch': 'torchrun (tools/dist_train.sh)', 'slurm': 'srun (tools/slurm_train.sh)', 'mpi': 'mpirun'}
ALIKE = 0.85
# Samplers that start anew for ever.
ENDLESS = ('SourceRatioSampler', 'InfiniteSampler')
# Hooks of older configs, and what has done their work since.
DISSOLVED_HOOKS = {'ChannelsLastHook': 'every run keeps its weights in channels-last order'}


def check_options(config: Config, options: dict) -> None:
    """Refuse a ``--cfg-options`` key that would change nothing.

    Raises:
        ValueError: It starts with no key that a run reads. One that the config file uses as a variable of its own
            has been copied to its places already. Or it leads into a list without saying to which entry.
    """
    for option in options:
        key = option.split('.')[0]
        if key in RUN_KEYS:
            _check_entries(config, option)
            continue
        if key in config:
            raise ValueError(
                f'--cfg-options {option} would change nothing: {key!r} is a variable of the config file, whose value '
                'has been copied to where it is used. Set it there, as in train_dataloader.dataset.... or model....'
            )
        raise ValueError(f'--cfg-options {option}: a run reads no {key!r}{did_you_mean(key, RUN_KEYS)}')


def _check_entries(config: Config, option: str) -> None:
    """mmengine looks for the key of an option in a list without naming either."""
    value, keys = config, option.split('.')
    for place, key in enumerate(keys):
        if isinstance(value, (list, tuple)):
            if not (key.isdecimal() and int(key) < len(value)):
                path = '.'.join(keys[:place])
                raise ValueError(
                    f'--cfg-options {option}: {path} is a list of {len(value)}: name an entry by its number, such as '
                    f'{".".join([path, "0", *keys[place + key.isdecimal() :]])}'
                )
            value = value[int(key)]
        else:
            value = value.get(key) if isinstance(value, (dict, Config)) else None


def check_config(config: Config) -> None:
    """Check what mmengine would read over or fail at late.

    Raises:
        ValueError, TypeError: A key is missing, misspelt or has another name now, or a number is none that a run
            can have.
    """
    for renamed in renamed_parts({key: value for key, value in config.items() if key in RUN_KEYS}):
        raise ValueError(renamed)
    missing = [key for key in NEEDED if config.get(key) is None]
    if missing:
        raise ValueError(f'{config.filename} has no {", ".join(missing)}: a config to train with needs them')
    for key in config:
        meant = difflib.get_close_matches(key, RUN_KEYS, 1, ALIKE)
        if key not in RUN_KEYS and meant:
            raise ValueError(
                f'the config sets {key!r}, which a run does not read{did_you_mean(key, RUN_KEYS)} Rename it, also if '
                'it is a variable of your own'
            )
    for path, found, allowed in _looked_up(config):
        unknown = sorted(set(found) - allowed)
        if unknown:
            raise ValueError(
                f'{path} sets {unknown[0]!r}, which is not read{did_you_mean(unknown[0], allowed)} There are '
                f'{", ".join(sorted(allowed))}'
            )
    hooks = config.get('default_hooks') or {}
    for name, hook in hooks.items():
        if isinstance(hook, dict) and 'type' not in hook:
            others = [other for other in hooks if other != name]
            raise ValueError(f'default_hooks sets {name!r}, which has no type{did_you_mean(name, others)}')
    _check_optimizers(config.optim_wrapper)
    _check_numbers(config)
    _check_loop(config)
    _check_sliding(config)
    launcher = config.get('launcher', 'none')
    variable = RANK_OF.get(launcher)
    if variable and variable not in os.environ:
        raise ValueError(
            f'--launcher {launcher} needs {variable} in the environment, which {START_WITH[launcher]} sets: start '
            'the program with it, or leave --launcher out'
        )


def leave_out_dissolved_hooks(config: Config) -> None:
    """Take hooks that are not needed any more out of an older config, in place."""
    hooks = config.get('custom_hooks') or []
    for hook in hooks:
        if hook.get('type') in DISSOLVED_HOOKS:
            print_log(
                f'custom_hooks names {hook["type"]}, which is not needed any more: {DISSOLVED_HOOKS[hook["type"]]}',
                logger='current',
            )
    if hooks:
        config.custom_hooks = [hook for hook in hooks if hook.get('type') not in DISSOLVED_HOOKS]


def rank(launcher: str) -> int:
    """Number of this process before the processes know of each other."""
    return int(os.environ.get(RANK_OF.get(launcher, ''), 0))


def _check_optimizers(wrapper: dict) -> None:
    """mmengine fails at an unknown optimizer without naming it."""
    for part in (wrapper, *(wrapper.get('separate') or {}).values()):
        kind = (part.get('optimizer') or {}).get('type')
        if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
            known = sorted(_torch_optimizers())
            raise ValueError(
                f'the optimizer {kind!r} is unknown{did_you_mean(kind, known)} There are {", ".join(known)}'
            )


def _torch_optimizers() -> set[str]:
    """Names of PyTorch's optimizers."""
    found = (value for value in vars(torch.optim).values() if inspect.isclass(value))
    return {kind.__name__ for kind in found if issubclass(kind, torch.optim.Optimizer)} - {'Optimizer'}


def _check_numbers(config: Config) -> None:
    seed = config.get('randomness', {}).get('seed')
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32):
        raise ValueError(f'randomness.seed is {seed!r}; it must be a whole number from 0 to {2**32 - 1}')
    for name, section, least in (
        ('max_iters', 'train_cfg', 1),
        ('max_epochs', 'train_cfg', 1),
        ('val_interval', 'train_cfg', 1),
        ('val_begin', 'train_cfg', 0),
        ('batch_size', 'train_dataloader', 1),
        ('batch_size', 'val_dataloader', 1),
        ('num_workers', 'train_dataloader', 0),
        ('num_workers', 'val_dataloader', 0),
    ):
        value = (config.get(section) or {}).get(name)
        if value is not None and not (isinstance(value, (int, float)) and value >= least and value % 1 == 0):
            raise ValueError(f'{section}.{name} is {value!r}; it must be a whole number of at least {least}')
    loader = config.train_dataloader
    ratio = (loader.get('sampler') or {}).get('ratio')
    size = loader.get('batch_size')
    if ratio and size and all(isinstance(count, int) for count in ratio) and size % max(sum(ratio), 1):
        raise ValueError(
            f'train_dataloader.batch_size is {size}; it must be a multiple of {sum(ratio)}, the sum of '
            f'sampler.ratio {tuple(ratio)}, or batches would have differing shares of labelled images'
        )


def _check_loop(config: Config) -> None:
    """An epoch of an endless sampler has no end."""
    loop, sampler = config.train_cfg, config.train_dataloader.get('sampler') or {}
    by_epoch = loop.get('type') == 'EpochBasedTrainLoop' or loop.get('by_epoch') or 'max_epochs' in loop
    if by_epoch and sampler.get('type') in ENDLESS:
        raise ValueError(
            f'train_cfg asks for epochs ({dict(loop)}), but train_dataloader.sampler is a {sampler["type"]}, which '
            "never ends: use train_cfg=dict(type='IterBasedTrainLoop', max_iters=...), or a DefaultSampler"
        )


def _check_sliding(config: Config) -> None:
    """mmseg looks for the window when it predicts."""
    for path, found, _ in _dicts(config):
        if path.startswith('model.') and path.endswith('.test_cfg') and found.get('mode') == 'slide':
            for key in ('crop_size', 'stride'):
                value = found.get(key)
                sides = value if isinstance(value, (list, tuple)) else ()
                if len(sides) != 2 or any(not isinstance(side, int) or side < 1 for side in sides):
                    raise ValueError(
                        f"{path}.mode is 'slide', which needs crop_size and stride, such as (512, 512) and "
                        f'(341, 341); {key} is {value!r}'
                    )


def _looked_up(config: Config) -> Iterator[tuple[str, dict, set[str]]]:
    """Sections of ``LOOKED_UP`` anywhere in a config."""
    for path, value, part in _dicts(config):
        key = path.rpartition('.')[2]
        # A constructor or a segmentor of another project may read what it likes.
        ours = key != 'paramwise_cfg' or 'constructor' not in part
        ours = ours and (key != 'test_cfg' or part.get('type') == 'EncoderDecoder')
        if key in LOOKED_UP and ours:
            yield path, value, LOOKED_UP[key]


def _dicts(part: dict, path: str = '') -> Iterator[tuple[str, dict, dict]]:
    """Each dict that a run reads of a config, after its dotted path; and the one that it stands in."""
    for key, value in part.items():
        if isinstance(value, dict) and (path or key in RUN_KEYS):
            inner = f'{path}.{key}' if path else key
            yield inner, value, part
            yield from _dicts(value, inner)


def did_you_mean(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, 1, 0.6)
    return f'. Did you mean {near[0]!r}?' if near else '.'
