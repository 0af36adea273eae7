"""A folder to write to: there, writable, and nobody else's."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from mmseg_acl.engine.start.resume import NUMBERED

LOCK = 'run.lock'
# How a file system says that it has no locks: two runs in one folder go unnoticed there.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_held: dict[Path, FileLock] = {}  # a lock that ends with the process, however it ends


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
    folder = Path(work_dir).absolute()
    if folder in _held or not (folder / LOCK).is_file():
        return False
    probe = take_lock(folder / LOCK)
    if probe is not None:
        probe.release()
    return probe is None


def take_lock(file: Path) -> FileLock | None:
    """Take a lock; on a file system without locks it always is free.

    Returns:
        The lock, which ends with the process at the latest; None where somebody else has it.

    Raises:
        OSError: The lock file cannot be opened.
    """
    # Without the fallback, which a killed run would leave behind for the next to stumble over.
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return lock


def _lock(folder: Path) -> None:
    if folder in _held:
        return
    lock = take_lock(folder / LOCK)
    if lock is None:
        raise ValueError(
            f'another run is writing to the work dir {folder}: wait for its end, or give another --work-dir'
        )
    _held[folder] = lock
