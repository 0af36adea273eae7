"""What the values of masks mean: object and background, or numbers of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmseg_acl.datasets.class_data import MAX_READ
from mmseg_acl.datasets.image_files import inspect_image
from mmseg_acl.datasets.labels import IGNORE
from mmseg_acl.datasets.own.pairs import Pair, Undecided
from mmseg_acl.datasets.polyp import NUM_SHOWN_PROBLEMS
from mmseg_acl.datasets.polyp_masks import MAX_CLASS, read_polyp_mask

BINARY, CLASSES = 'binary', 'classes'
# Few values, far apart, above any class number: perhaps classes drawn as shades of grey.
MAX_SHADES, SHADE_GAP = 12, 8
LOSSY = ('JPEG', 'MPO')


class Coding(NamedTuple):
    """What masks hold.

    Attributes:
        binary: Whether they are object and background; else they hold numbers of classes.
        num_classes: The background included.
        why: In words, what was seen.
        shares: The share of an image's pixels that each class has, (masks, classes), 0 to 1.
    """

    binary: bool
    num_classes: int
    why: str
    shares: np.ndarray


class _Values(NamedTuple):
    kind: str  # lossy, colour, palette or grey
    values: frozenset[int]


def read_coding(pairs: Sequence[Pair], option: str, asked: str | None = None, num_classes: int = 0) -> Coding:
    """Read masks and decide what their values mean.

    Args:
        pairs: Images with their masks; of more than `MAX_READ` an even sample is read.
        option: Of the command line, for messages.
        asked: 'binary' or 'classes', where the user has said it.
        num_classes: At least so many classes, where the user has named them.

    Raises:
        Undecided: The values may mean two things.
        ValueError: Masks cannot be read, or have other sizes than their images.
    """
    chosen = np.linspace(0, len(pairs) - 1, min(len(pairs), MAX_READ)).astype(int)
    masks = [pairs[index].mask for index in chosen]
    _check_sizes(pairs, option)
    seen = [_read_values(path) for path in masks]
    kinds = {found.kind for found in seen}
    numbers = set().union(*(found.values for found in seen if found.kind in ('palette', 'grey')))
    low = sorted(numbers - {IGNORE})
    shown = ', '.join(map(str, sorted(numbers)[:MAX_SHADES])) + (', ...' if len(numbers) > MAX_SHADES else '')
    if asked is None:
        asked = _decide(kinds, low, numbers, shown, option)
    if asked == CLASSES:
        if not kinds <= {'palette', 'grey'}:
            raise ValueError(
                f'{option}: masks of class numbers are grey PNGs or palette PNGs; these are '
                f'{"JPEGs, which change numbers" if "lossy" in kinds else "in colours (RGB)"}'
            )
        count = max(low[-1] + 1 if low else 1, num_classes, 2)
        shares = np.stack([_class_shares(path, count) for path in masks])
        ignored = ', 255 is ignored' if IGNORE in numbers else ''
        return Coding(False, count, f'class numbers 0 to {count - 1}{ignored}', shares)
    shares = np.array([[1 - share, share] for share in _binary_shares(masks, option)])
    kind = 'JPEG' if 'lossy' in kinds else 'colours' if 'colour' in kinds else f'values {shown}'
    return Coding(True, 2, f'{kind}: object and background', shares)


def _decide(kinds: set[str], low: list[int], numbers: set[int], shown: str, option: str) -> str:
    """'binary' or 'classes'; see `read_coding`."""
    if kinds & {'lossy', 'colour'}:
        return BINARY
    if low and 1 in low and low[-1] == 1 and IGNORE in numbers:
        raise Undecided(
            f'{option}: the masks hold {shown}. Is 255 the object, too, or a border to ignore? Say --masks binary '
            '(0 is background, all else object) or --masks classes (numbers of classes, 255 is ignored)'
        )
    if not low or low[-1] <= 1 or len(low) == 2 and IGNORE not in numbers and low[0] == 0 and low[1] > MAX_CLASS:
        return BINARY
    if low[-1] <= MAX_CLASS:
        return CLASSES
    levels = sorted(numbers)
    if 3 <= len(levels) <= MAX_SHADES and min(np.diff(levels)) >= SHADE_GAP:
        raise Undecided(
            f'{option}: the masks hold the values {shown}. Are they classes drawn as shades of grey? Save them as '
            'numbers 0, 1, 2, ... then, or say --masks binary if all above 127 is the object'
        )
    return BINARY


def _read_values(path: Path) -> _Values:
    """The kind of a mask's file and its values: numbers of the palette, or shades of grey."""
    try:
        with Image.open(path) as image:
            if image.format in LOSSY:
                return _Values('lossy', frozenset())
            kind = 'palette' if image.mode == 'P' else 'grey'
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"mask '{path}' cannot be read ({error})") from error
    if pixels.ndim == 3:
        colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., :1]
        if (colours != colours[..., :1]).any():
            return _Values('colour', frozenset())
        pixels = colours[..., 0]
    return _Values(kind, frozenset(np.unique(pixels).astype(int).tolist()))


def _class_shares(path: Path, count: int) -> np.ndarray:
    with Image.open(path) as image:
        pixels = np.asarray(image)
    pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
    counts = np.bincount(pixels.ravel().astype(int), minlength=max(count, IGNORE + 1))
    return counts[:count] / pixels.size


def _binary_shares(masks: Sequence[Path], option: str) -> list[float]:
    shares, problems = [], []
    for path in masks:
        try:
            shares.append(float(read_polyp_mask(str(path)).mean()))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(_listed(f'{option}: {len(problems)} masks cannot be used', problems))
    return shares


def _check_sizes(pairs: Sequence[Pair], option: str) -> None:
    problems = []
    for pair in pairs:
        try:
            image, mask = inspect_image(pair.image), inspect_image(pair.mask)
        except ValueError as error:
            problems.append(str(error))
            continue
        if image.size != mask.size:
            problems.append(
                f'{pair.image} is {image.width} x {image.height}, its mask {pair.mask.name} is {mask.width} x '
                f'{mask.height}'
            )
    if problems:
        raise ValueError(_listed(f'{option}: {len(problems)} of {len(pairs)} pairs cannot be used', problems))


def _listed(head: str, problems: Sequence[str]) -> str:
    more = len(problems) - NUM_SHOWN_PROBLEMS
    tail = f'\n  and {more} more' if more > 0 else ''
    return (
        f'{head}:\n  '
        + '\n  '.join(problems[:NUM_SHOWN_PROBLEMS])
        + f'{tail}\nMend these files or move them elsewhere.'
    )
