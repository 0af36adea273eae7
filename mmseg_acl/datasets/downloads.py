"""Downloads, zipped or unpacked: which images they hold, and each of them as a file."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

try:
    from lzma import LZMAError
except ImportError:  # a Python built without it; zipfile then says so itself, in a RuntimeError
    LZMAError = zipfile.BadZipFile

from mmseg_acl.datasets.partitions import IMAGE_SUFFIXES

# Far above any polyp data set: the largest has a thousand images, the largest image has 4 MB.
MAX_MEMBERS = 100_000
MAX_MEMBER_BYTES = 64 << 20
MAX_BYTES = 16 << 30
# What a damaged member may raise: zipfile's own errors, and those of deflate, bzip2 (OSError) and LZMA.
_UNREADABLE = (zipfile.BadZipFile, EOFError, RuntimeError, zlib.error, OSError, LZMAError)


class Download:
    """A folder or a zip file, which is only read.

    Args:
        path: The folder or zip file.

    Attributes:
        path: Of the folder or zip file.
        name: For messages.
        members: Paths of the images in it, sorted; hidden files are left out.

    Raises:
        FileNotFoundError: There is neither.
        ValueError: It is another kind of file, has no image, or is a zip that is broken or unsafe: paths that lead
            out of the folder it is unpacked in, links, encryption, or sizes that no data set has.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name or str(self.path)
        self._zip: zipfile.ZipFile | None = None
        self._infos: dict[PurePosixPath, zipfile.ZipInfo] = {}
        self._num_unpacked = 0
        if self.path.is_dir():
            found = [
                PurePosixPath(Path(folder, file).relative_to(self.path).as_posix())
                for folder, _, files in os.walk(self.path)
                for file in files
            ]
        elif self.path.is_file():
            self._zip = _open_zip(self.path)
            self._infos = {PurePosixPath(info.filename): info for info in self._zip.infolist() if not info.is_dir()}
            found = list(self._infos)
        else:
            raise FileNotFoundError(f"'{self.path}' does not exist: give a zip file or the folder it was unpacked to")
        self.members = sorted(member for member in found if _is_image(member))
        if not self.members:
            raise ValueError(f"'{self.path}' holds no image ({', '.join(IMAGE_SUFFIXES)})")

    def fetch(self, member: PurePosixPath, scratch: Path) -> Path:
        """A member as a file: in place for a folder, else unpacked into ``scratch`` under a name of our own.

        Raises:
            ValueError: The zip file is damaged there.
        """
        if self._zip is None:
            return self.path / member
        self._num_unpacked += 1
        file = scratch / f'{self._num_unpacked}{member.suffix.lower()}'
        try:
            # Reads no more than the size that was checked.
            content = self._zip.read(self._infos[member])
        except _UNREADABLE as error:
            raise ValueError(f"'{self.path}' is damaged at {member} ({error}): download it again") from error
        file.write_bytes(content)
        return file


def _is_image(member: PurePosixPath) -> bool:
    hidden = any(part.startswith('.') or part == '__MACOSX' for part in member.parts)
    return member.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"'{path}' is no zip file that can be read ({error}): download it again, or unpack it by its own program "
            'and give the folder'
        ) from error
    members = archive.infolist()
    for member in members:
        if problem := _unsafe(member):
            raise ValueError(f"'{path}' is refused, nothing was unpacked: its member {member.filename!r} {problem}")
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or total > MAX_BYTES:
        raise ValueError(
            f"'{path}' is refused, nothing was unpacked: it would unpack to {len(members)} files of "
            f'{total / 2**30:.1f} GiB; no polyp data set has more than {MAX_MEMBERS} or {MAX_BYTES >> 30} GiB'
        )
    return archive


def _unsafe(member: zipfile.ZipInfo) -> str:
    """What is wrong with a member; empty if nothing is."""
    # zipfile cuts names at a null byte and turns the system's separator; the stored name tells.
    stored = member.orig_filename
    parts = stored.replace('\\', '/').split('/')
    if '..' in parts or stored.startswith(('/', '\\')) or ':' in parts[0] or '\0' in stored:
        return 'leads out of the folder it would be unpacked in'
    mode = member.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return 'is a link or device, no file'
    if member.flag_bits & 1:
        return 'is encrypted: unpack it by yourself and give the folder'
    if member.file_size > MAX_MEMBER_BYTES:
        return f'would have {member.file_size >> 20} MiB; no image of a polyp data set has {MAX_MEMBER_BYTES >> 20}'
    return ''
