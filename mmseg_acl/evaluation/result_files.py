"""Scores as files: ``results.json``, and ``per_image.csv`` beside it, written whole and read with care."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.evaluation.polyp_metric import ImageScore

RESULTS, PER_IMAGE = 'results.json', 'per_image.csv'
COLUMNS = ('set', 'network', *ImageScore._fields)
# Metrics of the protocol `image`, which are means of the columns.
PROTOCOL = 'image'
METRICS = {'dice': 'mDice', 'iou': 'mIoU'}

# {set: {network: {protocol: {metric: percent}}}}
Results = dict[str, dict[str, dict[str, dict[str, float]]]]


def write_results(out_dir: Path, results: Results, rows: Iterable[tuple[str, str, ImageScore]]) -> None:
    """Write ``results.json`` and ``per_image.csv``, whose rows are (set, network, score).

    Raises:
        CheckpointError: The disk is full or cannot be written to.
    """
    lines = [COLUMNS, *((name, network, *score) for name, network, score in rows)]
    write_atomically(csv_bytes(lines), out_dir / PER_IMAGE)
    write_atomically(f'{json.dumps(results, indent=2)}\n'.encode(), out_dir / RESULTS)


def read_results(folder: Path) -> Results:
    """A folder's ``results.json``.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, is none, or has a score that is no finite number.
    """
    file = folder / RESULTS
    results = read_json(file)
    for path, value in _leaves(results, ()):
        if len(path) != 4 or not is_number(value):
            where = ' of '.join(map(repr, reversed(path))) or 'the whole'
            raise ValueError(
                f'{file} is damaged: {where} is {value!r}; it must be {{set: {{network: {{protocol: {{metric: '
                'number}}}}}}}}. Test the checkpoint again'
            )
    return results


def read_per_image(folder: Path) -> list[dict[str, str]]:
    """Rows of a folder's ``per_image.csv``.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or has a score that is no finite number.
    """
    return read_score_rows(folder / PER_IMAGE)


def read_score_rows(file: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """Rows of a csv file with scores by image.

    Args:
        file: The file.
        columns: Those that it must have; of ``dice`` and ``iou`` each row has to have a finite number.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, lacks a column, or a score is no finite number.
    """
    try:
        with file.open(newline='', encoding='utf-8') as lines:
            reader = csv.DictReader(lines, strict=True)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f'{file} has no column {missing[0]!r}: give a {PER_IMAGE} of tools/test.py')
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{file} is damaged: {error}. Test the checkpoint again') from error
    for number, row in enumerate(rows, 2):
        for column in columns:
            value = row[column]
            if value is None or column in ('dice', 'iou') and not is_number(value):
                raise ValueError(
                    f'{file} is damaged: in line {number} {column} is {value!r}'
                    f'{", no finite number" if value is not None else ""}. Test the checkpoint again'
                )
    return rows


def read_scores(folder: Path) -> tuple[Results, list[dict[str, str]]]:
    """Both files of a folder, which must agree: the mean Dice is that of the images.

    Raises:
        FileNotFoundError: One of them is missing.
        ValueError: One is damaged, or they are of different tests.
    """
    results, rows = read_results(folder), read_per_image(folder)
    dice: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        dice.setdefault((row['set'], row['network']), []).append(float(row['dice']))
    for name, by_network in results.items():
        for network, by_protocol in by_network.items():
            scores, found = by_protocol.get(PROTOCOL), dice.get((name, network), [])
            if scores is None:
                continue
            if missing := METRICS.values() - scores.keys():
                raise ValueError(f'{folder / RESULTS} is damaged: {name}, {network}, has no {min(missing)}')
            told = scores[METRICS['dice']]
            if not found or not math.isclose(told, sum(found) / len(found), abs_tol=0.01):
                raise ValueError(
                    f'{folder / PER_IMAGE} is cut short, or of another test than {RESULTS}: of {name}, {network}, it '
                    f'has {len(found)} images, whose mean Dice is not {told:.2f}. Test the checkpoint again'
                )
    return results, rows


def read_json(file: Path) -> Any:
    """Content of a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged; the message names it.
    """
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # also of bytes that are no text
        raise ValueError(f'{file} is damaged: {error}') from error


def is_number(value: Any) -> bool:
    """Whether a value, or a text, is a finite number."""
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def csv_bytes(rows: Iterable[Sequence]) -> bytes:
    """The bytes of a csv file."""
    text = io.StringIO(newline='')
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _leaves(part: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is in nested dicts, by its path; an empty dict counts, too."""
    if isinstance(part, dict) and part:
        for key, value in part.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, part
