"""Which files below a folder are images, which are their masks, and which belong together."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mmseg_acl.datasets.partitions import IMAGE_SUFFIXES
from mmseg_acl.datasets.polyp import NUM_SHOWN_PROBLEMS, UNREAD_SUFFIXES

IMAGE_FOLDERS = {
    *('images', 'image', 'imgs', 'img', 'frames', 'frame', 'original', 'originals', 'jpegimages', 'input', 'inputs'),
}
MASK_FOLDERS = {
    *('masks', 'mask', 'labels', 'label', 'annotations', 'annotation', 'gt', 'gts', 'groundtruth', 'groundtruths'),
    *('segmentation', 'segmentations', 'segmentationclass', 'seg', 'segs', 'classes', 'target', 'targets'),
}
_MASK_WORD = r'(?:masks?|gt|labels?|labelids?|seg|segmentation|ground[_ ]?truth|annotation)'
# What a mask's name may have more than its image's, at its end or at its beginning.
MASK_AFFIX = re.compile(rf'(?i)[ _.-]{_MASK_WORD}$|^{_MASK_WORD}[ _.-]')
IMAGE_AFFIX = re.compile(r'(?i)[ _.-](?:image|img|frame|rgb)$|^(?:image|img|frame|rgb)[ _.-]')


class Undecided(ValueError):
    """What nobody but the user can decide; several are asked for in one message."""


class Pair(NamedTuple):
    """An image and its mask.

    Attributes:
        image: Its file.
        mask: Likewise.
        name: Of the image, below the folder that was given, without `images/` and without suffix: it names sequences.
    """

    image: Path
    mask: Path
    name: PurePosixPath


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        pairs: Images with masks, by their names.
        unlabelled: Images without a mask.
        layout: How masks were told from images, in words.
        left_out: What is not used, in words.
    """

    pairs: list[Pair]
    unlabelled: list[Path]
    layout: str
    left_out: list[str]


