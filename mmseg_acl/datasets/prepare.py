"""From downloads of the polyp data sets to `<data root>/<set>/{images,masks}`, every file checked.

Images are recognised one by one, by the folder they are in and by their names and sizes, so it does not matter
who packed them. Files are copied as they are, never converted: what is measured on them can be compared.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from prettytable import PrettyTable
from rich.progress import track

from mmseg_acl.datasets.catalogue import POLYP_SETS
from mmseg_acl.datasets.downloads import Download
from mmseg_acl.datasets.image_files import inspect_image
from mmseg_acl.datasets.mask_shares import check_shares, read_share
from mmseg_acl.datasets.partitions import IMAGE_SUFFIXES
from mmseg_acl.datasets.polyp_masks import read_polyp_mask
from mmseg_acl.errors import DataError

# Folder names, in lower case, letters and digits only: as the five sets, PraNet and EndoScene have them.
IMAGE_FOLDERS = ('images', 'image', 'original', 'bbdd')
MASK_FOLDERS = ('masks', 'mask', 'groundtruth', 'gt', 'gtpolyp')
OTHER_FOLDERS = ('gtlumen', 'gtspecular', 'gtvoid', 'border', 'edge', 'edges')
MIXED_FOLDERS = ('traindataset', 'testdataset')

# A mask's pixels are black or white; a resized one has a grey seam.
BLACK, WHITE, MAX_GREY_SHARE = 25, 230, 0.02
# Two encodings of one frame: decoders of JPEG differ by a level or two; other frames by tens.
MAX_MEAN_DIFFERENCE, MAX_MASK_DIFFERENCE = 2.0, 0.005
NUM_SHOWN_PROBLEMS = 10


@dataclass
class SetReport:
    """What became of one data set.

    Attributes:
        name: Its short name.
        folder: Where it lies.
        expected: Number of images it should have.
        pairs: Number it has now.
        added: Pairs that were added, wholly or in part.
        present: Pairs that were there already.
        replaced: Pairs of which a file was replaced.
        sizes: Number of images of each (width, height), of those found.
        empty: Names of images whose mask has no polyp.
    """

    name: str
    folder: Path
    expected: int
    pairs: int = 0
    added: int = 0
    present: int = 0
    replaced: int = 0
    sizes: Counter = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _File:
    """An image or mask that was found: as a file, its size, and where it came from."""

    path: Path
    size: tuple[int, int]
    origin: str
    owned: bool  # unpacked by us, so it may be moved


# {set: {name: {'images' or 'masks': file}}}
Found = dict[str, dict[str, dict[str, _File]]]


def prepare(
    sources: Sequence[str | Path], root: str | Path, dataset: str | None = None, overwrite: bool = False
) -> list[SetReport]:
    """Lay downloads out under the data root. Sources are only read; nothing is written unless all of them are fit.

    A set that is new appears under its name at once, complete. Images are added to one that is there each with its
    mask before it, so that an interruption leaves a smaller set, which the next call completes.

    Args:
        sources: Zip files, or folders they were unpacked to.
        root: The data root, made if needed.
        dataset: Name of the set (a key of `POLYP_SETS`) that all sources are of, where they do not say so.
        overwrite: Replace files that are there but show something else, instead of raising.

    Returns:
        A report a set.

    Raises:
        FileNotFoundError: A source does not exist.
        ValueError: A source is unsafe, is not recognised, or has files that are unreadable, unpaired, of a wrong
            size, no masks, or other than those that are there.
    """
    if dataset is not None and dataset not in POLYP_SETS:
        raise ValueError(f'dataset={dataset!r} is unknown, there are {", ".join(POLYP_SETS)}')
    downloads = [Download(source) for source in sources]
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.prepare-', dir=root) as scratch:
        found = _collect(downloads, Path(scratch), dataset)
        reports, plans, problems = [], [], []
        for name, pairs in found.items():
            spec = POLYP_SETS[name]
            report = SetReport(name, root / spec.folder, len(spec.names))
            problems += _check_pairs(pairs, report)
            if not problems:
                plan, conflicts = _compare(pairs, report, overwrite)
                problems += conflicts
                plans.append(plan)
            reports.append(report)
        _raise_problems(problems, 'Nothing was written. Mend or download these files again.')
        for report, plan in zip(reports, plans, strict=True):
            _write(report.folder, plan)
            report.pairs = len(POLYP_SETS[report.name].names & _complete_names(report.folder))
    return reports


def format_reports(reports: Sequence[SetReport]) -> str:
    """A table a terminal and Markdown can both show."""
    columns = ['set', 'folder', 'pairs', 'of', 'added', 'there already', 'replaced', 'sizes', 'without polyp']
    table = PrettyTable(columns)
    table.align = 'r'
    table.align['set'] = table.align['folder'] = 'l'
    for report in reports:
        common = report.sizes.most_common(1)[0][0]
        sizes = '{} x {}'.format(*common) if len(report.sizes) == 1 else f'{len(report.sizes)} different'
        counts = (report.pairs, report.expected, report.added, report.present, report.replaced)
        table.add_row([report.name, report.folder, *counts, sizes, len(report.empty)])
    return table.get_string()


# ---------------------------------------------------------------- what the sources hold


def _collect(downloads: Sequence[Download], scratch: Path, dataset: str | None) -> Found:
    """All images and masks of the known sets, by set and name."""
    names = {name: spec.names for name, spec in POLYP_SETS.items()}
    found: Found = {name: defaultdict(dict) for name in POLYP_SETS}
    problems: list[str] = []
    for number, download in enumerate(downloads):
        own_scratch = scratch / str(number)  # two sources may have one name
        own_scratch.mkdir()
        left_out: list[str] = []
        taken = 0
        for member in track(download.members, description=f'reading {download.name}'):
            kind = _kind(member)
            if kind is None:
                continue
            origin = f'{download.name}: {member}'
            stem = _stem(member, kind)
            told = dataset or _told_set(download.path, member)
            candidates = [told] if told else [name for name in POLYP_SETS if stem in names[name]]
            if not any(stem in names[name] for name in candidates):
                left_out.append(str(member))
                continue
            path = download.fetch(member, own_scratch)
            try:
                size = inspect_image(path).size
            except ValueError as error:
                # The name of an unpacked file tells nobody anything.
                reason = str(error).removeprefix(f'{path}: ').replace(str(path), path.name)
                problems.append(f'{origin}: {reason}')
                continue
            file = _File(path, size, origin, owned=scratch in path.parents)
            fitting = [name for name in candidates if POLYP_SETS[name].size in (None, size)]
            if told and not fitting:
                spec = POLYP_SETS[told]
                problems.append(
                    f'{origin} is {size[0]} x {size[1]}, but images of {spec.folder} are {spec.size[0]} x '
                    f'{spec.size[1]}: take the original download, not a resized one'
                )
            elif len(fitting) > 1:
                raise ValueError(
                    f'{origin} may belong to {" or ".join(fitting)}: give this source alone and say which by '
                    '--dataset'
                )
            elif not fitting:
                left_out.append(f'{member} ({size[0]} x {size[1]})')
            else:
                taken += 1
                problems += _add(found[fitting[0]][stem], kind, file)
        if not taken and not problems:
            raise ValueError(_unknown(download, left_out))
        if left_out:
            print(f'{download.name}: {len(left_out)} images left out, not of a known set, such as {left_out[0]}')
    _raise_problems(problems, 'Nothing was written. Mend or download these files again.')
    return {name: dict(sorted(pairs.items())) for name, pairs in found.items() if pairs}


def _add(pair: dict[str, _File], kind: str, file: _File) -> list[str]:
    """Put a file into its pair; one that is there already has to show the same. Returns problems."""
    other = pair.setdefault(kind, file)
    if other is file or _same(other.path, file.path, kind):
        return []
    return [f'{file.origin} and {other.origin} have one name but differ: give only one of the two']


def _plain(name: str) -> str:
    return re.sub(r'[^a-z0-9]', '', name.lower())


def _kind(member: PurePosixPath) -> str | None:
    """``images``, ``masks``, or None for pictures of something else; the nearest folder that says it decides."""
    for folder in map(_plain, reversed(member.parts[:-1])):
        if folder in OTHER_FOLDERS:
            return None
        if folder in MASK_FOLDERS:
            return 'masks'
        if folder in IMAGE_FOLDERS:
            return 'images'
    # ETIS and ColonDB: `p7` is the mask of `7`.
    return 'masks' if re.fullmatch(r'p\d+', member.stem) else 'images'


def _stem(member: PurePosixPath, kind: str) -> str:
    """The name of a pair, without zeros before a number and the p of ETIS's and ColonDB's masks."""
    stem = member.stem
    if kind == 'masks' and re.fullmatch(r'p\d+', stem):
        stem = stem[1:]
    return str(int(stem)) if stem.isdecimal() else stem


def _told_set(source: Path, member: PurePosixPath) -> str | None:
    """The set that the nearest folder, or the source's own name, is called after."""
    for part in (*reversed(member.parts[:-1]), source.stem if source.is_file() else source.resolve().name):
        plain = _plain(part)
        if plain in MIXED_FOLDERS:
            return None
        for name, spec in POLYP_SETS.items():
            if plain in spec.aliases:
                return name
    return None


