"""Frames that are almost the same within a split and across splits, and sequences that splits share.

Frames are compared by a perceptual hash, whose bits are the signs of an image's low frequencies (`imagehash.phash`),
so that another encoding, size or brightness does not hide a twin.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from mmseg_acl.datasets.catalogue import POLYP_SETS
from mmseg_acl.datasets.partitions import shipped_lists
from mmseg_acl.datasets.polyp import PolypDataset, default_data_root
from mmseg_acl.datasets.sequences import NUM_FRAMES, sequence_of

# 256 bits. Of 217 000 pairs from different sequences of ClinicDB and CVC-300, none differs in fewer than 26 bits.
HASH_SIDE = 16
THRESHOLD = 24
BLOCK = 1024
# An image is decoded at a quarter of its size where that is still larger than what the hash looks at.
MIN_REDUCED_SIDE = 4 * 4 * HASH_SIDE
DEFAULT_PARTS = ('train', 'test')


class Frame(NamedTuple):
    """An image of a split; `sequence` is ClinicDB's, None for other sets."""

    split: str
    name: str
    path: str
    sequence: int | None


class Twins(NamedTuple):
    """Two frames, by their index, whose hashes differ in few bits."""

    first: int
    second: int
    distance: int


@dataclass
class Audit:
    """What was found.

    Attributes:
        frames: All images, split by split.
        twins: Pairs at most `threshold` bits apart; those of different splits first, closest first.
        threshold: In bits, of `HASH_SIDE`**2.
    """

    frames: list[Frame]
    twins: list[Twins]
    threshold: int

    @property
    def splits(self) -> dict[str, int]:
        """Number of images by split, in the order they were given."""
        sizes: dict[str, int] = {}
        for frame in self.frames:
            sizes[frame.split] = sizes.get(frame.split, 0) + 1
        return sizes

    def twins_of(self, first: str, second: str) -> list[Twins]:
        """Pairs of a frame of one split and a frame of another, or of the same."""
        wanted = {first, second}
        return [pair for pair in self.twins if {self.frames[i].split for i in pair[:2]} == wanted]

    def in_both(self, pair: Twins) -> bool:
        """Whether the two frames are one file, which two splits name."""
        return len({os.path.realpath(self.frames[i].path) for i in pair[:2]}) == 1


def audit_data(splits: Sequence[str] | None = None, root: str | None = None, threshold: int = THRESHOLD) -> Audit:
    """Look for near-duplicates within and across splits.

    Args:
        splits: Shipped lists such as `kvasir/train`, or `FOLDER:LIST` for a list of one's own (its path) of a folder
            below the data root, `FOLDER:` for all its images. None takes training and test lists of all sets that
            are present.
        root: The data root; None takes the default one.
        threshold: The most bits in which the hashes of near-duplicates differ, of 256.

    Raises:
        ImportError: The library imagehash is missing.
        FileNotFoundError: A data set, list or image is missing.
        ValueError: The threshold is out of range, a split is given twice, or no set is present.
    """
    if not 0 <= threshold < HASH_SIDE**2 // 2:
        raise ValueError(
            f'threshold={threshold} must lie in 0 to {HASH_SIDE**2 // 2 - 1}: hashes have {HASH_SIDE**2} bits, and '
            'those of unrelated images differ in about half of them'
        )
    data_root = default_data_root() if root is None else Path(root)
    if splits is None:
        splits = _present_splits(data_root)
    if len(set(splits)) < len(splits):
        raise ValueError(f'splits={list(splits)} names one of them twice')
    frames = [frame for split in splits for frame in _load(split, data_root)]
    paths = list(dict.fromkeys(frame.path for frame in frames))  # splits may share files
    hashes = {path: hash_image(path) for path in track(paths, description='hashing images')}
    twins = find_twins(np.stack([hashes[frame.path] for frame in frames]), threshold)
    twins.sort(key=lambda pair: (frames[pair.first].split == frames[pair.second].split, pair.distance))
    return Audit(frames, twins, threshold)


