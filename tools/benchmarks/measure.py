"""Time, memory, the machine's matrix-product rate, and the table they are written into."""

from __future__ import annotations

import gc
import json
import multiprocessing
import platform
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass
class Report:
    """What one part of the benchmark found.

    Attributes:
        title: One line that says what was measured against what.
        rows: One dict a row, all with the same keys; a key says its unit.
        notes: Sentences that belong under the table, targets among them.
    """

    title: str
    rows: list[dict[str, float | int | str]]
    notes: list[str]


def seconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time several ways to do one thing.

    They take turns, so that what else the machine does strikes all alike. The best round counts:
    other processes only ever add to a time.

    Args:
        runs: What to time, by name.
        repeats: Rounds after a first one that is not timed.

    Returns:
        Seconds of the best round, by name.
    """
    times = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: min(values[1:]) for name, values in times.items()}


def extra_memory(prepare: Callable[..., Callable[[], object]], *args: object) -> float:
    """Measure the peak memory of a run beyond what its inputs hold, in MiB (Linux).

    It happens in a process of its own: in this one, memory that was freed earlier would be used
    again unseen.

    Args:
        prepare: A function at the top of a module that builds the inputs and returns the run; what
            the run loads on first use it should have loaded already, by a small run before.
        args: Passed to ``prepare``.

    Returns:
        MiB.
    """
    context = multiprocessing.get_context('spawn')
    with context.Pool(1) as pool:
        return pool.apply(_extra_memory, (prepare, args, torch.get_num_threads()))


def _extra_memory(prepare: Callable, args: tuple, threads: int) -> float:
    torch.set_num_threads(threads)
    run = prepare(*args)
    gc.collect()
    # Resets the high-water mark, which importing may have set higher than the run will.
    Path('/proc/self/clear_refs').write_text('5')
    before = _status('VmRSS')
    run()
    return (_status('VmHWM') - before) / 1024


def _status(key: str) -> int:
    """One entry of /proc/self/status, in KiB."""
    return int(re.search(rf'{key}:\s+(\d+)', Path('/proc/self/status').read_text()).group(1))


def matmul_rate(side: int = 2048, repeats: int = 5) -> float:
    """Measure the best rate of a float32 matrix product, in GFLOP/s: what no step can beat."""
    a, b = torch.randn(2, side, side)
    best = float('inf')
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def machine() -> dict[str, str | int]:
    """Describe what the figures were taken on."""
    cpuinfo = Path('/proc/cpuinfo')
    name = re.search(r'model name\s*: (.*)', cpuinfo.read_text()) if cpuinfo.exists() else None
    return dict(
        cpu=name.group(1) if name else platform.processor(),
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def table(rows: list[dict]) -> str:
    """Lay rows out as a Markdown table; floats get three significant digits."""

    def text(value: object) -> str:
        return f'{value:.3g}' if isinstance(value, float) else str(value)

    cells = [list(rows[0]), *[[text(value) for value in row.values()] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ['| ' + ' | '.join(map(str.ljust, line, widths)) + ' |' for line in cells]
    lines.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    return '\n'.join(lines)


def write(report: Report, name: str, out: Path) -> str:
    """Write ``name.json`` and ``name.md`` below ``out``; return the text of the latter."""
    out.mkdir(parents=True, exist_ok=True)
    where = machine()
    content = dict(asdict(report), machine=where)
    (out / f'{name}.json').write_text(json.dumps(content, indent=2) + '\n')
    notes = [*report.notes, ', '.join(f'{key} {value}' for key, value in where.items())]
    text = '\n'.join([f'# {report.title}', '', table(report.rows), '', *[f'- {n}' for n in notes]])
    (out / f'{name}.md').write_text(text + '\n')
    return text
