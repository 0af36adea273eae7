"""Time, memory, the machine's matrix-product rate, and the table they are written into."""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import platform
import re
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from functools import wraps
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

# Taken before anything is measured, so that it tells of other processes.
LOAD = os.getloadavg()[0]
LINE = 118  # characters of a line of prose in Markdown


class SkipPart(Exception):
    """A part cannot be measured here; the message says what is missing."""


@dataclass
class Report:
    """What one part of the benchmark found.

    Attributes:
        title: One line that says what was measured against what.
        rows: One dict a row, all with the same keys; a key says its unit.
        notes: Sentences that belong under the table, targets among them.
        more: Further tables, by heading.
    """

    title: str
    rows: list[dict[str, float | int | str]]
    notes: list[str]
    more: dict[str, list[dict[str, float | int | str]]] = field(default_factory=dict)


def seconds(
    runs: dict[Hashable, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Hashable, float]:
    """Time several ways to do one thing.

    They take turns, so that what else the machine does strikes all alike. The best round counts:
    other processes only ever add to a time.

    Args:
        runs: What to time, by name.
        repeats: Rounds after a first one that is not timed.
        clock: What tells seconds; ``time.process_time`` leaves out what other processes take.

    Returns:
        Seconds of the best round, by name.
    """
    times = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            times[name].append(clock() - start)
    return {name: min(values[1:]) for name, values in times.items()}


def cpu_seconds(runs: dict[tuple[str, Hashable], Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU time of things that are done piece by piece, each piece being timed by itself as in :func:`seconds`.

    Where others work, too, no round is undisturbed from its first piece to its last; a piece is, in some round.

    Args:
        runs: By name of the thing and key of its piece.
        repeats: Rounds after a first one that is not timed.

    Returns:
        Seconds of the best rounds of all pieces, by name.
    """
    total: defaultdict[str, float] = defaultdict(float)
    for (name, _), taken in seconds(runs, repeats, time.process_time).items():
        total[name] += taken
    return total


def data_folders(names: Sequence[str]) -> list[Path]:
    """Those of the folders that lie below ``MMSEG_ACL_DATA``.

    Raises:
        SkipPart: None does.
    """
    root = os.environ.get('MMSEG_ACL_DATA')
    found = [Path(root) / name for name in names if (Path(root) / name).is_dir()] if root else []
    if not found:
        raise SkipPart(f'it needs real images: set MMSEG_ACL_DATA to the folder with {" or ".join(names)}')
    return found


class Spans:
    """Seconds of named spans of a step, on the wall or by another clock; nested ones count for the inner alone."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def timed(self, name: str, run: Callable) -> Callable:
        """Wrap ``run`` so that its calls add to the span ``name``."""

        @wraps(run)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = self._clock()
            result = run(*args, **kwargs)
            whole = self._clock() - start
            self.seconds[name] += whole - self._inner.pop()
            self._inner[-1] += whole
            return result

        return wrapped


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
    return extra_memories(prepare, [args])[0]


def extra_memories(prepare: Callable[..., Callable[[], object]], settings: Sequence[tuple]) -> list[float]:
    """Measure like :func:`extra_memory` for several settings, one after another in one process."""
    context = multiprocessing.get_context('spawn')
    with context.Pool(1) as pool:
        tasks = [(prepare, args, torch.get_num_threads()) for args in settings]
        return pool.starmap(_extra_memory, tasks, chunksize=1)


def _extra_memory(prepare: Callable, args: tuple, threads: int) -> float:
    torch.set_num_threads(threads)
    run = prepare(*args)
    gc.collect()
    # The C library keeps freed memory for later; given back, it counts when it is used again.
    ctypes.CDLL(None).malloc_trim(0)
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


def product_flops(run: Callable[[], object]) -> int:
    """Count the floating-point operations of a run's matrix products and convolutions."""
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def _convolution_backward_flops(
    grad_shape: list[int], x_shape: list[int], weight_shape: list[int], *args: Any, **_: Any
) -> int:
    """As many as forward for each of the two gradients that is wanted.

    torch's own formula takes a grouped convolution for a full one, hundreds of times the work.
    """
    *_, transposed, _, _, output_mask = args
    places = prod(x_shape if transposed else grad_shape)
    return 2 * places * prod(weight_shape[1:]) * sum(output_mask[:2])


def machine() -> dict[str, str | int]:
    """Describe what the figures were taken on."""
    cpuinfo = Path('/proc/cpuinfo')
    name = re.search(r'model name\s*: (.*)', cpuinfo.read_text()) if cpuinfo.exists() else None
    return dict(
        cpu=name.group(1) if name else platform.processor(),
        cores=os.cpu_count(),
        load=round(LOAD, 1),
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
    text = to_markdown(report, where)
    (out / f'{name}.md').write_text(text)
    return text


def to_markdown(report: Report, where: dict) -> str:
    """The page of a report that was measured on the machine ``where``."""
    parts = [f'# {report.title}']
    if where['load'] > 0.5:
        parts.append(
            f'The machine was shared: load {where["load"]} on {where["cores"]} cores before the measurement began. '
            'Ratios come from interleaved rounds; times are longer than alone.'
        )
    parts.append(table(report.rows))
    for heading, rows in report.more.items():
        parts += [f'## {heading}', table(rows)]
    notes = [*report.notes, ', '.join(f'{key} {value}' for key, value in where.items())]
    parts.append('\n'.join(textwrap.fill(f'- {note}', LINE, subsequent_indent='  ') for note in notes))
    paragraphs = (part if part.startswith(('|', '- ')) else textwrap.fill(part, LINE) for part in parts)
    return '\n\n'.join(paragraphs) + '\n'
