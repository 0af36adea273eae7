"""Rounds of labelling on frames whose masks are known, to compare the rules of ``tools/suggest.py``."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from mmengine.config import Config
from scipy.integrate import trapezoid

from mmseg_acl.datasets.partitions import list_text
from mmseg_acl.datasets.polyp import PolypDataset
from mmseg_acl.datasets.polyp_free import CROPS, cut_crops
from mmseg_acl.engine import load_config
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.evaluation.result_files import PER_IMAGE, csv_bytes, read_per_image
from mmseg_acl.experiments.comparison import compare
from mmseg_acl.labelling.pool import find_pool
from mmseg_acl.labelling.rules import RULES
from mmseg_acl.labelling.suggestion import suggest
from mmseg_acl.labelling.training import CONFIG, run_tool, train_in

FRAMES, FREE = 'frames', 'polyp_free'
POINTS, SUMMARY, LIST = 'points.csv', 'README.md', 'labelled.txt'
# What every rule has to beat.
RANDOM = ('random', 'random-foreground')
REAL_RULES = tuple(rule for rule in RULES if rule != 'auto')


class Plan(NamedTuple):
    """What is simulated.

    Attributes:
        config: What is trained in each round; its test pipeline is used.
        folder: Labelled folder whose frames are the pool.
        names: List of these frames.
        exclude: Lists of frames that are left out of it.
        rules: Rules to compare.
        seeds: Of the first labels, of the trainings and of the rules.
        start: Number of first labels, drawn at random.
        rounds: How often the labels are doubled.
        iters: Length of each training.
        datasets: Test sets, see ``tools/test.py``.
        crops: Whether polyp-free crops of the frames are in the pool, too.
        twins: See :func:`~mmseg_acl.labelling.suggestion.suggest`.
        sequences: Likewise.
    """

    config: str
    folder: Path
    names: str
    exclude: tuple[str, ...]
    rules: tuple[str, ...]
    seeds: tuple[int, ...]
    start: int
    rounds: int
    iters: int | None
    datasets: tuple[str, ...]
    crops: bool
    twins: int | None
    sequences: str


class Point(NamedTuple):
    """A training that is done: Dice of each image of the test sets."""

    rule: str
    seed: int
    labels: int
    dice: dict[str, float]


def simulate(plan: Plan, work: Path, tools: Path) -> Iterator[Point]:
    """Train, choose, reveal the masks, train again; what is done is not done again.

    All rules start from the same labels of a seed, and from the same training.

    Args:
        plan: What to do.
        work: Folder for the pool and the trainings.
        tools: Folder of ``train.py`` and ``test.py``.

    Yields:
        Each training, as it is done.

    Raises:
        FileNotFoundError, ValueError: Something does not fit, which is found before anything is trained.
        RunError: A training failed.
    """
    if plan.start < 1 or plan.rounds < 1:
        raise ValueError(f'start is {plan.start} and rounds {plan.rounds}; both must be at least 1')
    config = load_config(plan.config, iters=plan.iters)
    work.mkdir(parents=True, exist_ok=True)
    everything = work / 'pool.txt'
    # Calls for other seeds share the pool and what has been looked at, and may run at the same time.
    shared = FileLock(work / 'pool.lock')
    with shared:
        pool = prepare_pool(plan, work)
        frames = find_pool(pool)
        write_atomically(list_text([frame.entry for frame in frames]).encode(), everything)
    if plan.start * 2**plan.rounds > len(frames):
        raise ValueError(f'{plan.start} labels doubled {plan.rounds} times are more than the pool has: {len(frames)}')
    for seed in plan.seeds:
        first = work / 'first' / f'seed{seed}'
        if not (first / LIST).is_file():
            with shared:
                found = suggest([], pool, plan.start, work / 'looks', 'random', seed, (), [], 'none', plan.twins)
            names = [found.frames[choice.index].entry for choice in found.choices]
            write_atomically(list_text(names).encode(), first / LIST)
        start = _train(plan, config, seed, first, pool, everything, tools)
        for rule in plan.rules:
            yield Point(rule, seed, plan.start, start)
            before, size = first, plan.start
            for number in range(1, plan.rounds + 1):
                folder = work / rule / f'seed{seed}_round{number}'
                if not (folder / LIST).is_file():
                    run = [str(before / CONFIG), str(before / f'iter_{int(config.train_cfg.max_iters)}.pth')]
                    known = [str(before / LIST)]
                    with shared:
                        found = suggest(
                            run, pool, size, work / 'looks', rule, seed, known, [], plan.sequences, plan.twins
                        )
                    chosen = [found.frames[choice.index].entry for choice in found.choices]
                    write_atomically(list_text([*found.labelled, *chosen]).encode(), folder / LIST)
                size *= 2
                yield Point(rule, seed, size, _train(plan, config, seed, folder, pool, everything, tools))
                before = folder


def prepare_pool(plan: Plan, work: Path) -> Path:
    """A folder with links to the frames and their masks, and with the polyp-free crops."""
    pool = work / 'pool'
    dataset = PolypDataset(plan.names, folder='', data_root=str(plan.folder), exclude=plan.exclude)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    for info in infos:
        for kind, key in (('images', 'img_path'), ('masks', 'seg_map_path')):
            file = Path(info[key]).resolve()
            link = pool / FRAMES / kind / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file)
    if plan.crops and not (pool / FREE / CROPS).is_file():
        shutil.rmtree(pool / FREE, ignore_errors=True)  # of a call that was stopped
        names = [Path(info['img_path']).stem for info in infos]
        for _ in cut_crops(pool / FRAMES / 'images', pool / FRAMES / 'masks', names, pool / FREE):
            pass
    return pool


def config_for(config: Config, pool: Path, labelled: Path, everything: Path, seed: int) -> Config:
    """The config that trains on the labelled frames of a pool, its other frames being unlabelled."""
    config = copy.deepcopy(config)
    dataset = config.train_dataloader.dataset
    source = dict(type='PolypDataset', folder='', data_root=str(pool))
    given = dataset.labelled if isinstance(dataset.labelled, list) else [dataset.labelled]
    dataset.labelled = [dict(source, ann_file=str(labelled), pipeline=part.pipeline) for part in given]
    if dataset.get('unlabelled') is not None:
        others = dict(source, ann_file=str(everything), exclude=[str(labelled)], labelled=False)
        dataset.unlabelled = dict(others, pipeline=dataset.unlabelled.pipeline)
    dataset.partition = None
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.randomness = dict(config.get('randomness', {}), seed=seed)
    return config


def _train(
    plan: Plan, config: Config, seed: int, folder: Path, pool: Path, everything: Path, tools: Path
) -> dict[str, float]:
    """Train and test in a folder that has a list, unless that is done; Dice of each test image."""
    if not (folder / 'test' / PER_IMAGE).is_file():
        part = config_for(config, pool, folder / LIST, everything, seed)
        checkpoint = train_in(folder, part, tools / 'train.py')
        options = ['--datasets', *plan.datasets, '--out', str(folder / 'test')]
        run_tool(tools / 'test.py', [str(folder / CONFIG), str(checkpoint), *options], folder)
    rows = read_per_image(folder / 'test')
    networks = {row['network'] for row in rows}
    network = 'teacher' if 'teacher' in networks else min(networks)
    return {f'{row["set"]} {row["image"]}': float(row['dice']) for row in rows if row['network'] == network}


def write_points(points: Sequence[Point], out: Path) -> list[Path]:
    """``points.csv``, a row a training, and ``README.md`` with a table; both of what is done so far."""
    rows = [[point.rule, point.seed, point.labels, f'{np.mean(list(point.dice.values())):.3f}'] for point in points]
    write_atomically(csv_bytes([['rule', 'seed', 'labels', 'dice'], *rows]), out / POINTS)
    write_atomically(summary(points).encode(), out / SUMMARY)
    return [out / POINTS, out / SUMMARY]


def areas(points: Sequence[Point], rule: str) -> list[dict[str, float]]:
    """Of each seed whose rounds are all done, the mean height of each image's curve over the logarithm of labels."""
    sizes = sorted({point.labels for point in points})
    by_seed: dict[int, dict[int, dict[str, float]]] = {}
    for point in points:
        if point.rule == rule:
            by_seed.setdefault(point.seed, {})[point.labels] = point.dice
    places = np.log2(sizes)
    found = []
    for curve in by_seed.values():
        if len(curve) == len(sizes) > 1:
            heights = {image: [curve[size][image] for size in sizes] for image in curve[sizes[0]]}
            width = places[-1] - places[0]
            found.append({image: float(trapezoid(dice, places) / width) for image, dice in heights.items()})
    return found


