"""What lies in the folders of runs: a record of each, how far it has come, what it has brought."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.utils import get_git_hash

from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.engine.start.resume import NUMBERED
from mmseg_acl.evaluation.result_files import PER_IMAGE, RESULTS, is_number, read_json, read_scores
from mmseg_acl.experiments.grid import Run
from mmseg_acl.experiments.identity import fingerprint, with_resolved_weights
from mmseg_acl.numerics import NUMERICS

RECORD, SCALARS = 'run.json', 'scalars.json'
TEST = 'test'
# What is read of a log to find its last line.
TAIL = 1 << 14


def read_record(folder: Path) -> dict[str, Any] | None:
    """A folder's ``run.json``; None where there is none.

    Raises:
        ValueError: It is damaged, or is none.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    record = read_json(file)
    usual = dict(hash=None, seed=None, state='', seconds=0, numerics=0)
    found = {key: record.get(key, default) if isinstance(record, dict) else None for key, default in usual.items()}
    for key, value in found.items():
        sound = isinstance(value, str) if key in ('hash', 'state') else isinstance(value, (int, float))
        if not sound or key in ('seed', 'seconds', 'numerics') and not is_number(value):
            raise ValueError(f'{file} is no record of a run ({key} is {value!r}): remove it, or the whole folder')
    return record


def write_record(folder: Path, run: Run, **state: Any) -> None:
    """Write a run's ``run.json``, over what ``state`` does not mention. No path of this machine is in it."""
    record = _sound_record(folder) or {}
    record.update(
        name=run.name,
        config=_portable_path(run.path),
        options=list(run.options),
        seed=run.seed,
        hash=run.hash,
        numerics=NUMERICS,
        torch=torch.__version__,
        code=get_git_hash(digits=7, fallback='unknown'),
        **state,
    )
    replace_record(folder, record)


def replace_record(folder: Path, record: dict[str, Any]) -> None:
    """Put ``record`` in the place of a folder's ``run.json``, all of it or nothing."""
    write_atomically(f'{json.dumps(record, indent=2)}\n'.encode(), folder / RECORD)


def spent_seconds(folder: Path) -> float:
    """How long a run has been trained, by its record."""
    return (_sound_record(folder) or {}).get('seconds', 0)


def _portable_path(path: Path) -> str:
    """A config's path from the last folder called configs on."""
    parts = path.resolve().parts
    start = max((index for index, part in enumerate(parts) if part == 'configs'), default=len(parts) - 2)
    return '/'.join(parts[start:])


def recorded(root: Path) -> dict[tuple[str, int], Path]:
    """Folders right below ``root`` that have a record, by the keys of their runs; a warning names damaged ones."""
    found = {}
    for file in sorted(root.glob(f'*/{RECORD}')):
        record = _sound_record(file.parent)
        if record:
            found.setdefault((record['hash'], record['seed']), file.parent)
    return found


def version_in(folder: Path) -> int:
    """Version of the training steps that made what lies in a folder; 0 where nothing says it."""
    return (_sound_record(folder) or {}).get('numerics', 0)


def outdated(root: Path, runs: Iterable[Run]) -> list[Path]:
    """Folders below ``root`` with a run of the same config and seed, trained by another version of the steps."""
    known = recorded(root)
    asked = {(_portable_path(run.path), run.options, run.seed) for run in runs}
    found = []
    for folder in known.values():
        record = _sound_record(folder)
        run = record.get('config'), tuple(record.get('options', ())), record['seed']
        if record.get('numerics', 0) != NUMERICS and run in asked:
            found.append(folder)
    return found


def folder_for(root: Path, run: Run, taken: Iterable[Path] = ()) -> Path:
    """The folder of a run below ``root``: its own, or a new one that no other run has or, by ``taken``, will have."""
    if run.key in (known := recorded(root)):
        return known[run.key]
    folder = root / run.name
    return root / f'{run.name}_{run.hash[:8]}' if folder.exists() or folder in taken else folder


def find_trained(roots: Iterable[Path], runs: Iterable[Run]) -> dict[tuple[str, int], Path]:
    """Folders at or below ``roots`` in which ``tools/train.py`` has finished one of the ``runs``.

    They are told by the config that training leaves beside its checkpoints.

    Raises:
        FileNotFoundError: A root does not exist.
    """
    wanted: dict[tuple[str, int], Run] = {}
    found: dict[tuple[str, int], Path] = {}
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f'{root}, which is to be searched for finished runs, is no folder')
        for folder in sorted({path.parent for path in root.rglob('last_checkpoint')}):
            for file in folder.glob('*.py'):
                wanted = wanted or _by_fingerprint(runs)
                config = Config.fromfile(file, import_custom_modules=False)
                # Whether it was resumed does not matter: the weights are the same.
                config.resume, config.load_from = False, None if config.get('resume') else config.get('load_from')
                run = wanted.get((fingerprint(config), config.get('randomness', {}).get('seed')))
                if run and final_checkpoint(folder, run):
                    found.setdefault(run.key, folder)
    return found


