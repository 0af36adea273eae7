"""From the description of an experiment to its runs."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from mmseg_acl.engine import OptionsAction, load_config
from mmseg_acl.evaluation.cross_dataset import OWN, TEST_SETS
from mmseg_acl.evaluation.polyp_metric import PROTOCOLS
from mmseg_acl.experiments.identity import fingerprint
from mmseg_acl.methods import BY_FOLDER, METHODS
from mmseg_acl.shipped import shipped_path

# The axis whose values are folders of methods, and what stands for all of those that the paper compares.
METHOD, PUBLISHED = 'method', 'published'
ENTRY_KEYS = ('config', 'label', 'name', 'options', 'seeds')
# What every file system has in names.
NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,99}')
DESCRIPTION_KEYS = ('title', 'runs', 'seeds', 'test_sets', 'protocols', 'tables')


@dataclass(frozen=True)
class Run:
    """One training with one seed.

    Attributes:
        path: Config file.
        seed: Of everything random.
        label: Row of the tables.
        axes: What the description's entry was expanded by, such as method, data and partition.
        options: ``KEY=VALUE``, as ``--cfg-options`` takes them.
        config: The resolved config.
        hash: Its :func:`~mmseg_acl.experiments.identity.fingerprint`.
        given_name: What the description calls it; '' where it does not.
    """

    path: Path
    seed: int
    label: str
    axes: dict[str, str]
    options: tuple[str, ...]
    config: Config = field(repr=False)
    hash: str
    given_name: str = ''

    @property
    def key(self) -> tuple[str, int]:
        """What makes this run the same as another."""
        return self.hash, self.seed

    @property
    def name(self) -> str:
        """A name for its folder; unlike the key it need not be unique."""
        changed = f'_{self.hash[:6]}' if self.options else ''
        return f'{self.given_name or f"{self.path.parent.name}_{self.path.stem}{changed}"}_seed{self.seed}'

    @property
    def max_iters(self) -> int:
        """Length of the training."""
        return int(self.config.train_cfg.max_iters)


@dataclass(frozen=True)
class Experiment:
    """A description file, read and checked; see :func:`read_experiment`."""

    name: str
    title: str
    runs: list[Run]
    test_sets: list[str]
    protocols: list[str]
    tables: list[dict[str, Any]]

    @cached_property
    def distinct(self) -> list[Run]:
        """Runs without repetitions: two entries may lead to one and the same training."""
        return list({run.key: run for run in self.runs}.values())


def read_experiment(path: str | Path) -> Experiment:
    """Read a description and expand its grid.

    A description is a YAML file with ``runs``, a list of entries. An entry has a ``config``, a path that counts from
    the description's folder and may have ``{placeholders}``; any other key is an axis, a value or a list of them,
    and the entry stands for the product of its axes and seeds. Values of the axis ``method`` are folders of
    :mod:`mmseg_acl.methods`; ``published`` stands for all that the paper compares. ``label`` is the row in the tables
    (default: the name of ``method``), ``options`` are settings as ``--cfg-options`` takes them, ``name`` that of the
    run's folder without the seed (default: that of the config, with a part of the hash where there are options). All
    three may have placeholders. Beside ``runs`` stand ``title``, ``seeds`` (default: 0), ``test_sets`` (default: all
    known ones; ``own`` is the config's), ``protocols`` (default: image) and ``tables``, see
    :func:`~mmseg_acl.experiments.tables.write_tables`.

    Raises:
        FileNotFoundError: The description or a config is missing.
        ValueError: A key or value is none that a description has; the message says which are.
    """
    file = Path(shipped_path(str(path)))
    if not file.is_file():
        raise FileNotFoundError(
            f'no description at {path}; those that come with the project lie in configs/experiments'
        )
    try:
        content = yaml.safe_load(file.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no YAML in UTF-8: {error}') from error
    if not isinstance(content, dict) or not content.get('runs') or not isinstance(content['runs'], list):
        raise ValueError(f'{path} has no runs: it needs a list of entries, such as - config: ../aclnet/x.py')
    _only(content, DESCRIPTION_KEYS, str(path))
    for key, kind, words in (('title', str, 'a text'), ('tables', list, 'a list of tables')):
        if not isinstance(content.get(key, kind()), kind):
            raise ValueError(f'{path}: {key} is {content[key]!r}; it must be {words}')
    test_sets = _list(content.get('test_sets', list(TEST_SETS)))
    protocols = _list(content.get('protocols', ['image']))
    for key, found, allowed in (('test_sets', test_sets, (*TEST_SETS, OWN)), ('protocols', protocols, PROTOCOLS)):
        unknown = [name for name in found if name not in allowed]
        if unknown or not found:
            raise ValueError(f'{path}: {key} is {found}; allowed are {", ".join(allowed)}')
    if 'image' not in protocols:
        raise ValueError(f'{path}: protocols is {protocols}; the tables need image among them')
    seeds = _seeds(content.get('seeds', [0]), path)
    configs: dict[tuple, tuple[Config, str]] = {}
    runs = [run for entry in content['runs'] for run in _expand(entry, file, seeds, configs)]
    tables = content.get('tables', [])
    return Experiment(file.stem, content.get('title', file.stem), runs, test_sets, protocols, tables)


def _expand(entry: dict, file: Path, seeds: list[int], configs: dict[tuple, tuple[Config, str]]) -> list[Run]:
    """The runs of one entry; ``configs`` keeps what was read."""
    if not isinstance(entry, dict) or 'config' not in entry:
        raise ValueError(f'{file}: the entry {entry!r} of runs has no config')
    for key in ('config', 'label'):
        if not isinstance(entry.get(key, ''), str):
            raise ValueError(f'{file}: {key} is {entry[key]!r}; it must be a text')
    for key, value in entry.items():
        if key not in ENTRY_KEYS and any(not isinstance(part, (str, int, float)) for part in _list(value)):
            raise ValueError(f'{file}: the axis {key} is {value!r}; it must be a text or number, or a list of them')
    patterns = _list(entry.get('options', []))
    if any(not isinstance(option, str) or '=' not in option for option in patterns):
        raise ValueError(f'{file}: options is {patterns}; it must be a list of KEY=VALUE')
    axes = {key: [str(value) for value in _list(values)] for key, values in entry.items() if key not in ENTRY_KEYS}
    if METHOD in axes:
        axes[METHOD] = _folders(axes[METHOD])
    runs = []
    for values in product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        path = Path(os.path.normpath(file.parent / shipped_path(_fill(entry['config'], point, file))))
        options = tuple(_fill(option, point, file) for option in patterns)
        if (path, options) not in configs:
            config = load_config(os.path.relpath(path), options=parse_options(options))
            if config.train_cfg.get('max_iters') is None:
                raise ValueError(f'{path} trains by epochs: only configs with train_cfg.max_iters can be in a grid')
            configs[path, options] = config, fingerprint(config)
        config, digest = configs[path, options]
        known = BY_FOLDER.get(point.get(METHOD, ''))
        label = _fill(entry.get('label') or (known.name if known else path.stem), point, file)
        name = _fill(str(entry.get('name', '')), point, file)
        if name and not NAME.fullmatch(name):
            raise ValueError(f'{file}: the name {name!r} becomes that of a folder: letters, digits and - _ . only')
        for seed in _seeds(entry.get('seeds', seeds), file):
            runs.append(Run(path, seed, label, point, options, config, digest, name))
    return runs


def _folders(methods: list[str]) -> list[str]:
    """The folders that the axis ``method`` stands for."""
    published = [method.folder for method in METHODS if method.published]
    return [folder for name in methods for folder in (published if name == PUBLISHED else [name])]


def parse_options(options: tuple[str, ...]) -> dict | None:
    """Options as the command line has them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction)
    return parser.parse_args(['--cfg-options', *options] if options else []).cfg_options


def _fill(pattern: str, point: dict[str, str], file: Path) -> str:
    try:
        return pattern.format(**point)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f'{file}: {pattern!r} asks for {error}, but the entry has the axes {", ".join(point) or "none"}'
        ) from error


def _seeds(value: Any, file: str | Path) -> list[int]:
    seeds = _list(value)
    if not seeds or any(not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 for seed in seeds):
        raise ValueError(f'{file}: seeds is {value!r}; it must be a list of whole numbers from 0')
    return seeds


def _only(content: dict, allowed: tuple[str, ...], where: str) -> None:
    unknown = [key for key in content if key not in allowed]
    if unknown:
        raise ValueError(f'{where} has the key {unknown[0]!r}; allowed are {", ".join(allowed)}')


def _list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]
