"""Frames of videos as files, to learn from without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
QUALITY = 95


def find_videos(source: Path) -> list[Path]:
    """A video, or all of a folder and its sub-folders."""
    files = [source] if source.is_file() else sorted(source.rglob('*'))
    return [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith('.')]


def draw_frames(videos: Sequence[Path], out: Path, every: int | None = None) -> list[Path]:
    """Write frames of videos to a folder for each, as JPEG; those that are there already are not written anew.

    Args:
        videos: The files.
        out: Folder for them, made if needed.
        every: Take each so-manieth frame; None takes one a second.

    Returns:
        The frames.

    Raises:
        ValueError: A video cannot be opened or has no frame, or `every` is below 1.
    """
    if every is not None and every < 1:
        raise ValueError(f'--every is {every}; it must be at least 1')
    drawn = []
    for number, video in enumerate(videos):
        drawn += _draw(video, out / f'{number:03d}_{video.stem}', every)
    return drawn


def _draw(video: Path, folder: Path, every: int | None) -> list[Path]:
    capture = cv2.VideoCapture(str(video))
    if not capture.isOpened():
        raise ValueError(f"'{video}' cannot be opened as a video")
    step = every or max(1, round(capture.get(cv2.CAP_PROP_FPS) or 25))
    folder.mkdir(parents=True, exist_ok=True)
    drawn, number = [], 0
    while capture.grab():
        if number % step == 0:
            path = folder / f'{number:06d}.jpg'
            if not path.is_file():
                _, image = capture.retrieve()
                cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            drawn.append(path)
        number += 1
    capture.release()
    if not drawn:
        raise ValueError(f"'{video}' has no frame that can be read")
    return drawn
