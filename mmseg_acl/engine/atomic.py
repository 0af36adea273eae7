"""Files that are there whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mmseg_acl.errors import CheckpointError

BACKEND = 'mmseg_acl_atomic'
UNFINISHED = '.tmp'


def write_atomically(content: bytes, path: str | Path) -> None:
    """Write a file under another name, sync it to the disk, then rename it.

    Args:
        content: Bytes of the file.
        path: Where they go; a file that is there is replaced in one step, or stays as it was.

    Raises:
        CheckpointError: The disk is full or cannot be written to. Nothing of the new file is left.
    """
    path = Path(path)
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        # Not begun where it cannot fit: filling the disk would stop other programs, too.
        if len(content) > free:
            raise OSError('No space left on device')
        with open(unfinished, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise CheckpointError(
            f'{path} cannot be written: {error.strerror or error}. It takes {_megabytes(len(content))}'
            f'{_free(path.parent)}. What was there before is as it was. Make room, or give another folder '
            '(--work-dir, --out), then run it again, a training with --resume'
        ) from error


def remove_unfinished(folder: str | Path) -> None:
    """Remove what a run that was killed while writing has left."""
    for path in Path(folder).glob(f'*.pth{UNFINISHED}'):
        path.unlink(missing_ok=True)


@register_backend(BACKEND)
class AtomicBackend(LocalBackend):
    """mmengine's local files, written atomically; a checkpoint hook asks for it by ``backend_args``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """See :func:`write_atomically`."""
        write_atomically(obj, filepath)


def _sync_folder(folder: Path) -> None:
    """Make a renaming last through a power failure; where folders cannot be synced, the system does it."""
    if os.name != 'posix':
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(folder: Path) -> str:
    if not folder.is_dir():
        return ''
    return f', and {_megabytes(shutil.disk_usage(folder).free)} are free in {folder}'


def _megabytes(count: int) -> str:
    return f'{count / 1e6:.1f} MB'
