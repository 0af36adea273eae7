"""Tables of an experiment, the paper's numbers beside ours: Markdown, csv and LaTeX."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from textwrap import wrap
from typing import Any

import numpy as np

from mmseg_acl.datasets.partitions import FRACTIONS
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.evaluation.cross_dataset import OWN, TEST_SETS
from mmseg_acl.evaluation.result_files import METRICS, PROTOCOL, csv_bytes, read_scores
from mmseg_acl.experiments.comparison import Comparison, compare
from mmseg_acl.experiments.grid import Experiment, Run
from mmseg_acl.experiments.records import recorded, scored_sets

PAPER_TABLES = Path(__file__).with_name('paper_tables.csv')
LABELLED = {part: f'1/{divisor}' for part, divisor in FRACTIONS.items()}
# What every file system has in names, in any script.
NAME = re.compile(r'[\w .+=()-]{1,100}')
TABLE_KEYS = ('name', 'title', 'columns', 'compare', 'network')
COLUMN_KEYS = ('title', 'test', 'paper')
LINE = 118  # characters of a line of prose in Markdown
NOT_RUN, NOT_AT_HAND = 'not run', 'set not at hand'


@dataclass(frozen=True)
class Column:
    """One test set, or the images of several as one, for models of one training.

    Attributes:
        title: Heading.
        tests: Names of the test sets.
        axes: What a run must have been expanded by to stand here, such as data and partition.
        paper: Number of the paper's table with the same column; None where there is none.
    """

    title: str
    tests: tuple[str, ...]
    axes: dict[str, str]
    paper: int | None


@dataclass
class Cell:
    """Scores of one row in one column, a value for each seed.

    Attributes:
        planned: Number of runs that the description has for this cell.
        finished: Number of those that are done, on whichever sets.
        network: Which of the networks was scored.
        dice: In percent, by run.
        iou: Likewise.
        images: Dice of each image, by run.
        paper: The paper's (Dice, IoU).
    """

    planned: int = 0
    finished: int = 0
    network: str = ''
    dice: list[float] = field(default_factory=list)
    iou: list[float] = field(default_factory=list)
    images: list[dict[str, float]] = field(default_factory=list)
    paper: tuple[float, float] | None = None

    @property
    def missing(self) -> str:
        """Why there is no score."""
        return NOT_AT_HAND if self.finished else NOT_RUN if self.planned else ''


@dataclass(frozen=True)
class Table:
    """A filled table; ``cells`` by row and column."""

    name: str
    title: str
    columns: list[Column]
    rows: list[str]
    cells: dict[tuple[str, int], Cell]
    comparisons: dict[int, list[Comparison]]
    reference: str


def write_tables(experiment: Experiment, results: Path, out: Path, network: str | None = None) -> list[Path]:
    """Write each table of an experiment as ``NAME.md``, ``NAME.csv`` and ``NAME.tex``.

    A table of a description has a ``name``, a ``title`` and ``columns``. A column has a ``title``, a ``test`` set (or
    a list of them, whose images count as those of one), perhaps the number of the ``paper``'s table that it stands
    in, and axes: it shows the runs that have them. Rows are the runs' labels. ``compare`` names the row that is
    compared with all others (default: ACL-Net where there is one).

    Args:
        experiment: With its tables.
        results: Folder below which the runs' results lie.
        out: Folder of the tables, made if needed.
        network: Which of a model's networks is shown; by default the table's ``network``, else the teacher. Where a
            model has no such network, its first one is.

    Returns:
        The files.

    Raises:
        ValueError: A table's description is wrong, or two runs claim one place in a table.
    """
    if not experiment.tables:
        raise ValueError(f'the description {experiment.name!r} has no tables')
    tables = [fill_table(experiment, description, results, network) for description in experiment.tables]
    names = Counter(table.name.casefold() for table in tables)
    if names.most_common(1)[0][1] > 1:
        raise ValueError(f'two tables have the name {names.most_common(1)[0][0]!r}: give each a name of its own')
    files = []
    for table in tables:
        forms = dict(md=to_markdown(table).encode(), tex=to_latex(table).encode(), csv=csv_bytes(to_rows(table)))
        for suffix, content in forms.items():
            files.append(out / f'{table.name}.{suffix}')
            write_atomically(content, files[-1])
    return files


def read_paper() -> dict[tuple[int, str, str, str], tuple[float, float]]:
    """The paper's Tables 1 to 3: (table, method, test set, labelled part) to (Dice, IoU)."""
    with PAPER_TABLES.open(newline='', encoding='utf-8') as file:
        return {
            (int(row['table']), row['method'], row['test_set'], row['labelled']): (
                float(row['dice']),
                float(row['iou']),
            )
            for row in csv.DictReader(file)
        }


