"""Memory of a training over its iterations, on tiny images.

    python tests/memory_use.py --method aclnet --iterations 1000

prints three numbers: what the process holds (RSS), what the C library and Python have given out, and Python's number
of blocks. Tensors are of the C library. What a process holds moves in steps of a megabyte, since freed memory is kept
for later; what is given out shows a leak of kilobytes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.hooks import Hook
from variation import vary

from mmseg_acl.datasets import write_synthetic
from mmseg_acl.engine import build_runner, load_config, train

CONFIGS = Path(__file__).parent / 'configs'
MB = 2**20
NEVER = 10**6


class Memory(NamedTuple):
    """Megabytes held and given out, and Python's blocks."""

    rss: float
    in_use: float | None
    blocks: int


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'.split()
    ]


def malloc_in_use() -> float | None:
    """Megabytes that the C library has given out; None where it does not say (glibc does from 2.33 on)."""
    mallinfo2 = getattr(ctypes.CDLL(None), 'mallinfo2', None)
    if mallinfo2 is None:
        return None
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return (found.uordblks + found.hblkhd) / MB


def memory() -> Memory:
    """Memory of this process, without what Python's collector would free."""
    gc.collect()
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return Memory(pages * os.sysconf('SC_PAGE_SIZE') / MB, malloc_in_use(), sys.getallocatedblocks())


def measure(
    method: str,
    folder: Path,
    iterations: int,
    every: int,
    told: Callable[[int, Memory], None] | None = None,
    changes: dict | None = None,
) -> list[tuple[int, Memory]]:
    """Train on synthetic frames and note the memory after every so many iterations.

    Args:
        method: Name of a config in ``tests/configs``.
        folder: Where frames and run go.
        iterations: Length of the run.
        every: Iterations from one note to the next.
        told: Called with each note as it is made.
        changes: Further options of the run.
    """
    write_synthetic(folder / 'data', labelled=5, unlabelled=7, test=3, size=(72, 96), seed=0)
    before = {name: os.environ.get(name) for name in ('MMSEG_ACL_DATA', 'MMSEG_ACL_WEIGHTS')}
    os.environ.update(MMSEG_ACL_DATA=str(folder / 'data'), MMSEG_ACL_WEIGHTS='none')
    options = {
        'train_cfg.max_iters': iterations,
        'train_cfg.val_begin': NEVER,
        'default_hooks.checkpoint.interval': NEVER,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'log_level': 'WARNING',
        **(changes or {}),
    }
    try:
        runner = build_runner(
            load_config(str(CONFIGS / f'{method}.py'), work_dir=str(folder / 'run'), options=options)
        )
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    found = []

    class Note(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if (runner.iter + 1) % every == 0:
                found.append((runner.iter + 1, memory()))
                if told:
                    told(*found[-1])

    runner.register_hook(Note())
    train(runner)
    return found


def slope(points: list[tuple[int, float]]) -> float:
    """Growth an iteration, as the line through all points has it."""
    return float(np.polyfit(*zip(*points, strict=True), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--method', default='aclnet', choices=sorted(path.stem for path in CONFIGS.glob('*.py')))
    parser.add_argument('--iterations', type=int, default=1000)
    parser.add_argument('--every', type=int, default=50)
    args = parser.parse_args()
    vary()

    def tell(iteration: int, found: Memory) -> None:
        given = '' if found.in_use is None else f'{found.in_use:.2f}'
        print(f'| {iteration} | {found.rss:.1f} | {given} | {found.blocks} |', flush=True)

    print('| iteration | held (MB) | given out (MB) | blocks |', '|---|---|---|---|', sep='\n')
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.method, Path(folder), args.iterations, args.every, tell)
    late = [(iteration, memory) for iteration, memory in found if iteration >= min(100, args.iterations // 3)]
    for name in ('rss', 'in_use'):
        if getattr(late[0][1], name) is not None:
            growth = 100 * slope([(iteration, getattr(memory, name)) for iteration, memory in late])
            print(f'{name}: {growth:+.3f} MB in 100 iterations, after the first {late[0][0]}')


if __name__ == '__main__':
    main()
