"""The config of a run on a user's own data, as a file that `tools/train.py` takes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mmseg_acl.datasets.listed_frames import write_frame_list
from mmseg_acl.datasets.own import OwnData, Request, inspect_own_data
from mmseg_acl.datasets.own.pairs import Pair
from mmseg_acl.datasets.own.twins import write_twins
from mmseg_acl.engine.best import DATA_WARNINGS, data_warnings
from mmseg_acl.engine.start.work_dir import claim_work_dir
from mmseg_acl.methods import BY_FOLDER
from mmseg_acl.shipped import CONFIGS, read_config, shipped_path

BASES = CONFIGS / '_base_'
NETWORKS = ('mbv2', 'r50', 'swin')
SIZES = (128, 256, 384)
# Beside method, network and data set, a method may need other schedules and views: as its configs below configs/ do.
SCHEDULES = {'aclnet': '_clipped', 'aclnet_plus': '_clipped', 'cafd': '_adversarial'}
VIEWS = {'cac': 'two_crops_pipeline', 'unimatch': 'two_views_pipeline', 'unimatch_v2': 'two_views_pipeline'}
TWO_SOURCES = ('supervised_plus', 'supervised_strong')
LENGTHS = {128: 1200, 256: 13500, 384: 13500}
# A teacher that averages a thousand steps is of use after several thousand.
SHORT, SHORT_MOMENTUM = 5000, 0.99
LABELLED, UNLABELLED, VALIDATION, TEST = 'labelled.csv', 'unlabelled.csv', 'validation.csv', 'test.csv'
TWINS = 'twins.csv'


class Choices(NamedTuple):
    """How a user wants to train.

    Attributes:
        method: Its folder below ``configs/``.
        network: One of `NETWORKS`, or a config file with a ``model``.
        size: Of the images that are trained on.
        iters: Length of the run; None takes that of the size.
    """

    method: str = 'aclnet_plus'
    network: str = 'mbv2'
    size: int = 128
    iters: int | None = None


def prepare_own_run(
    request: Request, choices: Choices, work_dir: str | None = None, resume: bool = False
) -> tuple[Path, list[str]]:
    """Inspect a user's data and write the config of a run on them, with lists of its images beside it.

    Args:
        request: The data.
        choices: Method, network, size and length.
        work_dir: Of the run; by default ``work_dirs/METHOD/<name of the labelled folder>``.
        resume: Whether it goes on from the checkpoints there.

    Returns:
        The config, below the work dir, and a line for each decision.

    Raises:
        FileNotFoundError: A folder or the network's file is missing.
        ValueError: A choice is unknown, the data cannot be used as they are, or the work dir has another run.
    """
    _check(choices)
    name = _name_of(request.labelled[0])
    folder = Path(os.path.abspath(work_dir or Path('work_dirs') / choices.method / name)) / 'data'
    data = inspect_own_data(request._replace(frames=folder / 'frames'))
    if BY_FOLDER[choices.method].unlabelled and not data.unlabelled:
        raise ValueError(
            f'{choices.method} learns from unlabelled images, and there are none: give --unlabelled, or take '
            '--method supervised_plus, which needs none'
        )
    length = choices.iters or LENGTHS[choices.size]
    why = [*data.why, *_describe(choices, data, length)]
    root = Path(os.path.commonpath([os.path.abspath(path.parent) for path in _all_files(data)]))
    lists: Mapping[str, Iterable] = {
        LABELLED: data.train,
        UNLABELLED: [(path, None) for path in data.unlabelled] if BY_FOLDER[choices.method].unlabelled else (),
        VALIDATION: data.validation,
        TEST: data.test,
    }
    claim_work_dir(folder.parent, resume)  # before the lists of an earlier run would be replaced
    for file, rows in lists.items():
        if rows:
            write_frame_list(folder / file, root, [row[:2] for row in rows])
    warnings = list(data.warnings)
    if data.twins:
        write_twins(folder / TWINS, data.twins)
        warnings[-1] += f'. All of them: {folder / TWINS}'
    path = folder / f'{name}.py'
    path.write_text(_config_text(choices, data, why, warnings, root, folder.parent), encoding='utf-8')
    return path, [*why, f'config: {path}', *data_warnings({DATA_WARNINGS: warnings})]


def _check(choices: Choices) -> None:
    if choices.method not in BY_FOLDER:
        raise ValueError(f'--method {choices.method} is unknown; there are {", ".join(BY_FOLDER)}')
    if choices.size not in SIZES:
        raise ValueError(f'--size is {choices.size}; it must be one of {", ".join(map(str, SIZES))}')
    if choices.network not in NETWORKS and not Path(shipped_path(choices.network)).is_file():
        raise FileNotFoundError(
            f"--network: there is no file '{choices.network}'; give one of {', '.join(NETWORKS)}, or a config with "
            'the model of a plain segmentor'
        )
    if choices.iters is not None and choices.iters < 1:
        raise ValueError(f'--iters is {choices.iters}; a run has at least 1 iteration')


def _describe(choices: Choices, data: OwnData, length: int) -> list[str]:
    method = BY_FOLDER[choices.method]
    labelled = 8 if choices.method in TWO_SOURCES else 4
    shown = f'each labelled image is seen {labelled * length / len(data.train):.0f} times'
    if method.unlabelled:
        shown += f', each unlabelled one {4 * length / len(data.unlabelled):.1f} times'
    return [
        f'method: {method.name} on {choices.network} at {choices.size} x {choices.size} '
        '(--method, --network and --size choose others)',
        f'length: {length} iterations; {shown} (--iters)',
    ]


def _config_text(
    choices: Choices, data: OwnData, why: list[str], warnings: list[str], root: Path, work_dir: Path
) -> str:
    """The config, to be read by people, too."""
    track = '128' if choices.size == 128 else '384'
    kind = 'semi' if data.coding.binary else 'classes'
    network = (
        BASES / 'networks' / f'{choices.network}.py'
        if choices.network in NETWORKS
        else Path(shipped_path(choices.network))
    )
    schedule = ('1200i' if track == '128' else '80e') + SCHEDULES.get(choices.method, '')
    bases = [
        os.path.abspath(network),
        *([] if choices.method == 'supervised' else [BASES / 'methods' / f'{choices.method}_{track}.py']),
        BASES / 'datasets' / f'{kind}_{choices.size}.py',
        BASES / 'schedules' / f'{schedule}.py',
        BASES / 'default_runtime.py',
    ]
    lines = [
        '# Written by tools/train.py from the data that it was given. What it decided, and why:',
        *(f'#   {line}' for text in why for line in text.splitlines()),
        '_base_ = [',
        *(f'    {str(base)!r},' for base in bases),
        ']',
        f'work_dir = {str(work_dir)!r}',
        *([f'{DATA_WARNINGS} = {warnings!r}'] if warnings else []),
        '',
        *_model_lines(choices, data, read_config(network), track),
        '',
        f'# Beside this file; paths in them count from data_root.\nlists = {"{{ fileDirname }}"!r}',
        f'frames = dict(\n    type={"ListedFrames"!r},\n    data_root={str(root)!r},\n'
        f'    metainfo=dict(classes={tuple(data.classes)!r}),\n)',
        *_training_lines(choices.method),
        *_evaluation_lines('val', VALIDATION if data.validation else None),
        *_evaluation_lines('test', TEST if data.test else None),
        *([f'train_cfg = dict(max_iters={choices.iters})'] if choices.iters else []),
    ]
    return '\n'.join(lines) + '\n'


def _model_lines(choices: Choices, data: OwnData, network: Config, track: str) -> list[str]:
    lines = ['segmentor = _base_.model']
    if data.coding.num_classes > 2 or len(data.classes) > 2:
        for key in ('decode_head', 'auxiliary_head'):
            head = network.model.get(key)
            places = [f'.{key}'] if isinstance(head, dict) else [f'.{key}[{i}]' for i in range(len(head or ()))]
            lines += [f'segmentor{place}.num_classes = {len(data.classes)}' for place in places]
    if choices.method == 'supervised':
        return [*lines, 'model = segmentor']
    extra = ''
    method = read_config(BASES / 'methods' / f'{choices.method}_{track}.py').method
    if (choices.iters or SHORT) < SHORT and method.get('teacher_momentum', 0) > SHORT_MOMENTUM:
        extra = f', teacher_momentum={SHORT_MOMENTUM}'
        lines.append(f'# {method.teacher_momentum} would average all of a run as short as this.')
    if choices.method == 'u2pl' and len(data.classes) > 2:
        extra += ', bank_size=_base_.method.bank_size[0]'
    settings = f'**dict(_base_.method{extra})' if extra else '**_base_.method'
    return [*lines, f'model = dict(_delete_=True, segmentor=segmentor, {settings})']


def _training_lines(method: str) -> list[str]:
    if method == 'supervised':
        return [
            'supervised = _base_.supervised_dataloader',
            'train_dataloader = dict(',
            '    batch_size=supervised.batch_size,',
            '    sampler=supervised.sampler,',
            '    collate_fn=supervised.collate_fn,',
            '    dataset=dict(',
            f'        labelled={_source(LABELLED, "supervised.dataset.labelled.pipeline")},',
            '        unlabelled=None,',
            '    ),',
            ')',
        ]
    if method in TWO_SOURCES:
        sources = [
            _source(LABELLED, f'_base_.{pipeline}', delete=False)
            for pipeline in ('sup_pipeline', 'strong_sup_pipeline')
        ]
        return [
            'train_dataloader = dict(',
            '    dataset=dict(',
            '        labelled=[',
            *(f'            {source},' for source in sources),
            '        ],',
            '        unlabelled=None,',
            '    )',
            ')',
        ]
    return [
        'train_dataloader = dict(',
        '    dataset=dict(',
        f'        labelled={_source(LABELLED, "_base_.sup_pipeline")},',
        f'        unlabelled={_source(UNLABELLED, "_base_." + VIEWS.get(method, "unsup_pipeline"))},',
        '    )',
        ')',
    ]


def _evaluation_lines(part: str, file: str | None) -> list[str]:
    if file is None:
        return [f'{part}_dataloader = {part}_cfg = {part}_evaluator = None']
    return [
        f'{part}_dataloader = dict(',
        f'    dataset={_source(file, "_base_.test_pipeline")}',
        ')',
    ]


def _source(file: str, pipeline: str, delete: bool = True) -> str:
    first = '_delete_=True, ' if delete else ''
    return f"dict({first}ann_file=f'{{lists}}/{file}', pipeline={pipeline}, **frames)"


def _all_files(data: OwnData) -> list[Path]:
    pairs: list[Pair] = [*data.train, *data.validation, *data.test]
    return [*(path for pair in pairs for path in pair[:2]), *data.unlabelled]


def _name_of(folder: Path) -> str:
    """A name for a run, from that of its labelled folder."""
    folder = folder.resolve()
    plain = ('images', 'labelled', 'labeled', 'train', 'training', 'data')
    named = next((part for part in reversed(folder.parts) if part.lower() not in plain), folder.name)
    return re.sub(r'\W+', '_', named).strip('_').lower() or 'own'