def _by_fingerprint(runs: Iterable[Run]) -> dict[tuple[str, int], Run]:
    """Runs by the fingerprint of the config that training leaves."""
    return {(fingerprint(with_resolved_weights(run.config)), run.seed): run for run in runs}


def final_checkpoint(folder: Path, run: Run) -> Path | None:
    """The checkpoint of the last iteration; None where training has not come to it."""
    path = folder / f'iter_{run.max_iters}.pth'
    return path if path.is_file() else None


def checkpoint_iteration(folder: Path) -> int:
    """Iteration of the newest checkpoint, 0 without one."""
    matches = (NUMBERED.fullmatch(path.name) for path in folder.glob('*.pth'))
    return max((int(match[1]) for match in matches if match), default=0)


def logged_iteration(folder: Path) -> int:
    """The last iteration that was logged in the newest session, 0 without a log."""
    logs = sorted(folder.glob(f'*/vis_data/{SCALARS}'))
    if not logs:
        return 0
    with logs[-1].open('rb') as file:
        file.seek(max(0, logs[-1].stat().st_size - TAIL))
        lines = file.read().decode(errors='replace').splitlines()
    for line in reversed(lines):
        try:
            return int(json.loads(line)['step'])
        except (ValueError, KeyError, TypeError, OverflowError):  # cut in two, or still being written
            continue
    return 0


def scored_sets(folder: Path) -> set[str]:
    """Test sets of which a folder has results; none where one of its files is damaged, which a warning names."""
    try:
        results, _ = read_scores(folder)
        _check_scalars(folder / SCALARS)
    except FileNotFoundError:
        return set()
    except ValueError as error:
        _warn_once(f'NOT DONE: {error}')
        return set()
    return set(results)


def collect(trained: Path, tested: Path, results: Path, run: Run) -> None:
    """Copy what is worth keeping of a finished run: its record, scores and curves.

    Args:
        trained: Where training wrote its logs.
        tested: The run's own folder with its record and ``test/``.
        results: Where the copies go.
        run: The run.
    """
    for name in (RESULTS, PER_IMAGE):
        write_atomically((tested / TEST / name).read_bytes(), results / name)
    write_atomically(''.join(whole_log(trained)).encode(), results / SCALARS)
    write_atomically((tested / RECORD).read_bytes(), results / RECORD)


def whole_log(folder: Path) -> list[str]:
    """Lines of ``scalars.json`` over all sessions of a run; what a resumed session did again stands once."""
    lines: list[tuple[int, str]] = []
    for log in sorted(folder.glob(f'*/vis_data/{SCALARS}')):
        session = []
        for line in log.read_bytes().decode(errors='replace').splitlines(keepends=True):
            try:
                session.append((int(json.loads(line)['step']), line))
            except (ValueError, KeyError, TypeError, OverflowError):  # the last line of a session that was killed
                continue
        if session:
            lines = [entry for entry in lines if entry[0] < session[0][0]] + session
    return [line for _, line in lines]


def _sound_record(folder: Path) -> dict[str, Any] | None:
    """A folder's record; None also where it is damaged, which a warning names."""
    try:
        return read_record(folder)
    except ValueError as error:
        _warn_once(f'LEFT OUT: {error}')
        return None


def _check_scalars(file: Path) -> None:
    """Look over the log that stands beside a run's scores, where there is one.

    What is only watched may be no number, such as a share of no pixels; steps and losses are numbers.

    Raises:
        ValueError: A line is damaged, or a step or loss is no finite number.
    """
    if not file.is_file():
        return
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            scalars = json.loads(line)
            broken = [key for key in {'step', *scalars} if 'loss' in key or key == 'step']
            broken = [key for key in broken if not is_number(scalars[key])]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f'{file} is damaged: line {number} is no log of scalars ({error!r})') from error
        if broken:
            raise ValueError(f'{file} is damaged: in line {number} {broken[0]} is {scalars[broken[0]]!r}')


@functools.cache
def _warn_once(text: str) -> None:
    """Say what is wrong with a file, however often it is looked at."""
    print_log(text, logger='current', level=logging.WARNING)
