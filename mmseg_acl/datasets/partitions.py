"""Lists of image names: the ones this package ships, a user's own, and how partitions are drawn.

A list is a text file with one entry a line. An entry is a file name without suffix (`149`), or the
same behind a sub-folder (`CVC-300/149`) as in the joint lists.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np

LISTS = Path(__file__).parent / 'lists'
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.tif', '.tiff', '.bmp')
# A line that names an image and its mask, as lists of other projects do.
PAIR = re.compile(r'.+({suffix})[\s,;]+.+({suffix})'.format(suffix='|'.join(map(re.escape, IMAGE_SUFFIXES))), re.I)
FRACTIONS = {'half': 2, 'quarter': 4, 'eighth': 8, 'sixteenth': 16, 'thirtysecond': 32, 'sixtyfourth': 64}
PARTITION_SEED = 2023
# Further draws of a partition, such as `kvasir/thirtysecond_b`, and their seeds.
REDRAW_SEEDS = {'b': 2024, 'c': 2025}


def shipped_lists() -> list[str]:
    """Names of the lists in this package, for example `kvasir/quarter`."""
    return sorted(path.relative_to(LISTS).with_suffix('').as_posix() for path in LISTS.rglob('*.txt'))


def read_list(name_or_path: str | Path) -> list[str]:
    """Read a list of image names.

    Args:
        name_or_path: A shipped name such as `kvasir/quarter`, or the path of a text file. A
            relative path counts from the working directory. Blank lines are skipped, image
            suffixes dropped.

    Returns:
        The entries, in the order of the file.

    Raises:
        FileNotFoundError: It is neither a shipped name nor a file.
        ValueError: The list is empty, is not in UTF-8, holds an entry twice or two files on a line.
    """
    shipped = shipped_lists()
    path = LISTS / f'{name_or_path}.txt' if str(name_or_path) in shipped else Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no list '{name_or_path}': give the path of a text file with one image name a line, "
            f'or one of the shipped lists: {", ".join(shipped)}'
        )
    try:
        # utf-8-sig: editors on Windows put a byte-order mark before the first name.
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f"list '{path}' is no text in UTF-8 ({error}): save it as UTF-8") from error
    # Backslashes: Windows writes folders so.
    lines = (line.strip().replace('\\', '/') for line in text.splitlines())
    lines = [line for line in lines if line]
    if pair := next(filter(PAIR.fullmatch, lines), None):
        raise ValueError(
            f"list '{path}' has two files on a line ({pair}): write one image name a line, without folder and "
            'suffix; a mask has the name of its image'
        )
    entries = [_without_suffix(line) for line in lines]
    if not entries:
        raise ValueError(f"list '{path}' is empty: write one image name a line")
    repeated = [entry for entry, count in Counter(entries).items() if count > 1]
    if repeated:
        raise ValueError(
            f"list '{path}' repeats {len(repeated)} entries ({', '.join(repeated[:5])}): keep one line of each"
        )
    return entries


def list_text(names: Iterable[str]) -> str:
    """What a list of these names has in its file: one a line."""
    return ''.join(f'{name}\n' for name in names)


def images_below(folder: Path) -> list[Path]:
    """Image files in a folder and its sub-folders, in the order of their paths; hidden ones are none."""
    return [
        path
        for path in sorted(folder.rglob('*'))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.') and path.is_file()
    ]


def entry_of(file: PurePath) -> str:
    """The entry that stands for an image file, by its path below the folder that the list belongs to.

    ``a/images/b.png`` and ``a/b.png`` are both called `a/b`: a data set has its images in `images`.
    """
    parent = file.parent.parent if file.parent.name == 'images' else file.parent
    return _without_suffix((parent / file.name).as_posix())


def draw_partitions(names: Sequence[str], seed: int = PARTITION_SEED, num_dev: int = 0) -> dict[str, list[str]]:
    """Draw nested labelled partitions: a sixty-fourth inside a thirty-second and so on to a half.

    The shipped partitions are `draw_partitions(read_list('kvasir/train'), num_dev=100)`, the same
    of `clinicdb/train` with `num_dev=60`, and of `polyp/train` with `num_dev=100`.

    Args:
        names: The training list.
        seed: Seed of the one permutation that all parts are cut from.
        num_dev: Size of a further part, `dev`, that lies outside the half: labelled images to
            choose settings on, so that no test set is touched. At most half of the names.

    Returns:
        Part name to its names, in the order of `names`: those of `FRACTIONS` (sizes rounded down) and, if
        `num_dev` is positive, `dev`.

    Raises:
        ValueError: `num_dev` is negative or does not fit outside the half.
    """
    outside = len(names) - len(names) // FRACTIONS['half']
    if not 0 <= num_dev <= outside:
        raise ValueError(f'num_dev={num_dev} must lie in 0 to {outside}, the number of names outside the half')
    # The legacy generator's stream is frozen by NumPy's policy: the draw stays reproducible.
    order = np.random.RandomState(seed).permutation(len(names))
    chosen = {part: order[: len(names) // divisor] for part, divisor in FRACTIONS.items()}
    if num_dev:
        chosen['dev'] = order[-num_dev:]
    return {part: [names[i] for i in sorted(indices)] for part, indices in chosen.items()}


def redraw_partition(names: Sequence[str], part: str, draw: str, excluded: Sequence[str] = ()) -> list[str]:
    """Draw a part again, independently of the nested ones: to see how much hangs on which images are labelled.

    The shipped `kvasir/thirtysecond_b` and `_c` are draws of `kvasir/train` without `kvasir/dev`.

    Args:
        names: The training list.
        part: One of `FRACTIONS`; its size is the same share of `names`.
        draw: One of `REDRAW_SEEDS`.
        excluded: Names that are not drawn.

    Returns:
        The drawn names, in the order of `names`.

    Raises:
        ValueError: Fewer names than the part has are left.
    """
    excluded = set(excluded)
    allowed = [i for i, name in enumerate(names) if name not in excluded]
    size = len(names) // FRACTIONS[part]
    if size > len(allowed):
        raise ValueError(f'{part} of {len(names)} names is {size}, but only {len(allowed)} are not excluded')
    order = np.random.RandomState(REDRAW_SEEDS[draw]).permutation(len(allowed))[:size]
    return [names[i] for i in sorted(allowed[k] for k in order)]


def write_lists(parts: Mapping[str, Sequence[str]], folder: str | Path) -> dict[Path, int]:
    """Write each part as `PART.txt`, one name a line.

    Args:
        parts: Names by part, as :func:`draw_partitions` gives them. Parts without a name are left out.
        folder: Made if needed.

    Returns:
        The files and their numbers of names.

    Raises:
        ValueError: One of the files is there with other names. Nothing has been written then.
    """
    texts = {Path(folder, f'{part}.txt'): list_text(names) for part, names in parts.items()}
    texts = {path: text for path, text in texts.items() if text}
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding='utf-8') != text:
            raise ValueError(f'{path} is there with other names: remove it, or give another folder')
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding='utf-8')
    return {path: text.count('\n') for path, text in texts.items()}


def is_partition(part: str) -> bool:
    """Whether a list of this name is a labelled part of a training list: a fraction, or a further draw of one."""
    fraction, _, draw = part.partition('_')
    return fraction in FRACTIONS and draw in ('', *REDRAW_SEEDS)


def _without_suffix(entry: str) -> str:
    stem, dot, suffix = entry.rpartition('.')
    return stem if dot + suffix.lower() in IMAGE_SUFFIXES else entry