def fill_table(
    experiment: Experiment, description: dict[str, Any], results: Path, network: str | None = None
) -> Table:
    """Collect what belongs into a table; see :func:`write_tables`."""
    name, columns = _read_description(description)
    network = network or description.get('network', 'teacher')
    done = {key: folder for key, folder in recorded(results).items() if scored_sets(folder)}
    paper = read_paper()
    cells: dict[tuple[str, int], Cell] = {}
    claimed: dict[tuple[str, int, int], Run] = {}
    for run in experiment.runs:
        for index, column in enumerate(columns):
            if any(run.axes.get(axis) != value for axis, value in column.axes.items()):
                continue
            other = claimed.setdefault((run.label, index, run.seed), run)
            if other.key != run.key:
                raise ValueError(
                    f'table {name!r}: {other.path} and {run.path} both stand in row {run.label!r}, column '
                    f'{column.title!r}, seed {run.seed}: tell them apart by label or by an axis of the column'
                )
            if other is not run:
                continue
            cell = cells.setdefault((run.label, index), Cell())
            labelled = LABELLED.get(run.axes.get('partition', ''), '')
            if column.paper and len(column.tests) == 1:
                cell.paper = paper.get((column.paper, run.label, TEST_SETS[column.tests[0]].folder, labelled))
            cell.planned += 1
            if run.key in done:
                cell.finished += 1
                add_scores(cell, done[run.key], column.tests, network)
    rows = list(dict.fromkeys(label for label, _ in cells))
    if not rows:
        raise ValueError(f'table {name!r}: no run of the description has the axes of any of its columns')
    reference = description.get('compare', 'ACL-Net')
    if 'compare' in description and reference not in rows:
        raise ValueError(f'table {name!r}: compare is {reference!r}; there are the rows {", ".join(rows)}')
    comparisons = {
        index: compare(cells[reference, index].images, peers)
        for index in range(len(columns))
        if cells.get((reference, index), Cell()).images
        and (
            peers := {
                row: cells[row, index].images
                for row in rows
                if row != reference and cells.get((row, index), Cell()).images
            }
        )
    }
    return Table(name, description.get('title', name), columns, rows, cells, comparisons, reference)


def to_markdown(table: Table) -> str:
    """The table, then the paired comparisons."""
    head, body = ['method'], [[row] for row in table.rows]
    for index, column in enumerate(table.columns):
        head.append(column.title)
        for line, row in zip(body, table.rows, strict=True):
            line.append(_ours(table.cells.get((row, index)), '±'))
        if _has_paper(table, index):
            head.append('paper')
            for line, row in zip(body, table.rows, strict=True):
                line.append(_paper(table.cells.get((row, index))))
    lines = [f'# {table.title}', '', *wrap(_caption(table), LINE), '', *markdown_table(head, body)]
    if table.comparisons:
        lines += ['', f'## {table.reference} against each peer', '', *wrap(_explanation(), LINE), '']
        head = ['test', 'peer', 'images', 'seeds', 'difference', '95 % interval', 'p (Wilcoxon)', 'p (Holm)']
        body = [
            [
                table.columns[index].title,
                found.peer,
                str(found.images),
                ' / '.join(map(str, found.seeds)),
                f'{found.difference:+.2f}',
                f'{found.low:+.2f} to {found.high:+.2f}',
                _p(found.p),
                _p(found.p_holm),
            ]
            for index, comparisons in table.comparisons.items()
            for found in comparisons
        ]
        lines += markdown_table(head, body)
    return '\n'.join(lines) + '\n'


def to_latex(table: Table) -> str:
    """The table for a document with the package booktabs; what a cell lacks is a dash."""
    heads, subheads, rules, body = [''], ['Method'], [], [[_escape(row)] for row in table.rows]
    for index, column in enumerate(table.columns):
        with_paper = _has_paper(table, index)
        span, first = 2 if with_paper else 1, len(subheads) + 1
        heads.append(f'\\multicolumn{{{span}}}{{c}}{{{_escape(column.title)}}}')
        subheads += ['ours', 'paper'] if with_paper else ['ours']
        rules.append(f'\\cmidrule(lr){{{first}-{first + span - 1}}}')
        for line, row in zip(body, table.rows, strict=True):
            cell = table.cells.get((row, index))
            line.append(_ours(cell, '$\\pm$') if cell and cell.dice else '--')
            line += [_paper(cell) or '--'] if with_paper else []
    lines = [
        f'% {table.title}. {_caption(table)}',
        f'\\begin{{tabular}}{{l{"c" * (len(subheads) - 1)}}}',
        '\\toprule',
        ' & '.join(heads) + ' \\\\',
        ' '.join(rules),
        ' & '.join(subheads) + ' \\\\',
        '\\midrule',
        *(' & '.join(line) + ' \\\\' for line in body),
        '\\bottomrule',
        '\\end{tabular}',
    ]
    return '\n'.join(lines) + '\n'


def to_rows(table: Table) -> list[list[Any]]:
    """The table with one line for each cell and metric, for other programs; values are not rounded."""
    rows: list[list[Any]] = [
        ['table', 'method', 'column', 'test_set', 'network', 'metric', 'runs', 'planned', 'mean', 'std', 'paper']
        + ['missing', 'difference', 'low', 'high', 'p', 'p_holm']
    ]
    for (row, index), cell in table.cells.items():
        compared = {found.peer: found for found in table.comparisons.get(index, [])}.get(row)
        for place, metric in enumerate(METRICS):
            values = getattr(cell, metric)
            scores = [mean(values) if values else '', stdev(values) if len(values) > 1 else '']
            paper = cell.paper[place] if cell.paper else ''
            column = table.columns[index]
            rows.append(
                [
                    table.name,
                    row,
                    column.title,
                    '+'.join(column.tests),
                    cell.network,
                    metric,
                    len(values),
                    cell.planned,
                ]
                + [*scores, paper, '' if values else cell.missing]
                + _compared(compared if metric == 'dice' else None)
            )
    return rows


