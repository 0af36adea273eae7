"""Bring the logs that runs left up to commit 1a6be0e to today's names of the losses."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mmengine.config import Config

from mmseg_acl.engine import load_config
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.experiments.records import SCALARS, read_record
from mmseg_acl.methods import BY_FOLDER
from mmseg_acl.renamed import RENAMED_SCALARS


@dataclass
class Migration:
    """What :func:`migrate` has done.

    Attributes:
        logs: Logs whose losses have today's names now.
        unknown: Logs of which nothing says which method wrote them.
    """

    logs: list[Path] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f'log of an unknown method, say --method: {log}' for log in self.unknown]
        return '\n'.join([*lines, f'{len(self.logs)} logs have new names'])


def migrate(root: Path, method: str | None = None) -> Migration:
    """Give the losses in all logs at and below ``root`` their present names; a second call changes nothing.

    The method that wrote a log is told by the record beside it, or by the config that training leaves in the folder
    of the log or above it. Paths of configs in the records count from the working directory. Records stay as they
    are: what trained then is version 0 of the training steps (:mod:`mmseg_acl.numerics`).

    Args:
        root: Folder of results or of work dirs.
        method: Folder of a method in :mod:`mmseg_acl.methods`, for logs of which nothing says which one wrote them.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no such method.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'{root}, whose logs are to be migrated, is no folder')
    if method is not None and method not in BY_FOLDER:
        raise ValueError(f'--method {method}: there are {", ".join(BY_FOLDER)}')
    done = Migration()
    for log in sorted(root.rglob(SCALARS)):
        kind = _type_in(log.parent, root) or (BY_FOLDER[method].type if method else None)
        if kind is None:
            done.unknown.append(log)
        elif _rename_losses(log, kind):
            done.logs.append(log)
    return done


@cache
def _type_of(path: str) -> str | None:
    return load_config(path).model.get('type')


def _type_in(folder: Path, root: Path) -> str | None:
    """Class of the model that was trained in ``folder`` or in one above it, up to ``root``."""
    for place in (folder, *folder.parents):
        try:
            record = read_record(place)
            if record:
                return _type_of(record['config'])
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
