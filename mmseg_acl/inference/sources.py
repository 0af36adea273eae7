"""Frames to predict: an image, a folder with sub-folders, a glob, a list, a video or a camera."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

from mmseg_acl.datasets.own.videos import VIDEO_SUFFIXES
from mmseg_acl.datasets.partitions import IMAGE_SUFFIXES, entry_of, images_below, read_list


class Frame(NamedTuple):
    """A frame that has not been read yet.

    Attributes:
        name: Relative path, without a suffix, that its outputs are called by.
        read: Reads it: (H, W, 3) uint8, BGR, as it is shown. Raises ValueError where it cannot be read.
        file: Relative path of its file; None of a video's frame.
    """

    name: PurePosixPath
    read: Callable[[], np.ndarray]
    file: PurePosixPath | None = None


class Source(NamedTuple):
    """Frames in order.

    Attributes:
        frames: Of a video they come as it is decoded; of files they are a list.
        count: How many; None where that is not known, as of a camera.
        rate: Frames a second of a video or camera, else None.
    """

    frames: Iterable[Frame]
    count: int | None
    rate: float | None = None


def read_frame(path: Path) -> np.ndarray:
    """An image as it is shown, (H, W, 3) uint8, BGR.

    Raises:
        ValueError: It cannot be decoded.
    """
    data = np.frombuffer(path.read_bytes(), np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:  # such as more pixels than OpenCV takes
        raise ValueError(f'{path} cannot be decoded as an image: {error.err}') from error
    if image is None:
        raise ValueError(f'{path} cannot be decoded as an image')
    return image


def find_frames(
    source: str, limit: int | None = None, entries: str | None = None, without: Sequence[Path] = ()
) -> Source:
    """The frames of what a user names.

    Args:
        source: An image, a folder (all images in it and in its sub-folders), a glob in quotes, a text file with one
            path a line, a video, or the number of a camera.
        limit: At most so many frames; needed for a camera, which does not end.
        entries: List (see :func:`~mmseg_acl.datasets.partitions.read_list`) of the frames to take of a folder.
        without: Folders whose files are no frames, such as those that outputs go to.

    Raises:
        FileNotFoundError: There is nothing of that name, or nothing in it, or not all of the list.
        ValueError: A camera without a limit, or a video that cannot be opened. Of one without frames it is raised
            where the first is asked for.
    """
    path = Path(source)
    if entries is not None and not path.is_dir():
        raise ValueError(f"a list names frames of a folder, but '{source}' is none")
    if source.isdecimal() and not path.exists():
        if limit is None:
            raise ValueError(f'camera {source} does not end by itself: say with --frames how many frames to take')
        return _video(int(source), f'camera{source}', limit)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        return _video(str(path), path.stem, limit)
    files = _files(source, path, without)
    root = path if path.is_dir() else _common(files)
    names = [PurePosixPath(file.relative_to(root).with_suffix('').as_posix()) for file in files]
    # a.jpg and a.png of one folder would write the same file: both keep their suffix.
    twice = {name for name, count in Counter(names).items() if count > 1}
    names = [
        name if name not in twice else name.with_name(file.name) for name, file in zip(names, files, strict=True)
    ]
    frames = [
        Frame(name, lambda file=file: read_frame(file), PurePosixPath(file.relative_to(root).as_posix()))
        for name, file in zip(names, files, strict=True)
    ]
    if entries is not None:
        frames = _listed(frames, entries, source)
    return Source(frames[:limit], len(frames[:limit]))


def _listed(frames: list[Frame], entries: str, source: str) -> list[Frame]:
    """The frames that a list names, in its order."""
    by_entry = {entry_of(frame.file): frame for frame in frames}
    wanted = read_list(entries)
    missing = [entry for entry in wanted if entry not in by_entry]
    if missing:
        raise FileNotFoundError(
            f"'{source}' lacks {len(missing)} of the {len(wanted)} frames of {entries}, such as {missing[0]!r}"
        )
    return [by_entry[entry] for entry in wanted]


def _files(source: str, path: Path, without: Sequence[Path]) -> list[Path]:
    if path.is_dir():
        found = _outside(images_below(path), without)
        if not found:
            raise FileNotFoundError(
                f"'{path}' has no image: it should hold files with one of the suffixes {', '.join(IMAGE_SUFFIXES)}"
            )
        return found
    if path.suffix.lower() == '.txt' and path.is_file():
        try:
            lines = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines()]
        except UnicodeDecodeError as error:
            raise ValueError(f'{path} is no text in UTF-8 ({error}): save it as UTF-8') from error
        # Made absolute, so that a list may have both kinds.
        found = [Path(line).absolute() for line in lines if line and not line.startswith('#')]
        missing = [file for file in found if not file.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{path} names {len(missing)} file(s) that do not exist, such as '{missing[0]}'; relative paths "
                'count from the folder that the command is started in'
            )
        if not found:
            raise FileNotFoundError(f'{path} names no file: it should have one path a line')
        return found
    if path.is_file():
        if path.suffix.lower() not in IMAGE_SUFFIXES and not cv2.haveImageReader(str(path)):
            raise ValueError(
                f"'{path}' is neither an image nor a video that can be read; a list with one path a line ends in .txt"
            )
        return [path]
    found = sorted(Path(match) for match in glob.glob(source, recursive=True))
    found = _outside([file for file in found if file.suffix.lower() in IMAGE_SUFFIXES], without)
    if not found:
        raise FileNotFoundError(
            f"there is no '{source}': give an image, a folder, a glob in quotes, a text file with one path a line, a "
            'video, or the number of a camera'
        )
    return found


def _outside(files: list[Path], folders: Sequence[Path]) -> list[Path]:
    """Those files that lie below none of the folders."""
    places = {os.path.abspath(folder) for folder in folders}
    return [file for file in files if places.isdisjoint(map(str, Path(os.path.abspath(file)).parents))]


def _common(files: list[Path]) -> Path:
    """The deepest folder that all files lie in."""
    parents = [file.parent.parts for file in files]
    shared = 0
    while all(len(parts) > shared and parts[shared] == parents[0][shared] for parts in parents):
        shared += 1
    return Path(*parents[0][:shared])


def _video(source: str | int, name: str, limit: int | None) -> Source:
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise ValueError(f"'{source}' cannot be opened as a {'video' if isinstance(source, str) else 'camera'}")
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if isinstance(source, str) else 0
    known = min(filter(None, (count if count > 0 else None, limit)), default=None)

    def frames() -> Iterator[Frame]:
        number = 0
        while limit is None or number < limit:
            there, image = capture.read()
            if not there:
                break
            yield Frame(PurePosixPath(name, f'{number:06d}'), lambda image=image: image)
            number += 1
        capture.release()
        if not number and limit != 0:
            raise ValueError(f"'{source}' has no frame that can be decoded: is it complete?")

    return Source(frames(), known, capture.get(cv2.CAP_PROP_FPS) or 25.0)
