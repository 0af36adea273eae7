"""Tables inside documents: what stands between two marks of a Markdown file is written from the results files.

A table is described in a YAML file beside the results, such as ``results/laptop/tables.yaml``. It has ``runs``, which
gives names to patterns of folders, and ``tables``, by name. Each table has a ``form``, one of :data:`FORMS`, and what
that form asks for. ``numerics`` names the version of the training steps that all of the runs are of, where it is not
the present one. With ``planned: true`` rows whose runs have not been made yet are left out. A document says where a
table goes::

    <!-- table methods of results/laptop/tables.yaml, written by make results -->
    <!-- end of table -->

The path counts from the document.

The file may have ``figures``, too, for ``tools/visualize.py against --described``. Each has a ``label``, the
``tests``, and ``points``: for each name in the legend, a number and the runs that stand there. With ``costs``, the
results of the benchmark of methods, the number is the time of a step of the method that is named in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mmseg_acl.evaluation.result_files import METRICS, PROTOCOL, RESULTS, read_json, read_results, read_scores
from mmseg_acl.experiments.comparison import compare
from mmseg_acl.experiments.records import version_in
from mmseg_acl.experiments.tables import Cell, add_scores, markdown_table, spread
from mmseg_acl.numerics import NUMERICS

BEGIN = re.compile(r'^<!-- table (\S+) of (\S+), written by make results -->$', re.M)
END = '<!-- end of table -->'
NETWORK = 'teacher'
SEED = re.compile(r'_seed(\d+)$')

Lines = list[str]


@dataclass(frozen=True)
class Description:
    """A file with descriptions of tables, read.

    Attributes:
        path: The file.
        runs: Pattern of the folders of each name.
        tables: Description of each table.
        numerics: Version of the training steps (:mod:`mmseg_acl.numerics`) that all runs are of.
        planned: Whether runs may be missing, whose rows are left out.
        figures: Description of each figure.
    """

    path: Path
    runs: dict[str, str]
    tables: dict[str, dict[str, Any]]
    numerics: int = NUMERICS
    planned: bool = False
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Description:
        """Read a file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is no YAML, or lacks runs or tables.
        """
        if not path.is_file():
            raise FileNotFoundError(f'no description of tables at {path}')
        try:
            content = yaml.safe_load(path.read_text(encoding='utf-8'))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f'{path} is no YAML in UTF-8: {error}') from error
        if not isinstance(content, dict) or set(content) - {'numerics', 'planned', 'figures'} != {'runs', 'tables'}:
            raise ValueError(
                f'{path} must have the two keys runs and tables, and may have numerics, planned and figures'
            )
        return cls(path, **content)

    def is_made(self, name: str) -> bool:
        """Whether any run of a name is there; true of a name that is none, which is told where it is read."""
        return name not in self.runs or any(self.path.parent.glob(self.runs[name]))

    def folders(self, name: str) -> list[Path]:
        """Folders of the runs of one name, a seed each, in order.

        Raises:
            ValueError: No run has the name, no folder fits its pattern, or another version trained it.
        """
        if name not in self.runs:
            raise ValueError(f'{self.path} has no runs {name!r}; there are {", ".join(self.runs)}')
        found = sorted(self.path.parent.glob(self.runs[name]))
        if not found:
            raise ValueError(f'{self.path}: no folder fits {self.runs[name]!r}, the pattern of {name!r}')
        for folder in found:
            if (version := version_in(folder)) != self.numerics:
                raise ValueError(
                    f'{self.path}: {folder} was trained by version {version} of the training steps, and these tables '
                    f'are of version {self.numerics}: train it anew, or move it to a folder whose tables.yaml has '
                    f'numerics: {version}'
                )
        return found

    def cell(self, name: str, tests: str | list[str]) -> Cell:
        """Scores of the runs of one name over the images of the test sets.

        Raises:
            ValueError: A run was not scored on one of the sets.
        """
        cell = Cell()
        tests = (tests,) if isinstance(tests, str) else tuple(tests)
        for folder in self.folders(name):
            before = len(cell.dice)
            add_scores(cell, folder, tests, NETWORK)
            if len(cell.dice) == before:
                raise ValueError(f'{folder / RESULTS} lacks scores on one of {", ".join(tests)}')
        return cell


def update_document(path: Path) -> str:
    """The text of a document with its tables anew; the file stays as it is.

    Raises:
        ValueError: A mark has no end, or names no table, or the table cannot be made.
    """
    text = path.read_text(encoding='utf-8')
    if text.count(END) != len(BEGIN.findall(text)):
        raise ValueError(f'{path}: each mark of a table needs an {END!r} on a line of its own after it')
    return re.sub(
        f'({BEGIN.pattern})\n(.*?)^{re.escape(END)}$',
        lambda found: '\n'.join([found[1], *make_table(path.parent / found[3], found[2]), END]),
        text,
        flags=re.M | re.S,
    )


def make_table(description: Path, name: str) -> Lines:
    """The lines of one table.

    Raises:
        ValueError: The description has no such table, or its form or one of its keys is wrong.
    """
    read = Description.read(description)
    if name not in read.tables:
        raise ValueError(f'{description} has no table {name!r}; there are {", ".join(read.tables)}')
    arguments = dict(read.tables[name])
    form = arguments.pop('form', None)
    if form not in FORMS:
        raise ValueError(f'{description}: table {name!r} has the form {form!r}; allowed are {", ".join(FORMS)}')
    if read.planned and isinstance(arguments.get('rows'), list):
        rows = arguments['rows']
        arguments['rows'] = [row for row in rows if all(map(read.is_made, row.get('of', [row.get('runs')])))]
    try:
        return FORMS[form](read, **arguments)
    except TypeError as error:
        raise ValueError(f'{description}: table {name!r}: {error}') from error


class FigurePoints(NamedTuple):
    """What a described figure shows.

    Attributes:
        label: Of the axis.
        tests: Test sets whose images are averaged over.
        points: A name, a number and the folder of a run each.
    """

    label: str
    tests: list[str]
    points: list[tuple[str, float, Path]]


def figure_points(description: Path, name: str) -> FigurePoints:
    """Find the runs of a figure; those that have not been made yet are left out where the file has ``planned``.

    Raises:
        FileNotFoundError, ValueError: The description has no such figure, or one of its keys or runs is wrong, or no
            run of it has been made.
    """
    read = Description.read(description)
    if name not in read.figures:
        raise ValueError(f'{description} has no figure {name!r}; there are {", ".join(read.figures) or "none"}')
    figure = read.figures[name]
    if {'label', 'tests', 'points'} - set(figure) or set(figure) - {'label', 'tests', 'points', 'costs'}:
        raise ValueError(f'{description}: figure {name!r} must have label, tests and points, and may have costs')
    times = _times(description.parent / figure['costs']) if 'costs' in figure else {}
    points = []
    for title, places in figure['points'].items():
        for place, runs in places.items():
            if 'costs' in figure and place not in times:
                raise ValueError(
                    f'{description}: figure {name!r}: no cost of {place!r}; there are {", ".join(times)}'
                )
            if read.is_made(runs) or not read.planned:
                points += [(title, float(times.get(place, place)), folder) for folder in read.folders(runs)]
    if not points:
        raise ValueError(f'{description}: no run of the figure {name!r} has been made yet')
    return FigurePoints(figure['label'], figure['tests'], points)


def _means(read: Description, tests: dict, rows: list[dict], costs: str | None = None) -> Lines:
    """Dice of several runs by test set: mean and deviation over their seeds, of the teacher where there is one.

    Args:
        tests: Test set, or list of sets whose images count as those of one, of each column.
        rows: ``runs`` names the runs; ``label`` is what stands in the table (default: the name); ``cost`` is a
            method of ``costs``; any other key is a column of its own.
        costs: Results of the benchmark of methods, for a column with the time of a step relative to SupOnly's.
    """
    extra = list(dict.fromkeys(key for row in rows for key in row if key not in ('runs', 'label', 'cost')))
    body = []
    for row in rows:
        cells = [read.cell(row['runs'], chosen) for chosen in tests.values()]
        line = [row.get('label', row['runs']), *(str(row.get(key, '')) for key in extra), str(len(cells[0].dice))]
        body.append(line + [spread(cell.dice, digits=1) for cell in cells])
    return _with_costs(read, ['method', *extra, 'seeds', *tests], body, rows, costs)


def _scores(read: Description, columns: dict[str, dict], rows: list[dict], costs: str | None = None) -> Lines:
    """Any score of the protocol `image` of several runs: mean and deviation over their seeds.

    Args:
        columns: For each heading the ``tests``, whose scores are averaged with the weight that each set has in
            images, and the ``score``, such as missed, ece, brier or false_alarms.
        rows: ``runs`` names the runs; ``label`` is what stands in the table (default: the name); ``cost`` as in
            `_means`.
        costs: As in `_means`.
    """
    body = []
    for row in rows:
        folders = read.folders(row['runs'])
        found = [[_score(folder, **column) for folder in folders] for column in columns.values()]
        body.append([row.get('label', row['runs']), str(len(folders)), *(spread(each, digits=1) for each in found)])
    return _with_costs(read, ['method', 'seeds', *columns], body, rows, costs)


def _with_costs(
    read: Description, head: list[str], body: list[list[str]], rows: list[dict], costs: str | None
) -> Lines:
    """A table of one line a row, with the time of a step in the end where ``costs`` are given."""
    if costs:
        times = {name: f'{time:.1f}' for name, time in _times(read.path.parent / costs).items()}
        head = [*head, 'time of a step']
        body = [[*line, times.get(row.get('cost', ''), '')] for line, row in zip(body, rows, strict=True)]
    return markdown_table(head, body)


def _times(path: Path) -> dict[str, float]:
    """Time of a step of each method relative to SupOnly's, from the results of the benchmark of methods."""
    return {row['method']: row['time to SupOnly'] for row in read_json(path)['rows']}