def summary(points: Sequence[Point]) -> str:
    """A table in Markdown: Dice by labels, area under the curve, differences from both kinds of chance."""
    sizes = sorted({point.labels for point in points})
    rules = list(dict.fromkeys(point.rule for point in points))
    curves = {rule: areas(points, rule) for rule in rules}
    columns = [
        'rule',
        *(f'{size} labels' for size in sizes),
        'area',
        *(f'area less that of {rule}' for rule in RANDOM),
    ]
    lines = [columns, ['---'] * len(columns)]
    for rule in rules:
        line = [rule]
        for size in sizes:
            means = [np.mean(list(p.dice.values())) for p in points if (p.rule, p.labels) == (rule, size)]
            line.append(_spread(means))
        line.append(_spread([np.mean(list(curve.values())) for curve in curves[rule]]))
        for other in RANDOM:
            if other == rule or not curves[rule] or not curves.get(other):
                line.append('')
                continue
            (found,) = compare(curves[rule], {other: curves[other]})
            line.append(f'{found.difference:+.1f} ({found.low:+.1f} to {found.high:+.1f})')
        lines.append(line)
    text = (
        '# Rules that say what to label next\n\n'
        'Dice in percent over all test images, mean ± standard deviation over seeds. The area is the mean height of '
        'the curve over the logarithm of the number of labels. Differences have 95 % intervals over images and '
        'seeds.\n\n'
    )
    return text + '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + '\n'


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ''
    return f'{np.mean(values):.1f}' + (f' ± {np.std(values, ddof=1):.1f}' if len(values) > 1 else '')
