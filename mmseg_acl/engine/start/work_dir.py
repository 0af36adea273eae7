"""A folder to write to: there, writable, and nobody else's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

from mmseg_acl.engine.start.resume import NUMBERED

try:
    import fcntl
except ImportError:  # a system without POSIX locks: two runs in one folder go unnoticed there
    fcntl = None

LOCK = 'run.lock'
_held: dict[Path, IO] = {}  # an open file is a lock that ends with the process, however it ends


def claim_work_dir(work_dir: str | Path, resume: bool) -> None:
    """Make sure that a run can write to a folder and overwrites no other run's checkpoints.

    Args:
        work_dir: Made if it does not exist.
        resume: Whether its checkpoints are to be gone on from.

    Raises:
        ValueError: It cannot be written to, holds the checkpoints of an earlier run that is not resumed, or is
            in use.
    """
    folder = Path(work_dir).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = 'it is a file' if folder.is_file() else error.strerror or error
        raise ValueError(
            f'the work dir {folder} cannot be written to: {reason}. Give another with --work-dir, or mend it'
        ) from error
    _lock(folder)
    found = sorted(path.name for path in folder.glob('*.pth') if NUMBERED.fullmatch(path.name))
    if found and not resume:
        raise ValueError(
            f'the work dir {folder} holds checkpoints of an earlier run, such as {found[-1]}: go on from them with '
            '--resume, give another --work-dir, or remove them'
        )


def in_use(work_dir: str | Path) -> bool:
    """Whether a run of another process is writing to a folder."""
    file = Path(work_dir) / LOCK
    if fcntl is None or not file.is_file():
        return False
    with open(file, 'a') as probe:
        try:
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:  # a file system without locks
            return False
    return False


def _lock(folder: Path) -> None:
    if fcntl is None or folder in _held:
        return
    file = open(folder / LOCK, 'w')
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise ValueError(
            f'another run is writing to the work dir {folder}: wait for its end, or give another --work-dir'
        ) from error
    except OSError:  # a file system without locks
        file.close()
        return
    _held[folder] = file
