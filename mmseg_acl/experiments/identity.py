"""What makes two runs the same: all of a config that bears on the weights and on their scores."""

from __future__ import annotations

import hashlib
import json
import os
from copy import deepcopy
from pathlib import Path, PureWindowsPath
from typing import Any

from mmengine.config import Config

from mmseg_acl.engine.start.config_checks import DISSOLVED_HOOKS
from mmseg_acl.engine.start.weights import VARIABLE, resolve_weights

PARTS = (
    'model',
    'train_dataloader',
    'test_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'custom_hooks',
    'randomness',
    'model_wrapper_cfg',
    'sync_bn',
    'numerics',
)
# How fast and from where data are read, and what is looked at on the way: the same weights come out.
WITHOUT_EFFECT = {
    'data_root',
    'num_workers',
    'persistent_workers',
    'pin_memory',
    'prefetch_factor',
    'seed',
    'val_begin',
    'val_interval',
}
HOOKS_WITHOUT_EFFECT = {
    *DISSOLVED_HOOKS,
    'FiniteLossHook',
    'LabelRangeHook',
    'PseudoLabelRefinementHook',
    'ReportHook',
    'ResumeHook',
    'StopSignalHook',
}


def fingerprint(config: Config) -> str:
    """Sixteen hexadecimal digits, the same on every machine, for a config without its seed.

    Two configs share them where they train the same networks in the same way and test them through the same
    pipeline, however they were put together. Work dirs, data roots, numbers of workers and what is only logged do
    not count; of a path only the last part does, or, of a list of images, its content. Weights count by their
    name, and as absent where ``MMSEG_ACL_WEIGHTS`` is ``none``.

    Of the code only the version of the training steps is part of it (:mod:`mmseg_acl.numerics`); a run's record names
    the commit.
    """
    return _digest(_parts(config))


def _parts(config: Config) -> dict[str, Any]:
    """What of a config counts, in Python's own dicts."""
    parts = {key: config[key] for key in PARTS if config.get(key) is not None}
    if config.get('load_from') and not config.get('resume'):
        parts['load_from'] = config.load_from
    hooks = parts.get('custom_hooks', [])
    parts['custom_hooks'] = [hook for hook in hooks if hook['type'] not in HOOKS_WITHOUT_EFFECT]
    return parts


def _digest(parts: dict[str, Any]) -> str:
    random_start = os.environ.get(VARIABLE) == 'none'
    text = json.dumps(_portable(parts, random_start), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_resolved_weights(config: Config) -> Config:
    """A copy with the weights named by their files here, as they stand in the config that a run leaves.

    Raises:
        FileNotFoundError: The weights cannot be had.
    """
    resolved = deepcopy(config)
    resolve_weights(resolved.model)
    return resolved


def _portable(value: Any, random_start: bool) -> Any:
    """``value`` in JSON's types, free of what belongs to one machine."""
    if isinstance(value, dict):
        return {
            str(key): _portable(inner, random_start)
            for key, inner in value.items()
            if key not in WITHOUT_EFFECT and not (random_start and key == 'init_cfg' and _names_weights(inner))
        }
    if isinstance(value, (list, tuple)):
        return [_portable(inner, random_start) for inner in value]
    if isinstance(value, (str, Path)):
        return _portable_name(str(value))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return f'{value.__module__}.{value.__qualname__}' if isinstance(value, type) else repr(value)


def _names_weights(init_cfg: Any) -> bool:
    return isinstance(init_cfg, dict) and bool(init_cfg.get('checkpoint'))


def _portable_name(name: str) -> str:
    if name.endswith(('.txt', '.csv')) and Path(name).is_file():
        return 'list ' + hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16]
    if '://' in name or Path(name).is_absolute() or PureWindowsPath(name).is_absolute():
        return name.replace('\\', '/').rstrip('/').rsplit('/', 1)[-1].removesuffix('.pth')
    return name