def find_pairs(folders: Sequence[Path], option: str) -> Found:
    """Pair images with masks, in one folder that holds both or in two.

    Masks are told by the name of a folder (``masks/``, ``labels/``, ...) or by their own names (``a_mask.png`` beside
    ``a.jpg``). A mask has its image's name, perhaps with such a word more, and the same sub-folders.

    Args:
        folders: One folder, or that of the images and that of the masks.
        option: Of the command line, for messages.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        Undecided: Masks cannot be told from images, or one image has several.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{option}: there is no folder '{folder}'")
    left_out: list[str] = []
    if len(folders) == 2:
        images, masks = (_named(folder, left_out) for folder in folders)
        layout = 'two folders'
    else:
        images, masks, layout = _told_apart(folders[0], option, left_out)
    if not images:
        raise FileNotFoundError(
            f"{option}: '{folders[0]}' has no image: files with one of the suffixes {', '.join(IMAGE_SUFFIXES)} are "
            'read'
        )
    matched, orphans = _match(images, masks, option)
    if not matched:
        raise Undecided(
            f'{option}: no mask has the name of an image ({_example(masks)}; images: {_example(images)}). Name each '
            'mask like its image, perhaps with _mask behind it'
        )
    if orphans:
        left_out.append(f'{len(orphans)} masks without an image, such as {orphans[0]}')
    pairs = [Pair(image, mask, images[image]) for image, mask in matched.items()]
    pairs.sort(key=lambda pair: pair.name)
    return Found(pairs, [image for image in images if image not in matched], layout, left_out)


def find_images(folder: Path, left_out: list[str]) -> list[Path]:
    """All images below a folder but those in folders of masks, in the order of their paths."""
    named = _named(folder, left_out)
    masks = {path for path in named if _word_of(path.relative_to(folder), MASK_FOLDERS)}
    return [path for path in named if path not in masks]


def _named(folder: Path, left_out: list[str]) -> dict[Path, PurePosixPath]:
    """Image files below a folder, with the names that pairs are told by."""
    files = [path for path in sorted(folder.rglob('*')) if not path.name.startswith('.')]
    unread = [path for path in files if path.suffix.lower() in UNREAD_SUFFIXES]
    if unread:
        left_out.append(f'{len(unread)} files of kinds that are not read, such as {unread[0].name}')
    found = {}
    for path in files:
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            below = PurePosixPath(path.relative_to(folder).with_suffix('').as_posix())
            kept = [part for part in below.parts[:-1] if _plain(part) not in IMAGE_FOLDERS | MASK_FOLDERS]
            found[path] = PurePosixPath(*kept, below.name)
    return found


def _told_apart(
    folder: Path, option: str, left_out: list[str]
) -> tuple[dict[Path, PurePosixPath], dict[Path, PurePosixPath], str]:
    """Images, masks, and how they were told apart."""
    named = _named(folder, left_out)
    masks = {path: name for path, name in named.items() if _word_of(path.relative_to(folder), MASK_FOLDERS)}
    if masks:
        rest = {path: name for path, name in named.items() if path not in masks}
        images = {path: name for path, name in rest.items() if _word_of(path.relative_to(folder), IMAGE_FOLDERS)}
        if images and len(images) < len(rest):
            left_out.append(f'{len(rest) - len(images)} pictures outside of the folders of images and masks')
        word = _word_of(next(iter(masks)).relative_to(folder), MASK_FOLDERS)
        return images or rest, masks, f'masks in folders {word}/'
    masks = {path: name for path, name in named.items() if MASK_AFFIX.search(name.name)}
    if masks and len(masks) < len(named):
        images = {path: name for path, name in named.items() if path not in masks}
        return images, masks, f'masks by their names, such as {next(iter(masks)).name}'
    if not named:
        return {}, {}, ''
    raise Undecided(
        f"{option}: which files of '{folder}' are masks? There is no folder masks/ in it and no name like "
        f'a_mask.png. Give the folder of images and that of masks: {option} IMAGES MASKS'
    )


def _match(
    images: dict[Path, PurePosixPath], masks: dict[Path, PurePosixPath], option: str
) -> tuple[dict[Path, Path], list[Path]]:
    """The mask of each image that has one, and the masks of none.

    Names are compared whole, then without the words that tell masks and images, then without folders.
    """
    tables = [_index(images, key) for key in _KEYS]
    matched: dict[Path, Path] = {}
    orphans, problems = [], []
    for mask, name in masks.items():
        candidates = next(
            (found for table, key in zip(tables, _KEYS, strict=True) if (found := table.get(key(name)))), []
        )
        if not candidates:
            orphans.append(mask)
        elif len(candidates) > 1:
            problems.append(f'{mask} may belong to {candidates[0]} or {candidates[1]}')
        elif candidates[0] in matched:
            problems.append(f'{candidates[0]} has two masks, {matched[candidates[0]]} and {mask}')
        else:
            matched[candidates[0]] = mask
    if problems:
        shown = '\n    '.join(problems[:NUM_SHOWN_PROBLEMS])
        more = f'\n    and {len(problems) - NUM_SHOWN_PROBLEMS} more' if len(problems) > NUM_SHOWN_PROBLEMS else ''
        raise Undecided(f'{option}: which mask belongs to which image? An image has one mask.\n    {shown}{more}')
    return matched, orphans


def _whole(name: PurePosixPath) -> tuple[str, str]:
    return _composed(name.parent.as_posix()), _composed(name.name)


def _bare(name: PurePosixPath) -> tuple[str, str]:
    return _composed(name.parent.as_posix()), _core(name.name)


def _stem(name: PurePosixPath) -> tuple[str, str]:
    return '', _core(name.name)


_KEYS = (_whole, _bare, _stem)


def _index(images: dict[Path, PurePosixPath], key) -> dict[tuple[str, str], list[Path]]:
    table: dict[tuple[str, str], list[Path]] = {}
    for path, name in images.items():
        table.setdefault(key(name), []).append(path)
    return table


def _core(stem: str) -> str:
    """A name without the words that tell masks and images."""
    bare = MASK_AFFIX.sub('', IMAGE_AFFIX.sub('', stem))
    return _composed(bare or stem)


def _composed(name: str) -> str:
    return unicodedata.normalize('NFC', name).lower()


def _plain(part: str) -> str:
    """The name of a folder as it is looked up: 'Ground Truth' and 'ground_truth' are one."""
    return re.sub(r'[ _.-]', '', part).lower()


def _word_of(path: Path, words: set[str]) -> str | None:
    """The first folder of a relative path that is one of `words`, as it is written there."""
    return next((part for part in path.parts[:-1] if _plain(part) in words), None)


def _example(files: dict[Path, PurePosixPath]) -> str:
    return ', '.join(path.name for path in _first(files, 2)) or 'none'


def _first(files: dict[Path, PurePosixPath], count: int) -> Iterator[Path]:
    return (path for path, _ in zip(files, range(count), strict=False))
