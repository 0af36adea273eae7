"""Training curves, the distribution of scores, and scores against what they cost, from the files that training and
testing write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmseg_acl.evaluation.result_files import PER_IMAGE, read_score_rows
from mmseg_acl.visualization.report import read_scalars
from mmseg_acl.visualization.style import WIDTH, color_of, new_figure, paper_style, style_of

PANELS_A_ROW = 2
# Scalars with few values are drawn with a mark at each.
FEW = 30
# On the logarithmic axis: how far marks are apart, and how much is left beside the outer ones.
TICK_RATIO = 1.06
COLUMNS = ('set', 'network', 'image', 'dice')


def parse_named(text: str) -> tuple[str, Path]:
    """`[NAME=]PATH`; without a name the file's folder or the folder itself is it.

    Raises:
        FileNotFoundError: There is no such path.
    """
    # A path may hold an equals sign, and stand without a name.
    name, equals, rest = text.partition('=')
    path = Path(rest) if equals and not Path(text).exists() else Path(text)
    if not path.exists():
        raise FileNotFoundError(f"'{path}' does not exist: give [NAME=]PATH")
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    return (name if path != Path(text) else folder.name), path


def draw_curves(runs: Sequence[tuple[str, Path]], scalars: Sequence[str] | None = None) -> Figure:
    """A panel a scalar, a colour a name; runs of one name (seeds) are drawn in one colour.

    Args:
        runs: Name and path each: a work folder, or a `scalars.json`.
        scalars: Names such as `loss_seg` or `teacher/mDice`. None takes `loss` and every `mDice`.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: No run has a scalar.
    """
    # A plain segmentor counts as a student, as in tools/test.py.
    curves = [
        (name, {f'student/{key}' if key in ('mDice', 'mIoU') else key: curve for key, curve in found.items()})
        for name, found in ((name, read_scalars(path)) for name, path in runs)
    ]
    available = sorted({scalar for _, found in curves for scalar in found})
    if scalars is None:
        scalars = [scalar for scalar in available if scalar == 'loss' or scalar.rpartition('/')[2] == 'mDice']
    for scalar in scalars:
        if scalar not in available:
            raise ValueError(f'no run has logged {scalar!r}; logged are {", ".join(available)}')
    if not scalars:
        raise ValueError(f'no run has logged loss or mDice: choose --scalars from {", ".join(available)}')

    names = list(dict.fromkeys(name for name, _ in curves))
    columns = min(len(scalars), PANELS_A_ROW)
    rows = -(-len(scalars) // columns)
    with paper_style():
        figure = new_figure(2.2 * rows + _legend_height(names))
        for index, scalar in enumerate(scalars):
            axes = figure.add_subplot(rows, columns, index + 1, xlabel='iteration', ylabel=scalar)
            for name, found in curves:
                steps, values = found.get(scalar, ([], []))
                number = names.index(name)
                mark = 'o' if 0 < len(steps) <= FEW else None
                axes.plot(steps, values, style_of(number), c=color_of(number), label=name, marker=mark, ms=2.5)
            axes.grid(alpha=0.3, linewidth=0.4)
        _add_legend(figure, axes)
    return figure


def read_dice(path: Path, network: str | None = None) -> dict[str, np.ndarray]:
    """Dice of every image, in percent, by test set, from a `per_image.csv` of tools/test.py.

    Args:
        path: The file, or the folder it is in.
        network: `student`, `teacher` and so on; None takes the teacher of runs that have one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, or has no such network.
    """
    file = path / PER_IMAGE if path.is_dir() else path
    rows = read_score_rows(file, COLUMNS)
    networks = list(dict.fromkeys(row['network'] for row in rows))
    if not rows or (network is not None and network not in networks):
        raise ValueError(f"'{file}' has no scores of {network or 'any network'}, only of {', '.join(networks)}")
    chosen = network or ('teacher' if 'teacher' in networks else networks[0])
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row['network'] == chosen:
            scores.setdefault(row['set'], []).append(float(row['dice']))
    return {name: np.array(values) for name, values in scores.items()}


def draw_distribution(
    runs: Sequence[tuple[str, Path]], datasets: Sequence[str] | None = None, network: str | None = None
) -> Figure:
    """A panel a test set: Dice of every image, a violin a method with median, quartiles and mean (white dot).

    Runs of one name (seeds) are put together.

    Args:
        runs: Name and path each, see :func:`read_dice`.
        datasets: Test sets; None takes those that all runs have.
        network: See :func:`read_dice`.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is not as it should be, or a run lacks a set.
    """
    scores: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, path in runs:
        found = read_dice(path, network)
        for dataset in datasets or ():
            if dataset not in found:
                raise ValueError(f"'{path}' has no scores on {dataset!r}; it has {', '.join(found)}")
        for dataset, values in found.items():
            scores.setdefault(dataset, {}).setdefault(name, []).append(values)
    names = list(dict.fromkeys(name for name, _ in runs))
    shared = [dataset for dataset, found in scores.items() if len(found) == len(names)]
    if not shared:
        raise ValueError(f'the runs have no test set in common: {", ".join(scores)}; test them on the same')

    chosen = list(datasets or shared)
    columns = min(len(chosen), max(1, int(WIDTH / (0.5 + 0.4 * len(names)))))
    rows = math.ceil(len(chosen) / columns)
    with paper_style():
        figure = new_figure(2.4 * rows + _legend_height(names))
        for index, dataset in enumerate(chosen):
            axes = figure.add_subplot(rows, columns, index + 1, title=dataset, ylabel='Dice', ylim=(-2, 102))
            for number, name in enumerate(names):
                _draw_violin(axes, number, np.concatenate(scores[dataset][name]), name)
            axes.set_xticks([])
            axes.grid(axis='y', alpha=0.3, linewidth=0.4)
        _add_legend(figure, axes)
    return figure


class Point(NamedTuple):
    """A run, and where it stands on the axis: how many labels it had, say, or what a step of it costs."""

    name: str
    place: float
    path: Path


def parse_point(text: str) -> Point:
    """`NAME@NUMBER=PATH`.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: It has another form, or the number is none above 0.
    """
    found = re.fullmatch(r'(?P<name>.+)@(?P<place>[^@=]+)=(?P<path>.+)', text)
    try:
        place = float(found['place']) if found else math.nan
    except ValueError:
        place = math.nan
    if not 0 < place < math.inf:
        raise ValueError(f"'{text}' is no point: give NAME@NUMBER=PATH with a number above 0, as in ACL-Net@28=run")
    path = Path(found['path'])
    if not path.exists():
        raise FileNotFoundError(f"'{path}' does not exist: give NAME@NUMBER=PATH")
    return Point(found['name'], place, path)


def draw_against(
    points: Sequence[Point], label: str, datasets: Sequence[str] | None = None, network: str | None = None
) -> Figure:
    """Mean Dice over all images of the test sets against a number: a colour a name, a line through means over seeds.

    Points of one name and number are seeds; a band goes from the lowest of them to the highest.

    Args:
        points: The runs, see :func:`read_dice`.
        label: What the number is.
        datasets: Test sets; None takes those that all runs have.
        network: See :func:`read_dice`.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is not as it should be, or a run lacks a set.
    """
    found = [read_dice(point.path, network) for point in points]
    chosen = datasets or [name for name in found[0] if all(name in each for each in found)]
    for point, each in zip(points, found, strict=True):
        if lacking := [name for name in chosen if name not in each]:
            raise ValueError(f"'{point.path}' has no scores on {lacking[0]!r}; it has {', '.join(each)}")
    if not chosen:
        raise ValueError('the runs have no test set in common: test them on the same')
    lines: dict[str, dict[float, list[float]]] = {}
    for point, each in zip(points, found, strict=True):
        dice = float(np.concatenate([each[name] for name in chosen]).mean())
        lines.setdefault(point.name, {}).setdefault(point.place, []).append(dice)

    with paper_style():
        figure = new_figure(3.0 + _legend_height(list(lines)))
        axes = figure.add_subplot(xlabel=label, ylabel=f'Dice, mean over {", ".join(chosen)}', xscale='log')
        for number, (name, line) in enumerate(lines.items()):
            places, seeds = zip(*sorted(line.items()), strict=True)
            color = color_of(number)
            means, low, high = ([summary(each) for each in seeds] for summary in (np.mean, min, max))
            axes.plot(places, means, style_of(number), c=color, label=name, marker='o', ms=4)
            if len(places) > 1:
                axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
            axes.vlines(places, low, high, color=color, linewidth=0.8)
        marked: list[float] = []
        for place in sorted({point.place for point in points}):
            # Numbers that are too near to stand beside each other are left to the eye.
            if not marked or place > TICK_RATIO * marked[-1]:
                marked.append(place)
        axes.set_xticks(marked, [f'{place:.3g}' for place in marked])
        axes.set_xlim(marked[0] / TICK_RATIO, max(point.place for point in points) * TICK_RATIO)
        axes.minorticks_off()
        axes.grid(alpha=0.3, linewidth=0.4)
        _add_legend(figure, axes)
    return figure


def _draw_violin(axes: Axes, place: int, values: np.ndarray, name: str) -> None:
    (body,) = axes.violinplot([values], [place], widths=0.85, showextrema=False)['bodies']
    body.set(facecolor=color_of(place), alpha=0.6, edgecolor='black', linewidth=0.4, label=name)
    low, middle, high = np.percentile(values, [25, 50, 75])
    axes.vlines(place, low, high, color='black', linewidth=3)
    axes.hlines(middle, place - 0.2, place + 0.2, color='black', linewidth=1)
    axes.plot(place, values.mean(), 'o', c='white', ms=2.5, mec='black', mew=0.4)


def _legend_height(names: Sequence[str]) -> float:
    return 0.1 + 0.16 * math.ceil(len(names) / _legend_columns(names))


def _legend_columns(names: Sequence[str]) -> int:
    """As many as fit beside each other."""
    return max(1, min(len(names), int(WIDTH / (0.45 + 0.065 * max(map(len, names))))))


def _add_legend(figure: Figure, axes: Axes) -> None:
    """One entry a name, below all panels."""
    by_name = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(by_name.values(), by_name, loc='outside lower center', ncol=_legend_columns(list(by_name)))
