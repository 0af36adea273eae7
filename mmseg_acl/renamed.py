"""What had another name before: keys of configs, types, logged losses. One word a thing since then.

Errors read it to name what a user of an older config means, and stored logs are migrated by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# By the class that takes the argument: its old name and the present one.
RENAMED_KEYS: dict[str, dict[str, str]] = {
    'ACLNet': {
        'lambda_con': 'consistency_weight',
        'lambda_tra': 'contrast_weight',
        'lambda_aff': 'affinity_weight',
    },
    'CAC': {'lambda_con': 'contrast_weight'},
    'ELN': {'pseudo_weight': 'consistency_weight'},
    'PSMT': {'unsup_weight': 'consistency_weight'},
    'U2PL': {'lambda_con': 'consistency_weight', 'lambda_contrast': 'contrast_weight'},
}

# What a config names by `type`.
RENAMED_TYPES: dict[str, str] = {
    'MultiBranchSegDataPreprocessor': 'MultiViewSegDataPreprocessor',
    'branch_collate': 'view_collate',
}

# By the class that logs them: losses in `scalars.json` and in the tables and pictures made of it.
RENAMED_SCALARS: dict[str, dict[str, str]] = {
    'ACLNet': {
        'loss_con': 'loss_consistency',
        'loss_tra': 'loss_contrast',
        'loss_aff': 'loss_affinity',
    },
    'AEL': {'loss_con': 'loss_consistency', 'loss_con_sup': 'loss_consistency_labelled'},
    'CAC': {'loss_con': 'loss_contrast'},
    'CAFD': {'loss_con': 'loss_consistency', 'kept': 'kept_share'},
    'ELN': {'loss_weak': 'loss_consistency_weak', 'loss_strong': 'loss_consistency_strong'},
    'MeanTeacher': {'loss_con': 'loss_consistency'},
    'PSMT': {'loss_con': 'loss_consistency', 'kept': 'kept_share'},
    'U2PL': {'loss_con': 'loss_consistency'},
}

# Files of configs that held a network, or a method on a network.
REMOVED_FILE = re.compile(r'_base_[/\\]models[/\\](?P<method>\w+)_(?P<network>r50|mbv2|swin)(-d8)?\.py')


def with_new_names(value: Any) -> Any:
    """A copy of a config, or of a part of one, in which what was renamed has its present name.

    Args:
        value: Dicts, lists and tuples of anything. A key is renamed in a dict whose ``type``, a string, names the
            class that took it.
    """
    if isinstance(value, dict):
        kind = value.get('type')
        known = RENAMED_KEYS.get(kind, {}) if isinstance(kind, str) else {}
        found = {known.get(key, key): with_new_names(inner) for key, inner in value.items()}
        if isinstance(kind, str):
            found['type'] = RENAMED_TYPES.get(kind, kind)
        return found
    if isinstance(value, (list, tuple)):
        return type(value)(with_new_names(inner) for inner in value)
    return value


def refuse_renamed(cls: type, keys: Iterable[str]) -> None:
    """Refuse arguments of ``cls`` that have another name now.

    Raises:
        ValueError: One of ``keys`` is an old name; the message has the present one.
    """
    for key in keys:
        for base in cls.__mro__:
            new = RENAMED_KEYS.get(base.__name__, {}).get(key)
            if new:
                raise ValueError(_told(f'{key!r} of {cls.__name__}', new))


def renamed_parts(value: Any, path: str = '') -> Iterator[str]:
    """A message for every key and type of a config, or of a part of one at ``path``, that has another name now."""
    if isinstance(value, dict):
        kind = value.get('type')
        kind = kind if isinstance(kind, str) else getattr(kind, '__name__', None)
        if kind in RENAMED_TYPES:
            yield _told(f'{path}.type={kind!r}', RENAMED_TYPES[kind])
        for key, inner in value.items():
            here = f'{path}.{key}' if path else str(key)
            if key in RENAMED_KEYS.get(kind, {}):
                yield _told(f'{here} of {kind}', RENAMED_KEYS[kind][key])
            yield from renamed_parts(inner, here)
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from renamed_parts(inner, f'{path}[{number}]')


def renamed_type(old: str) -> Callable:
    """What stands in a registry under an old name: called in any way, it names the present one."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError(_told(f'type={old!r}', RENAMED_TYPES[old]))

    return refuse


def _told(old: str, new: str) -> str:
    return f'{old} has another name now, {new!r}: rename it in the config'


def instead_of_removed_file(text: str) -> str:
    """What to write instead of a file of configs that has gone, if ``text`` names one; else nothing.

    Args:
        text: The message of an error, such as that a file does not exist.
    """
    found = REMOVED_FILE.search(text)
    if not found:
        return ''
    network = f'_base_/networks/{found["network"]}.py'
    if found['method'] == 'deeplabv3':
        return f'. It is {network} now'
    track = 128 if found['network'] == 'mbv2' else 384
    return (
        f'. Networks and methods have files of their own now: name {network} and _base_/methods/{found["method"]}_'
        f'{track}.py in its place, and write model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)'
    )