def hash_image(path: str | Path) -> np.ndarray:
    """The perceptual hash of an image, 256 bits as bool.

    Raises:
        ImportError: The library imagehash is missing.
        ValueError: The file is no image.
    """
    try:
        from imagehash import phash
    except ImportError as error:
        raise ImportError(
            f'the audit takes perceptual hashes from the library imagehash ({error}): pip install "mmseg_acl[audit]"'
        ) from error
    with Image.open(path) as header:
        reduced = min(header.size) >= MIN_REDUCED_SIDE
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_4 if reduced else cv2.IMREAD_GRAYSCALE
    grey = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if grey is None:
        raise ValueError(f"'{path}' is no image that OpenCV reads")
    return phash(Image.fromarray(grey), hash_size=HASH_SIDE).hash.ravel()


def find_twins(bits: np.ndarray, threshold: int) -> list[Twins]:
    """All pairs of rows that differ in at most `threshold` places.

    Args:
        bits: (N, B) bool.
        threshold: In places.
    """
    return [pair for pair in find_twins_between(bits, bits, threshold) if pair.first < pair.second]


def find_twins_between(first: np.ndarray, second: np.ndarray, threshold: int) -> Iterator[Twins]:
    """All pairs of a row of one and a row of the other that differ in at most `threshold` places.

    Args:
        first: (N, B) bool.
        second: (M, B) bool.
        threshold: In places.
    """
    signs, others = (bits.astype(np.float32) * 2 - 1 for bits in (first, second))
    for start in range(0, len(signs), BLOCK):
        # The product of signs is 1 where they agree, -1 where not. In whole numbers, so exact.
        distances = ((signs.shape[1] - signs[start : start + BLOCK] @ others.T) / 2).astype(int)
        for i, j in zip(*np.nonzero(distances <= threshold), strict=True):
            yield Twins(int(start + i), int(j), int(distances[i, j]))


def write_audit(audit: Audit, out_dir: str | Path) -> None:
    """Write `audit.md` (tables) and `pairs.csv` (every pair) into `out_dir`."""
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / 'audit.md').write_text(format_audit(audit), encoding='utf-8')
    with (out / 'pairs.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(
            ['distance', 'kind', *(f'{key}_{n}' for n in (1, 2) for key in ('split', 'image', 'sequence'))]
        )
        for pair in audit.twins:
            both = [audit.frames[i] for i in pair[:2]]
            kind = 'one file' if audit.in_both(pair) else 'near-duplicate'
            writer.writerow([pair.distance, kind, *(x for f in both for x in (f.split, f.name, f.sequence or ''))])


def format_audit(audit: Audit) -> str:
    """Markdown: near-duplicates by splits, shared sequences of ClinicDB, and CVC-300 within ColonDB."""
    parts = [
        '# Audit of the splits',
        f'{len(audit.frames)} images; near-duplicates are pairs of which at most {audit.threshold} of '
        f"{HASH_SIDE**2} bits of the perceptual hash differ. 'images' counts those of the split that have a twin.",
        '## Near-duplicates',
        _table(['split', 'and split', 'pairs', 'images of the first', 'of the second', 'one file'], _count(audit)),
        '## Sequences of CVC-ClinicDB in two splits',
        _sequences(audit),
        '## CVC-300 in CVC-ColonDB',
        _cvc300(audit),
    ]
    return '\n\n'.join(parts) + '\n'


def _count(audit: Audit) -> list[list]:
    sizes = audit.splits
    rows = []
    for i, first in enumerate(sizes):
        for second in list(sizes)[i:]:
            pairs = audit.twins_of(first, second)
            files = sum(audit.in_both(pair) for pair in pairs)
            images = [
                {k for pair in pairs for k in pair[:2] if audit.frames[k].split == split} for split in (first, second)
            ]
            counts = [f'{len(found)} of {sizes[s]}' for found, s in zip(images, (first, second), strict=True)]
            rows.append([first, 'itself' if first == second else second, len(pairs), *counts, files])
    return rows