def _unknown(download: Download, left_out: Sequence[str]) -> str:
    sets = ', '.join(f'{name} ({spec.folder})' for name, spec in POLYP_SETS.items())
    example = f', such as {left_out[0]}' if left_out else ''
    return (
        f"'{download.path}' is not recognised: none of its {len(download.members)} images has a name and size of "
        f'{sets}{example}. If it is one of these, name it by --dataset; a data set of your own needs no preparation'
    )


# ---------------------------------------------------------------- whether it is fit


def _check_pairs(pairs: dict[str, dict[str, _File]], report: SetReport) -> list[str]:
    """Problems with the pairs of one set; also counts sizes and empty masks."""
    problems, shares = [], {}
    for name, pair in track(pairs.items(), description=f'checking {report.name}'):
        missing = {'images', 'masks'} - pair.keys()
        if missing:
            (file,) = pair.values()
            problems.append(f'{file.origin}: there is no {"mask" if "masks" in missing else "image"} named {name}')
            continue
        image, mask = pair['images'], pair['masks']
        report.sizes[image.size] += 1
        if image.size != mask.size:
            problems.append(f'{mask.origin} is {_text(mask.size)}, its image is {_text(image.size)}')
            continue
        if _decode(image.path) is None:
            problems.append(f'{image.origin}: cannot be decoded')
        try:
            shares[mask.origin] = read_share(str(mask.path))
            if not shares[mask.origin]:
                report.empty.append(name)
        except ValueError as error:
            problems.append(f'{mask.origin}: {str(error).replace(str(mask.path), mask.path.name)}')
            continue
        grey = _grey_share(mask.path)
        if grey > MAX_GREY_SHARE:
            problems.append(
                f'{mask.origin}: {grey:.0%} of its pixels are neither black nor white: it is no mask, or was resized'
            )
    try:
        check_shares(shares, report.name)
    except ValueError as error:
        problems.append(str(error))
    return problems


