"""A page of tables and pictures that needs no other file."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

from mmseg_acl.engine.atomic import write_atomically

Curve = tuple[Sequence[float], Sequence[float]]  # iterations, values

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em;
       color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .3em .8em; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.pictures td { text-align: center; vertical-align: top; padding: .3em; font-size: 13px; }
.pictures th { text-align: center; }
.pictures img { width: 190px; display: block; }
img { max-width: 100%; }
.wide { overflow-x: auto; }
.panels { display: flex; flex-wrap: wrap; gap: 8px; }
.panels img { width: 420px; }
pre { background: #f4f4f4; padding: .8em; overflow-x: auto; font-size: 13px; }
td:last-child { overflow-wrap: anywhere; }
@media (max-width: 600px) {
  body { margin: 1em auto; }
  th, td { padding: .3em .4em; }
  .pictures { table-layout: fixed; width: 100%; }
  .pictures td { overflow-wrap: anywhere; }
  .pictures img { width: 100%; }
  .panels img { width: 100%; }
}
"""


class Report:
    """Collects parts of a page in their order and writes it as one html file.

    Args:
        title: Title of the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    def add_heading(self, text: str) -> None:
        """Start a section."""
        self._parts.append(f'<h2>{html.escape(text)}</h2>')

    def add_text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f'<p>{html.escape(text)}</p>')

    def add_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table of text."""
        body = [[html.escape(cell) for cell in row] for row in rows]
        self._parts.append(_table(columns, body))

    def add_pictures(self, columns: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]) -> None:
        """Add a table of pictures, each cell the picture's address and a caption."""
        body = [[f'<img src="{uri}" alt="">{html.escape(caption)}' for uri, caption in row] for row in rows]
        self._parts.append(_table(columns, body, 'pictures'))

    def add_picture(self, uri: str) -> None:
        """Add one picture across the page."""
        self._parts.append(f'<img src="{uri}" alt="">')

    def add_panels(self, uris: Sequence[str]) -> None:
        """Add pictures beside each other, as many as there is room for."""
        body = ''.join(f'<img src="{uri}" alt="">' for uri in uris)
        self._parts.append(f'<div class="panels">{body}</div>')

    def add_code(self, text: str) -> None:
        """Add lines as they are."""
        self._parts.append(f'<pre>{html.escape(text)}</pre>')

    def add_details(self, title: str, text: str) -> None:
        """Add lines that are shown on a click."""
        self._parts.append(
            f'<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>'
        )

    def write(self, path: Path) -> None:
        """Write the page, making its folder if needed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        title, body = html.escape(self.title), '\n'.join(self._parts)
        page = (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
            f'<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}\n</body></html>\n'
        )
        write_atomically(page.encode(), path)  # it may be looked at while a run writes it anew


def read_curves(work_dir: Path) -> dict[str, Curve]:
    """Scalars of the latest run in a work folder, as mmengine logged them.

    Returns:
        {name: (iterations, values)}.

    Raises:
        FileNotFoundError: If there is no log.
    """
    return _read_logs(_find_logs(work_dir)[-1:])


def read_scalars(path: Path) -> dict[str, Curve]:
    """Scalars of a run, its resumed parts together: where two logged one iteration, the later counts.

    Args:
        path: A work folder, a folder with a ``scalars.json``, or that file.

    Returns:
        {name: (iterations, values)}.

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If a log is no log.
    """
    if path.is_dir():
        own = path / 'scalars.json'
        return _read_logs([own] if own.is_file() else _find_logs(path))
    return _read_logs([path])


def _find_logs(work_dir: Path) -> list[Path]:
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(f"no scalars.json below '{work_dir}': nothing was trained there")
    return logs


def _read_logs(logs: Sequence[Path]) -> dict[str, Curve]:
    curves: dict[str, dict[float, float]] = {}
    for log in logs:
        for number, line in enumerate(log.read_bytes().decode(errors='replace').splitlines(), 1):
            try:
                record = json.loads(line)
                step = record['step']
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"'{log}', line {number}: no log of scalars ({error!r})") from error
            for name, value in record.items():
                curves.setdefault(name, {})[step] = value
    return {name: tuple(map(list, zip(*sorted(values.items()), strict=True))) for name, values in curves.items()}


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], css_class: str = '') -> str:
    head = ''.join(f'<th>{html.escape(column)}</th>' for column in columns)
    body = ''.join('<tr>' + ''.join(f'<td>{cell}</td>' for cell in row) + '</tr>\n' for row in rows)
    head = f'<tr>{head}</tr>\n' if any(columns) else ''
    return f'<div class="wide"><table class="{css_class}">{head}{body}</table></div>'
