"""From folders that a user names to what is trained, validated and tested on, and why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmseg_acl.datasets.image_files import inspect_image
from mmseg_acl.datasets.own.coding import Coding, read_coding
from mmseg_acl.datasets.own.groups import group_frames, hold_out, join_twins
from mmseg_acl.datasets.own.pairs import Found, Pair, Undecided, find_images, find_pairs
from mmseg_acl.datasets.own.twins import Hashes, Twin, nearest_twins
from mmseg_acl.datasets.own.videos import draw_frames, find_videos
from mmseg_acl.datasets.partitions import PARTITION_SEED
from mmseg_acl.datasets.polyp import NUM_SHOWN_PROBLEMS
from mmseg_acl.datasets.unlabelled_folder import unreadable

# Below it every label is worth more in training than in a validation that tells little.
MIN_TO_SPLIT = 20
SPLIT = 0.2
SHOWN_GROUPS = 4
INSTALL_AUDIT = 'pip install "mmseg_acl[audit]"'
# A median mask of more than this is perhaps the wrong way round.
MUCH = 0.5


class Request(NamedTuple):
    """What a user asks for.

    Attributes:
        labelled: A folder with images and masks, or a folder of images and one of masks.
        unlabelled: Folders of images and videos, or videos.
        val: As `labelled`, to validate on; empty where a share of the labelled images is held out.
        test: As `labelled`.
        split: The share to hold out; None takes `SPLIT` where there are `MIN_TO_SPLIT` labelled images.
        masks: 'binary' or 'classes', where the user says what masks hold.
        classes: Names of the classes, the background first; empty where they are not named.
        every: Of videos each so-manieth frame is drawn; None draws one a second.
        frames: Folder that frames of videos are written to.
        seed: Of the split.
    """

    labelled: tuple[Path, ...]
    unlabelled: tuple[Path, ...] = ()
    val: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    split: float | None = None
    masks: str | None = None
    classes: tuple[str, ...] = ()
    every: int | None = None
    frames: Path = Path('frames')
    seed: int = PARTITION_SEED


@dataclass
class OwnData:
    """What is there, and what it is used for.

    Attributes:
        train: Labelled images to train on.
        validation: To validate on; none where nothing is held out.
        test: To test on.
        unlabelled: Images without labels.
        coding: What the masks hold.
        classes: Names of the classes, the background first.
        why: A line for each decision.
        twins: Images to test or to validate on that look like labelled ones.
        warnings: What makes scores wrong, and what to do.
    """

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    unlabelled: list[Path]
    coding: Coding
    classes: tuple[str, ...]
    why: list[str] = field(default_factory=list)
    twins: list[Twin] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def inspect_own_data(request: Request) -> OwnData:
    """Look at all files and decide what they are used for.

    Raises:
        FileNotFoundError: A folder is missing or has no image.
        ValueError: Files cannot be used, or something must be said by the user; all of that is in one message.
    """
    _check(request)
    questions: list[str] = []
    found: dict[str, Found] = {}
    for option in ('labelled', 'val', 'test'):
        if folders := getattr(request, option):
            try:
                found[option] = find_pairs(folders, f'--{option}')
            except Undecided as error:
                questions.append(str(error))
    coding = None
    if 'labelled' in found:
        try:
            coding = read_coding(found['labelled'].pairs, '--labelled', request.masks, len(request.classes))
        except Undecided as error:
            questions.append(str(error))
    if questions or coding is None:
        raise ValueError('please say what cannot be told from the files:\n  ' + '\n  '.join(questions))
    return _decide(request, found, coding)


def _check(request: Request) -> None:
    for option in ('labelled', 'val', 'test'):
        if len(getattr(request, option)) > 2:
            raise ValueError(f'--{option} takes one folder, or that of the images and that of the masks')
    if request.split is not None and not 0 <= request.split < 1:
        raise ValueError(f'--split is {request.split}; it must be at least 0 (no validation) and below 1')
    if request.val and request.split:
        raise ValueError('--val and --split both say what to validate on: leave one out')


def _decide(request: Request, found: dict[str, Found], coding: Coding) -> OwnData:
    labelled = found['labelled']
    classes = request.classes or _default_classes(coding)
    if len(classes) < coding.num_classes:
        raise ValueError(
            f'--classes names {len(classes)} ({", ".join(classes)}), but the masks hold numbers up to '
            f'{coding.num_classes - 1}: name {coding.num_classes}, the background first'
        )
    others = {}
    for option in ('val', 'test'):
        others[option] = found[option].pairs if option in found else []
        if others[option]:
            _check_same_coding(
                read_coding(others[option], f'--{option}', _word(coding), len(classes)), coding, option
            )
    held = _files(pair.image for pairs in others.values() for pair in pairs)
    pool = [pair for pair in labelled.pairs if os.path.realpath(pair.image) not in held]
    if not pool:
        raise ValueError('all labelled images are images to validate or to test on: none is left to train on')

    why = [_describe_labelled(labelled, request.labelled), _describe_masks(coding, classes)]
    hashes = Hashes()
    train, validation = _split(request, pool, others['val'], why, hashes)
    if taken := len(labelled.pairs) - len(pool):
        why.append(f'{taken} labelled images are among those to validate or to test on: they are not trained on')
    if others['test']:
        why.append(f'test: {len(others["test"])} images of {request.test[0]}; tools/test.py scores them')
    else:
        scored = 'the validation says how it goes, but chooses the best checkpoint, too'
        why.append(f'test: none (--test); {scored if validation else "nothing is scored"}')
    unlabelled = _unlabelled(request, labelled, [*train, *validation, *others['test']], why)
    left_out = [text for part in found.values() for text in part.left_out]
    if left_out:
        why.append(f'not used: {"; ".join(left_out)}')
    data = OwnData(train, validation, others['test'], unlabelled, coding, tuple(classes), why)
    _compare(data, request, others, [pair.image for pair in pool], hashes)
    return data


def _compare(
    data: OwnData, request: Request, others: Mapping[str, list[Pair]], labelled: list[Path], hashes: Hashes
) -> None:
    """Look for images to test and to validate on that have near-twins among the others; says what it finds."""
    parts = {option: [pair.image for pair in pairs] for option, pairs in others.items() if pairs}
    if not parts:
        return
    if not hashes.there:
        data.why.append(f'near-twins of images of {_options(parts)} were not looked for: {INSTALL_AUDIT} finds them')
        return
    alike = []
    for option, images in parts.items():
        if twins := nearest_twins(images, labelled, hashes):
            data.twins += twins
            data.warnings.append(_describe_twins(twins, option, len(images), request))
        if twins := nearest_twins(data.unlabelled, images, hashes):
            alike.append(f'{len(twins)} look like images of --{option}')
    if alike:
        data.why.append(f'near-twins: of the unlabelled images {", ".join(alike)}; no mask of these is seen')
    elif not data.twins:
        data.why.append(f'near-twins of images of {_options(parts)}: none')


def _split(
    request: Request, pool: list[Pair], validation: list[Pair], why: list[str], hashes: Hashes
) -> tuple[list[Pair], list[Pair]]:
    """Images to train and to validate on."""
    if validation:
        why.append(f'validation: {len(validation)} images of {request.val[0]}; the best checkpoint is chosen on them')
        return pool, validation
    share = SPLIT if request.split is None and len(pool) >= MIN_TO_SPLIT else request.split
    if not share:
        reason = 'as --split 0 says' if share == 0 else f'{len(pool)} labelled images are fewer than {MIN_TO_SPLIT}'
        why.append(f'validation: none, {reason}; all labels are trained on, and the last checkpoint counts')
        return pool, []
    groups, how = group_frames([pair.name for pair in pool])
    groups, twins = join_twins(groups, [pair.image for pair in pool], hashes)
    chosen = hold_out(groups, share, request.seed)
    held = [pair for pair, group in zip(pool, groups, strict=True) if group in chosen]
    train = [pair for pair, group in zip(pool, groups, strict=True) if group not in chosen]
    why.append(_describe_groups(groups, how, twins))
    if not held:
        why.append('validation: none, since every group has more than half of the images; give --val')
        return pool, []
    whole = f'in {len(chosen)} of the {len(set(groups))} groups, ' if len(chosen) < len(held) else ''
    why.append(
        f'validation: {len(held)} of {len(pool)} labelled images, {whole}drawn with seed {request.seed}; the best '
        f'checkpoint is chosen on them, {len(train)} are trained on'
    )
    return train, held


def _unlabelled(request: Request, labelled: Found, used: Sequence[Pair], why: list[str]) -> list[Path]:
    """Images without labels, none of which is used otherwise."""
    left_out: list[str] = []
    for source in request.unlabelled:
        if not source.is_dir() and not find_videos(source):
            raise FileNotFoundError(f"--unlabelled: there is no folder or video '{source}'")
    folders = [source for source in request.unlabelled if source.is_dir()]
    images = [path for folder in folders for path in find_images(folder, left_out)]
    videos = [path for source in request.unlabelled for path in find_videos(source)]
    if videos:
        drawn = draw_frames(videos, request.frames, request.every)
        rate = f'each {request.every}th frame' if request.every else 'one frame a second'
        why.append(f'videos: {len(drawn)} frames of {len(videos)} (--every: {rate}), written to {request.frames}')
        images += drawn
    files = _files(pair.image for pair in used)
    seen: dict[str, Path] = {}
    for path in (*images, *labelled.unlabelled):
        seen.setdefault(os.path.realpath(path), path)
    kept = [path for real, path in seen.items() if real not in files]
    broken = unreadable(kept)
    kept = [path for path in kept if path not in broken]
    if request.unlabelled and not kept:
        raise FileNotFoundError(f"--unlabelled: '{request.unlabelled[0]}' has no image that is not used otherwise")
    more = f', {len(labelled.unlabelled)} of them images of --labelled without a mask' if labelled.unlabelled else ''
    also = f', {len(seen) - len(kept) - len(broken)} others left out as labelled, validation or test images'
    why.append(f'unlabelled: {len(kept)} images{more}' + (also if len(seen) > len(kept) + len(broken) else ''))
    if broken:
        left_out.append(f'{len(broken)} images that cannot be read, such as {next(iter(broken.values()))}')
    if left_out:
        why.append(f'not used of --unlabelled: {"; ".join(left_out)}')
    return kept


def _default_classes(coding: Coding) -> tuple[str, ...]:
    if coding.num_classes == 2:
        return ('background', 'polyp')
    return ('background', *(f'class {number}' for number in range(1, coding.num_classes)))


def _word(coding: Coding) -> str:
    return 'binary' if coding.binary else 'classes'


def _check_same_coding(other: Coding, coding: Coding, option: str) -> None:
    if other.num_classes > coding.num_classes:
        raise ValueError(
            f'--{option}: its masks hold numbers up to {other.num_classes - 1}, those of --labelled up to '
            f'{coding.num_classes - 1}: name all classes with --classes, or mend the masks'
        )


def _describe_labelled(found: Found, folders: Sequence[Path]) -> str:
    sizes = sorted({inspect_image(pair.image).size for pair in found.pairs}, key=lambda size: size[0] * size[1])
    span = ' to '.join(f'{width} x {height}' for width, height in dict.fromkeys((sizes[0], sizes[-1])))
    several = f', {len(sizes)} sizes' if len(sizes) > 1 else ''
    return f'labelled: {len(found.pairs)} images in {folders[0]} ({found.layout}), {span}{several}'


def _describe_masks(coding: Coding, classes: Sequence[str]) -> str:
    shares = coding.shares[:, 1:].sum(axis=1)
    empty = f', {np.count_nonzero(shares == 0)} masks are empty' if (shares == 0).any() else ''
    median = float(np.median(shares))
    wrong = (
        '. That is much: if background is white in them, invert the files' if coding.binary and median > MUCH else ''
    )
    return f'masks: {coding.why}; classes {", ".join(classes)}; median foreground {median:.0%}{empty}{wrong}'


def _describe_groups(groups: Sequence[str], how: str, twins: int | None) -> str:
    names = sorted(set(groups))
    shown = ', '.join(names[:SHOWN_GROUPS]) + (', ...' if len(names) > SHOWN_GROUPS else '')
    told = f'{len(names)} {how}: {shown}' if how != 'none' else 'each image by itself, since no sequence is seen'
    if twins is None:
        near = f'; near-twins were not looked for ({INSTALL_AUDIT} finds them)'
    else:
        near = f'; {twins} pairs of near-twins kept together' if twins else '; no near-twins'
    return f'groups: {told}{near}'


def _describe_twins(twins: Sequence[Twin], option: str, count: int, request: Request) -> str:
    used = 'its scores' if option == 'test' else 'its scores, and the checkpoint that they choose,'
    shown = ''.join(f'\n    {twin.scored} and {twin.learnt}' for twin in twins[:NUM_SHOWN_PROBLEMS])
    more = len(twins) - NUM_SHOWN_PROBLEMS
    return (
        f'{len(twins)} of the {count} images of --{option} are near-twins of images of --labelled, so {used} will be '
        f'better than on new images:{shown}'
        + (f'\n    and {more} more' if more > 0 else '')
        + f'\n  Take these away, best whole sequences and patients, from --labelled or from --{option}'
    )


def _options(parts: Iterable[str]) -> str:
    return ' and '.join(f'--{option}' for option in parts)


def _files(paths: Iterable[Path]) -> set[str]:
    return {os.path.realpath(path) for path in paths}
