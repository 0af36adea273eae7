"""What every config outside `_base_` comes down to, as data: to see that a change of the files changes no training.

    python tests/resolved_configs.py --configs configs --out tests/data/configs_1a6be0e.json

wrote the stored file, run on the tree of commit 1a6be0e (``PYTHONPATH`` pointing to it; two of the modules that are
imported here lay in ``mmseg_acl.engine`` then). ``test_resolved_configs.py`` compares today's configs with it.

The file has three parts. ``configs``: for each config file the keys that a run reads, and the number of its list of
parameters. ``values``: the distinct dicts that the keys have; ``#12`` stands for the twelfth of them. ``parameters``:
for each distinct pair of model and optimizer ``[learning rate, weight decay, number, digest of the names]`` by the
longest prefix below which all learning parameters have the same two.

``plain_steps`` says pipelines with mmcv's and mmseg's steps, so that those of the two tracks can be compared, and
today's with those of 1a6be0e.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mmseg_acl  # noqa: F401  registers the package's parts with mmseg
from mmseg_acl.engine.start.config_checks import RUN_KEYS
from mmseg_acl.engine.start.weights import VARIABLE, resolve_weights

# What a model and its optimizer are built of.
BUILT = ('model', 'optim_wrapper')


def config_files(root: Path) -> list[Path]:
    """Files below ``root`` that can be trained with: the demo has pieces, too."""
    files = sorted(root.glob('[!_]*/**/*.py'))
    return [
        file for file in files if (file.parent.name, file.stem) not in {('demo', 'schedule'), ('demo', 'segmentor')}
    ]


def read_keys(config: Config) -> dict[str, Any]:
    """What a run reads of a config, in JSON's types."""
    return json.loads(json.dumps({key: value for key, value in config.to_dict().items() if key in RUN_KEYS}))


def plain_steps(value: Any) -> Any:
    """What is said with this package's quick steps, said with mmcv's and mmseg's."""
    if isinstance(value, list):
        value = [plain for step in value for plain in _plain_step(step)]
        valid, resize = dict(type='MarkValid'), [step for step in value if _step_type(step) == 'RandomResize']
        if valid in value and resize:
            value.remove(valid)
            value.insert(value.index(resize[0]), valid)
        return [plain_steps(step) for step in value]
    return {key: plain_steps(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _plain_step(step: Any) -> list:
    kind = _step_type(step)
    if kind == 'RandomResizeAndCrop':
        resize = {key: step[key] for key in ('scale', 'ratio_range')}
        crop = dict(type='RandomCrop', crop_size=step['crop_size'])
        return [dict(type='RandomResize', **resize, resize_type='mmseg.Resize'), crop]
    if kind == 'RandomFlipFields':
        return [dict(step, type='RandomFlip')]
    if kind == 'RandomGrey':
        weights = (0.114, 0.587, 0.299)
        return [dict(type='RandomGrayscale', prob=step['prob'], keep_channels=True, channel_weights=weights)]
    return [step]


def _step_type(step: Any) -> str | None:
    return step.get('type') if isinstance(step, dict) else None


def parameter_settings(config: Config) -> dict[str, list]:
    """Learning rate, weight decay, number and digest of the names of the parameters that learn, by prefix."""
    model = MODELS.build(config.model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    found = [
        (names[id(parameter)], (group['lr'], group['weight_decay']))
        for each in wrappers
        for group in each.optimizer.param_groups
        for parameter in group['params']
        if parameter.requires_grad
    ]
    if len(found) != sum(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError('the optimizers do not hold every parameter that learns exactly once')
    return dict(_shortened(sorted(found), depth=2))


def _shortened(found: list[tuple[str, tuple]], depth: int) -> Iterator[tuple[str, list]]:
    """Sorted (name, settings), those with the same first ``depth`` parts as one where their settings are the same."""
    for prefix, group in groupby(found, key=lambda item: '.'.join(item[0].split('.')[:depth])):
        members = list(group)
        settings = {setting for _, setting in members}
        if len(settings) == 1:
            digest = hashlib.sha256('\n'.join(name for name, _ in members).encode()).hexdigest()[:12]
            yield prefix, [*settings.pop(), len(members), digest]
        else:
            yield from _shortened(members, depth + 1)


class Store:
    """Distinct dicts by number; the same one is kept once."""

    def __init__(self, values: list[dict] | None = None) -> None:
        self.values = values or []
        self.numbers: dict[str, int] = {}

    def put(self, value: Any) -> Any:
        """``value`` with a number in place of every dict."""
        if isinstance(value, list):
            return [self.put(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        short = {key: self.put(inner) for key, inner in value.items()}
        text = json.dumps(short, sort_keys=True)
        if text not in self.numbers:
            self.numbers[text] = len(self.values)
            self.values.append(short)
        return f'#{self.numbers[text]}'

    def get(self, short: Any) -> Any:
        """The inverse of :meth:`put`."""
        if isinstance(short, list):
            return [self.get(inner) for inner in short]
        if isinstance(short, str) and short.startswith('#'):
            return {key: self.get(inner) for key, inner in self.values[int(short[1:])].items()}
        return short


def record(root: Path) -> dict:
    """The content of the stored file for the configs below ``root``."""
    os.environ[VARIABLE] = 'none'
    init_default_scope('mmseg')
    MMLogger.get_current_instance().setLevel(logging.ERROR)  # a line for every parameter
    store, configs = Store(), {}
    parameters: dict[str, tuple[int, dict]] = {}
    for file in config_files(root):
        config = Config.fromfile(file)
        keys = read_keys(config)
        kind = json.dumps([keys[key] for key in BUILT], sort_keys=True)
        if kind not in parameters:
            resolve_weights(config.model)
            parameters[kind] = len(parameters), parameter_settings(config)
        configs[file.relative_to(root).as_posix()] = dict(
            parameters=parameters[kind][0], **{key: store.put(value) for key, value in sorted(keys.items())}
        )
    return dict(configs=configs, values=store.values, parameters=[found for _, found in parameters.values()])


def write(content: dict, path: Path) -> None:
    """As JSON, one config, value or list of parameters a line."""
    lines = []
    for name, part in content.items():
        if isinstance(part, dict):
            inner = [f'{json.dumps(key)}: {json.dumps(value)}' for key, value in part.items()]
            lines.append(f'{json.dumps(name)}: {{\n' + ',\n'.join(inner) + '\n}')
        else:
            lines.append(f'{json.dumps(name)}: [\n' + ',\n'.join(map(json.dumps, part)) + '\n]')
    path.write_text('{\n' + ',\n'.join(lines) + '\n}\n', encoding='utf-8')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--configs', type=Path, default=Path('configs'), help='folder of the configs')
    parser.add_argument('--out', type=Path, required=True, help='file to write')
    args = parser.parse_args()
    write(record(args.configs), args.out)
    print(f'written: {args.out}, {args.out.stat().st_size} bytes')


if __name__ == '__main__':
    main()