def _score(folder: Path, tests: list[str], score: str) -> float:
    """A run's score over several sets, of the teacher where there is one."""
    results, images = read_scores(folder)
    total = count = 0.0
    for test in tests:
        by_network = results.get(test, {})
        network = NETWORK if NETWORK in by_network else next(iter(by_network), None)
        scores = by_network.get(network, {}).get(PROTOCOL, {})
        if score not in scores:
            raise ValueError(f'{folder / RESULTS} has no {score} of {test}: test the checkpoint again')
        weight = sum(row['set'] == test and row['network'] == network for row in images)
        total, count = total + weight * scores[score], count + weight
    return total / count


def _runs(read: Description, tests: dict) -> Lines:
    """Every run of the description with the Dice and IoU of each of its networks, by test set."""
    head = ['run', 'folder', *(f'{title} {metric}' for title in tests for metric in ('Dice', 'IoU'))]
    body = []
    for name in filter(read.is_made, read.runs) if read.planned else read.runs:
        for folder in read.folders(name):
            results = read_results(folder)
            line = [f'{name}, seed {_seed(folder)}', f'`{folder.name}`']
            for test in tests.values():
                scores = [protocols[PROTOCOL] for protocols in results[test].values()]
                line += [' / '.join(f'{score[key]:.1f}' for score in scores) for key in METRICS.values()]
            body.append(line)
    return markdown_table(head, body)


