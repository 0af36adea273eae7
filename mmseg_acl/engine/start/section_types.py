"""Is every section of a config of the kind that a run reads?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmengine.config import Config

LOADER = 'a dict, such as dict(batch_size=1, dataset=dict(...), sampler=dict(...))'
TYPED = "a dict, such as dict(type='...')"


class Kind(NamedTuple):
    """What a value may be.

    Attributes:
        types: Its types.
        words: The same for a reader.
    """

    types: tuple[type, ...]
    words: str


DICT = Kind((Mapping,), TYPED)
DICTS = Kind((Mapping, list, tuple), "a dict or a list of dicts, such as [dict(type='...')]")
LIST = Kind((list, tuple), "a list of dicts, such as [dict(type='...')]")
SECTIONS: dict[str, Kind] = {
    'model': DICT,
    'train_dataloader': Kind((Mapping,), LOADER),
    'val_dataloader': Kind((Mapping,), LOADER),
    'test_dataloader': Kind((Mapping,), LOADER),
    'train_cfg': Kind((Mapping,), "a dict, such as dict(type='IterBasedTrainLoop', max_iters=1200)"),
    'val_cfg': DICT,
    'test_cfg': DICT,
    'optim_wrapper': Kind(
        (Mapping,), "a dict, such as dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))"
    ),
    'param_scheduler': DICTS,
    'val_evaluator': DICTS,
    'test_evaluator': DICTS,
    'default_hooks': Kind((Mapping,), "a dict of hooks, such as dict(logger=dict(type='LoggerHook', interval=50))"),
    'custom_hooks': LIST,
    'env_cfg': Kind((Mapping,), 'a dict, such as dict(cudnn_benchmark=True)'),
    'randomness': Kind((Mapping,), 'a dict, such as dict(seed=0)'),
    'log_processor': DICT,
    'visualizer': DICT,
    'load_from': Kind((str,), 'the path or address of a checkpoint'),
    'work_dir': Kind((str,), 'a path'),
}
# Of sections that are there.
PARTS: dict[str, Kind] = {
    'optim_wrapper.optimizer': Kind((Mapping,), "a dict, such as dict(type='SGD', lr=0.01)"),
    'optim_wrapper.paramwise_cfg': Kind(
        (Mapping,), 'a dict, such as dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))'
    ),
    'optim_wrapper.clip_grad': Kind((Mapping,), 'a dict, such as dict(max_norm=10)'),
    **{f'{name}_dataloader.sampler': DICT for name in ('train', 'val', 'test')},
    **{f'{name}_dataloader.dataset': DICT for name in ('train', 'val', 'test')},
}
# Lists whose entries are dicts.
ENTRIES = ('custom_hooks', 'param_scheduler', 'val_evaluator', 'test_evaluator')
LEVELS = ('CRITICAL', 'ERROR', 'WARNING', 'INFO', 'DEBUG', 'NOTSET')


def check_section_types(config: Config) -> None:
    """Refuse a section that is none.

    Raises:
        ValueError: The message names it, its value, and what it must be.
    """
    for path, kind in (*SECTIONS.items(), *PARTS.items()):
        value = _find(config, path)
        if value is not None and not isinstance(value, kind.types):
            raise ValueError(f'{path} is {value!r}; it must be {kind.words}')
    for name in ENTRIES:
        value = config.get(name)
        for number, entry in enumerate(value if isinstance(value, (list, tuple)) else []):
            if isinstance(entry, (str, int, float, list, tuple)):
                raise ValueError(f'{name}[{number}] is {entry!r}; it must be {TYPED}')
    for name, hook in (config.get('default_hooks') or {}).items():
        if isinstance(hook, (str, int, float, list, tuple)):
            raise ValueError(f'default_hooks.{name} is {hook!r}; it must be {TYPED}, or None to leave it out')
    level = config.get('log_level')
    if level is not None and level not in LEVELS and not (isinstance(level, int) and not isinstance(level, bool)):
        raise ValueError(f'log_level is {level!r}; allowed are {", ".join(LEVELS)}')


def _find(config: Config, path: str) -> Any:
    value = config
    for key in path.split('.'):
        value = value.get(key) if isinstance(value, (Mapping, Config)) else None
    return value