def add_scores(cell: Cell, folder: Path, tests: tuple[str, ...], network: str) -> None:
    """Add a run's mean over the images of all the sets, if it was scored on each of them."""
    results, images = read_scores(folder)
    by_network: dict[str, list[dict[str, float]]] = {}
    for test in tests:
        for name, found in results.get(test, {}).items():
            if PROTOCOL in found:
                by_network.setdefault(name, []).append(found[PROTOCOL])
    by_network = {name: found for name, found in by_network.items() if len(found) == len(tests)}
    if not by_network:
        return
    cell.network = network if network in by_network else next(iter(by_network))
    rows = [row for row in images if row['set'] in tests and row['network'] == cell.network]
    counts = Counter(row['set'] for row in rows)
    for metric, key in METRICS.items():
        scores = [found[key] for found in by_network[cell.network]]
        getattr(cell, metric).append(float(np.average(scores, weights=[counts[test] for test in tests])))
    cell.images.append({f'{row["set"]}/{row["image"]}': float(row['dice']) for row in rows})


def markdown_table(head: list[str], body: list[list[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return ['| ' + ' | '.join(line) + ' |' for line in (head, ['---'] * len(head), *body)]


def spread(values: Sequence[float], plus_minus: str = '±', digits: int = 2) -> str:
    """Mean and, of several values, the sample standard deviation."""
    if len(values) == 1:
        return f'{values[0]:.{digits}f}'
    return f'{mean(values):.{digits}f} {plus_minus} {stdev(values):.{digits}f}'


def _read_description(description: dict[str, Any]) -> tuple[str, list[Column]]:
    if not isinstance(description, dict):
        raise ValueError(f'table {description!r} is no description: it needs name and columns')
    name = description.get('name', '?')
    unknown = [key for key in description if key not in TABLE_KEYS]
    if unknown or 'name' not in description or not description.get('columns'):
        raise ValueError(
            f'table {name!r} has the keys {", ".join(map(str, description))}; it needs name and columns; allowed are '
            f'{", ".join(TABLE_KEYS)}'
        )
    if not isinstance(name, (str, int)) or not NAME.fullmatch(str(name)) or str(name).strip('. ') != str(name):
        raise ValueError(
            f'table {name!r}: the name becomes that of a file, so it must have letters, digits and - _ . + = ( ) or '
            'spaces only, and begin and end with none of dot and space'
        )
    columns = []
    for column in description['columns']:
        tests = column.get('test')
        tests = tuple(map(str, tests if isinstance(tests, list) else [tests]))
        if not tests or len(set(tests)) < len(tests) or not set(tests) <= {*TEST_SETS, OWN}:
            raise ValueError(
                f'table {name!r}: the column {column} has no test set; test must be one of '
                f'{", ".join(TEST_SETS)}, {OWN}, or a list of different ones'
            )
        axes = {key: str(value) for key, value in column.items() if key not in COLUMN_KEYS}
        columns.append(Column(column.get('title', ' + '.join(tests)), tests, axes, column.get('paper')))
    return str(name), columns


def _has_paper(table: Table, index: int) -> bool:
    return any(cell.paper for (_, column), cell in table.cells.items() if column == index)


def _ours(cell: Cell | None, plus_minus: str) -> str:
    if cell is None:
        return ''
    if not cell.dice:
        return cell.missing
    few = f' ({len(cell.dice)} of {cell.planned})' if len(cell.dice) < cell.planned else ''
    return ' / '.join(spread(values, plus_minus) for values in (cell.dice, cell.iou)) + few


def _paper(cell: Cell | None) -> str:
    return f'{cell.paper[0]:.2f} / {cell.paper[1]:.2f}' if cell and cell.paper else ''


def _caption(table: Table) -> str:
    networks = sorted({cell.network for cell in table.cells.values() if cell.network})
    return (
        'Dice / IoU in percent, mean over images at the original size; over several seeds the mean ± the sample '
        f'standard deviation. Networks: {", ".join(networks) or "none yet"}.'
    )


def _explanation() -> str:
    return (
        'Difference of Dice, image by image, each the mean over the seeds of a method; positive: the former is '
        'better. The interval is a bootstrap over images and seeds together; where a method has one seed, over '
        'images alone. The tests are over images.'
    )


def _compared(found: Comparison | None) -> list[Any]:
    return [found.difference, found.low, found.high, found.p, found.p_holm] if found else [''] * 5


def _p(value: float) -> str:
    return '< 0.001' if value < 0.001 else f'{value:.3f}'


def _escape(text: str) -> str:
    for character in '&%$#_':
        text = text.replace(character, f'\\{character}')
    return text