def _differences(read: Description, tests: list[str], rows: list[dict]) -> Lines:
    """What one kind of runs has above another, over the images of all sets together.

    Args:
        tests: Test sets.
        rows: ``what`` is compared, ``of`` the runs of two names, the first minus the second.
    """
    body = []
    for row in rows:
        first, second = row['of']
        ours, theirs = read.cell(first, tests), read.cell(second, tests)
        (found,) = compare(ours.images, {second: theirs.images})
        by_seed = ''
        if [*map(_seed, read.folders(first))] == [*map(_seed, read.folders(second))]:
            by_seed = ', '.join(f'{a - b:+.1f}' for a, b in zip(ours.dice, theirs.dice, strict=True))
        interval = f'{found.low:+.1f} to {found.high:+.1f}'
        body.append([row['what'], ' / '.join(map(str, found.seeds)), f'{found.difference:+.1f}', interval, by_seed])
    return markdown_table(['what', 'seeds', 'difference', '95 % interval', 'seed by seed'], body)


def _labels(read: Description, run: str, iterations: list[int], rows: dict[str, str]) -> Lines:
    """Dice of pseudo-labels by iteration and, below, its change by refinement with the standard error.

    Args:
        run: Folder with what tools/label_quality.py has measured, in a folder for each iteration.
        iterations: Which.
        rows: What stands in the table for each setting of that tool.
    """
    files = [read.path.parent / run / f'iter_{iteration}' / 'label_quality.json' for iteration in iterations]
    found = [read_json(file) for file in files]
    body = [["the teacher's own, Dice", *(f'{settings["teacher"]["dice"]:.1f}' for settings in found)]]
    for setting, label in rows.items():
        measured = [settings[setting] for settings in found]
        body.append([label, *(f'{each["change"]:+.1f} ± {each["error"]:.1f}' for each in measured)])
    return markdown_table(['labels', *(f'iteration {iteration}' for iteration in iterations)], body)


def _shifts(read: Description, columns: dict[str, str], rows: dict[str, str]) -> Lines:
    """Dice on held-out images as they are and changed.

    Args:
        columns: Change of tools/shifts.py for each heading.
        rows: Folder with its ``shifts.json`` for each row.
    """
    body = []
    for label, folder in rows.items():
        found = read_json(read.path.parent / folder / 'shifts.json')
        body.append([label, *(f'{found[change]:.1f}' for change in columns.values())])
    return markdown_table(['model', *columns], body)


def _seed(folder: Path) -> str:
    found = SEED.search(folder.name)
    if not found:
        raise ValueError(f'the folder {folder} does not end with _seed and a number')
    return found[1]


FORMS: dict[str, Callable[..., Lines]] = {
    'means': _means,
    'scores': _scores,
    'runs': _runs,
    'differences': _differences,
    'labels': _labels,
    'shifts': _shifts,
}