def _sequences(audit: Audit) -> str:
    by_split: dict[str, set[int]] = {}
    for frame in audit.frames:
        if frame.sequence is not None:
            by_split.setdefault(frame.split, set()).add(frame.sequence)
    rows = []
    for i, first in enumerate(by_split):
        for second in list(by_split)[i + 1 :]:
            shared = by_split[first] & by_split[second]
            frames = [f for f in audit.frames if f.split == second and f.sequence is not None]
            inside = sum(frame.sequence in shared for frame in frames)
            named = ', '.join(map(str, sorted(shared))) or '-'
            rows.append([first, second, len(shared), f'{inside} of {len(frames)}', named])
    if not rows:
        return 'Fewer than two splits have images of CVC-ClinicDB.'
    return _table(['split', 'and split', 'sequences in both', 'images of the second in these', 'which'], rows)


def _cvc300(audit: Audit) -> str:
    folders = [POLYP_SETS[name].folder for name in ('cvc300', 'colondb')]
    inside, outside = ({i for i, f in enumerate(audit.frames) if _set_of(f.path) == name} for name in folders)
    if not inside or not outside:
        absent = ' and '.join(name for name, found in zip(folders, (inside, outside), strict=True) if not found)
        return f'Not compared: {absent} is not among the splits.'
    pairs = [{*pair[:2]} for pair in audit.twins]
    pairs = [pair for pair in pairs if pair & inside and pair & outside]
    same_number = [pair for pair in pairs if len({_number(audit.frames[i]) for i in pair}) == 1]
    found, named = (inside & set().union(*chosen) for chosen in (pairs, same_number))
    return (
        f'{len(found)} of {len(inside)} frames of CVC-300 have a near-duplicate in CVC-ColonDB, {len(named)} of them '
        'under the same number. The two are no independent test sets.'
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [columns, ['---'] * len(columns), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def _number(frame: Frame) -> str:
    return frame.name.rpartition('/')[2]


def _set_of(path: str) -> str:
    """The data set's folder: the one that holds `images/`."""
    return Path(path).parent.parent.name


def _present_splits(root: Path) -> list[str]:
    found = [
        f'{name}/{part}'
        for name, spec in POLYP_SETS.items()
        for part in DEFAULT_PARTS
        if (root / spec.folder / 'images').is_dir() and f'{name}/{part}' in shipped_lists()
    ]
    if not found:
        folders = ', '.join(spec.folder for spec in POLYP_SETS.values())
        raise ValueError(f"no data set lies under '{root}': set MMSEG_ACL_DATA to the folder that holds {folders}")
    return found


def _load(split: str, root: Path) -> list[Frame]:
    """The images of one split."""
    group = split.partition('/')[0].removesuffix('_seq')
    if split in shipped_lists():
        # Entries of the joint lists name their folders themselves.
        folder, names = (POLYP_SETS[group].folder if group in POLYP_SETS else ''), split
    elif ':' in split:
        folder, _, names = split.partition(':')
    else:
        raise ValueError(
            f'split {split!r} is neither a shipped list ({", ".join(shipped_lists())}) nor FOLDER:LIST, a folder '
            "below the data root and the path of a list, such as 'Kvasir-SEG:mine.txt'"
        )
    dataset = PolypDataset(names, folder=folder, data_root=str(root), labelled=False)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [Frame(split, info['name'], info['img_path'], _sequence(info)) for info in infos]


def _sequence(info: dict) -> int | None:
    number = info['name'].rpartition('/')[2]
    known = _set_of(info['img_path']) == POLYP_SETS['clinicdb'].folder
    return sequence_of(number) if known and number.isdecimal() and 1 <= int(number) <= NUM_FRAMES else None
