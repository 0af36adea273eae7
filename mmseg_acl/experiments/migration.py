"""Bring what runs left up to commit 1a6be0e to today's names: hashes and options in ``run.json``, losses in logs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mmengine.config import Config

from mmseg_acl.engine import load_config
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.experiments.grid import Run, parse_options
from mmseg_acl.experiments.identity import fingerprint, former_fingerprints
from mmseg_acl.experiments.records import RECORD, SCALARS, read_record, recorded, replace_record
from mmseg_acl.methods import BY_FOLDER
from mmseg_acl.renamed import RENAMED_KEYS, RENAMED_SCALARS


@dataclass
class Migration:
    """What :func:`migrate` has done.

    Attributes:
        rehashed: Folders whose record has today's hash now.
        current: Number of records that had it before.
        kept: Folders whose record stayed as it was, and why.
        logs: Logs whose losses have today's names now.
        unknown: Logs of which nothing says which method wrote them.
    """

    rehashed: list[Path] = field(default_factory=list)
    current: int = 0
    kept: dict[Path, str] = field(default_factory=dict)
    logs: list[Path] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f'kept as it was: {folder}: {reason}' for folder, reason in self.kept.items()]
        lines += [f'log of an unknown method, say --method: {log}' for log in self.unknown]
        counts = f'{len(self.rehashed)} records have their new hash, {self.current} had it, {len(self.kept)} are kept'
        return '\n'.join([*lines, f'{counts}; {len(self.logs)} logs have new names'])


def migrate(root: Path, method: str | None = None) -> Migration:
    """Bring all records and logs at and below ``root`` up to date; a second call changes nothing.

    A record gets today's hash only where its own is one that today's config, with the record's options, had up to
    commit 1a6be0e, see :func:`~mmseg_acl.experiments.identity.former_fingerprints`. The hash covers every setting
    that bears on the weights and scores, so equal hashes prove the configs equal. Paths of configs in the records
    count from the working directory. The method that wrote a log is told by the record beside it, or by the config
    that training leaves in the folder of the log or above it.

    Args:
        root: Folder of results or of work dirs.
        method: Folder of a method in :mod:`mmseg_acl.methods`, for logs of which nothing says which one wrote them.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no such method.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'{root}, whose runs are to be migrated, is no folder')
    if method is not None and method not in BY_FOLDER:
        raise ValueError(f'--method {method}: there are {", ".join(BY_FOLDER)}')
    done = Migration()
    for file in sorted(root.rglob(RECORD)):
        _migrate_record(file.parent, done)
    for log in sorted(root.rglob(SCALARS)):
        kind = _type_in(log.parent, root) or (BY_FOLDER[method].type if method else None)
        if kind is None:
            done.unknown.append(log)
        elif _rename_losses(log, kind):
            done.logs.append(log)
    return done


def refuse_former_records(runs: Iterable[Run], roots: Iterable[Path]) -> None:
    """Refuse to go on where runs stand under hashes of an earlier version, and would be begun anew.

    Raises:
        ValueError: A folder below one of ``roots`` has such a record; the message says what brings it up to date.
    """
    for root in roots:
        known = recorded(root)
        for run in runs:
            if run.key in known:
                continue
            former = {(digest, run.seed) for digest in former_fingerprints(run.config)} & known.keys()
            if former:
                raise ValueError(
                    f'{known[former.pop()]} has the run {run.name} under the hash of an earlier version, so that it '
                    f'would be begun anew: python tools/experiments.py migrate {root} brings all records up to date'
                )


def _migrate_record(folder: Path, done: Migration) -> None:
    try:
        record = read_record(folder)
        kind = _config(record['config'], ()).model.get('type')
        options = tuple(_renamed_option(option, kind) for option in record.get('options', ()))
        config = _config(record['config'], options)
    except (FileNotFoundError, KeyError, ValueError) as error:
        done.kept[folder] = str(error)
        return
    if record['hash'] == fingerprint(config):
        done.current += 1
    elif record['hash'] in former_fingerprints(config):
        replace_record(folder, {**record, 'options': list(options), 'hash': fingerprint(config)})
        done.rehashed.append(folder)
    else:
        done.kept[folder] = f'{record["config"]} of today trains something else'


@cache
def _config(path: str, options: tuple[str, ...]) -> Config:
    return load_config(path, options=parse_options(options))


def _renamed_option(option: str, kind: str) -> str:
    """``KEY=VALUE`` with the key of the model that it sets under its present name."""
    key, equals, value = option.partition('=')
    section, _, name = key.partition('.')
    new = RENAMED_KEYS.get(kind, {}).get(name, name) if section == 'model' else name
    return f'{section}.{new}{equals}{value}' if name else option


def _type_in(folder: Path, root: Path) -> str | None:
    """Class of the model that was trained in ``folder`` or in one above it, up to ``root``."""
    for place in (folder, *folder.parents):
        try:
            record = read_record(place)
            if record:
                return _config(record['config'], ()).model.get('type')
        except (FileNotFoundError, KeyError, ValueError):
            record = None
        for file in sorted(place.glob('*.py')):
            model = Config.fromfile(file, import_custom_modules=False).get('model')
            if model:
                return model.get('type')
        if place == root:
            break
    return None


def _rename_losses(log: Path, kind: str) -> bool:
    """Rename losses in a log, in place; whether there were any to rename."""
    names = RENAMED_SCALARS.get(kind, {})
    before = log.read_text(encoding='utf-8')
    # Only keys are touched, so that every number keeps its digits. A key is followed by a colon.
    after = re.sub(r'"(\w+)"(?=\s*:)', lambda match: json.dumps(names.get(match[1], match[1])), before)
    if after == before:
        return False
    write_atomically(after.encode(), log)
    return True