def _text(size: tuple[int, int]) -> str:
    return f'{size[0]} x {size[1]}'


def _decode(path: Path) -> np.ndarray | None:
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)


def _grey_share(path: Path) -> float:
    values = _decode(path).max(axis=2)
    # 0/1 masks are all dark.
    return float(((values > BLACK) & (values < WHITE)).mean()) if values.max() > 1 else 0.0


def _same(first: Path, second: Path, kind: str) -> bool:
    """Whether two files show the same, whatever their encoding."""
    if filecmp.cmp(first, second, shallow=False):
        return True
    a, b = _decode(first), _decode(second)
    if a is None or b is None or a.shape != b.shape:
        return False
    if kind == 'images':
        return float(cv2.absdiff(a, b).mean()) <= MAX_MEAN_DIFFERENCE
    try:
        return float((read_polyp_mask(str(first)) != read_polyp_mask(str(second))).mean()) <= MAX_MASK_DIFFERENCE
    except ValueError:
        return False


# ---------------------------------------------------------------- laying it out


def _listed(folder: Path) -> dict[str, list[Path]]:
    """Images of a folder by name."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            files.setdefault(path.stem, []).append(path)
    return files


def _complete_names(folder: Path) -> set[str]:
    return set(_listed(folder / 'images')) & set(_listed(folder / 'masks'))


# (kind, name, new file, files it replaces)
Plan = list[tuple[str, str, _File, list[Path]]]


def _compare(pairs: dict[str, dict[str, _File]], report: SetReport, overwrite: bool) -> tuple[Plan, list[str]]:
    """What has to be written, masks first, and what is there already but differs."""
    there = {kind: _listed(report.folder / kind) for kind in ('images', 'masks')}
    plan: Plan = []
    conflicts: list[str] = []
    for name, pair in pairs.items():
        changes = []
        for kind in ('masks', 'images'):
            old = there[kind].get(name, [])
            if len(old) == 1 and _same(old[0], pair[kind].path, kind):
                continue
            changes.append((kind, name, pair[kind], old))
            if old and not overwrite:
                conflicts.append(
                    f'{pair[kind].origin} differs from {", ".join(map(str, old))}: take that away, or replace it by '
                    '--overwrite'
                )
        plan += changes
        report.present += not changes
        report.replaced += any(old for *_, old in changes)
        report.added += bool(changes) and not any(old for *_, old in changes)
    plan.sort(key=lambda change: change[0], reverse=True)  # masks before images
    return plan, conflicts


def _write(folder: Path, plan: Plan) -> None:
    """Stage all files beside the set, then rename them into place."""
    if not plan:
        return
    # The set may be a link to another disk; only within one disk a file is renamed at once.
    home = folder.resolve().parent
    with tempfile.TemporaryDirectory(prefix='.prepare-', dir=home) as scratch:
        stage = Path(scratch) / folder.name
        for kind in ('images', 'masks'):
            (stage / kind).mkdir(parents=True)
        staged = []
        for kind, name, file, old in plan:
            path = stage / kind / f'{name}{file.path.suffix.lower()}'
            if file.owned:
                shutil.move(file.path, path)
            else:
                shutil.copyfile(file.path, path)
            staged.append((path, kind, old))
        if not folder.exists():
            os.rename(stage, folder)
            return
        for path, kind, old in staged:
            target = folder / kind / path.name
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
            for other in old:
                if other != target:
                    other.unlink()


def _raise_problems(problems: Sequence[str], mend: str) -> None:
    if problems:
        more = len(problems) - NUM_SHOWN_PROBLEMS
        raise DataError(
            f'{len(problems)} problems:\n  '
            + '\n  '.join(problems[:NUM_SHOWN_PROBLEMS])
            + (f'\n  and {more} more' if more > 0 else '')
            + f'\n{mend}'
        )
