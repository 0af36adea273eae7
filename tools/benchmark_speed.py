"""Measure the speed and memory of the parts, against baselines that are part of the benchmark.

    python tools/benchmark_speed.py
    python tools/benchmark_speed.py --parts refinement --threads 1 --out results/speed

Prints a table a part and writes it as ``PART.md`` and ``PART.json``. Figures worth comparing are
the ratios within one run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from benchmarks import refinement
from benchmarks.measure import write

PARTS = {'refinement': refinement.run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--parts', nargs='+', choices=list(PARTS), default=list(PARTS), help='default: all'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('results/speed'), help='folder to write to'
    )
    parser.add_argument('--threads', type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument(
        '--repeats', type=int, default=5, help='rounds; the best counts (default 5)'
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for part in args.parts:
        print(f'measuring {part} ...', flush=True)
        print(write(PARTS[part](args.repeats), part, args.out), end='\n\n')
    print(f'written to {args.out}')


if __name__ == '__main__':
    main()
