"""Measure the speed and memory of the parts, against baselines that are part of the benchmark.

    python tools/benchmark_speed.py
    python tools/benchmark_speed.py --parts refinement --threads 1 --out results/speed
    python tools/benchmark_speed.py --parts step --sides 128 384
    MMSEG_ACL_DATA=path/to/data python tools/benchmark_speed.py --parts loading

Prints a table a part and writes it as ``PART.md`` and ``PART.json``. Figures worth comparing are
the ratios within one run. Inputs and weights are random, but for ``loading`` and ``prediction``, which need images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mmseg_acl.arguments import ToolParser, folder, positive
from mmseg_acl.benchmarks import affinity, loading, methods, prediction, refinement, scoring, startup, step
from mmseg_acl.benchmarks.measure import SkipPart, write

PARTS = {
    'refinement': refinement.run,
    'affinity': affinity.run,
    'step': step.run,
    'methods': methods.run,
    'scoring': scoring.run,
    'loading': loading.run,
    'startup': startup.run,
    'prediction': prediction.run,
}


def calls(part: str, args: argparse.Namespace) -> list[tuple[str, dict]]:
    """The reports that a part gives, by the names of their files, and how each is asked for."""
    if part == 'step':
        return [(part, dict(sides=args.sides, images=args.images))]
    if part == 'methods':
        found = []
        for side in args.sides:
            more = ('' if side == 128 else f'_{side}') + ('' if args.device == 'cpu' else f'_{args.device}')
            found.append((part + more, dict(side=side, device=args.device)))
        return found
    return [(part, {})]


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure; ``argv`` is for tests."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument('--parts', nargs='+', choices=list(PARTS), default=list(PARTS), help='default: all')
    parser.add_argument('--out', type=folder, default=Path('results/speed'), help='folder to write to')
    parser.add_argument('--threads', type=positive, default=1, help="torch's threads (default 1)")
    parser.add_argument('--repeats', type=positive, default=5, help='rounds; the best counts (default 5)')
    parser.add_argument(
        '--sides',
        nargs='+',
        type=int,
        choices=list(step.TRACKS),
        default=[128],
        help='inputs of the parts step and methods: 128 (MobileNetV2, default) and 384 (ResNet-50, where a step '
        'takes about a minute on one core and all of it half an hour; --images 2 half of that)',
    )
    parser.add_argument(
        '--images',
        type=int,
        default=step.IMAGES,
        help=f'labelled images a step, at least 2, and as many unlabelled ones (default {step.IMAGES})',
    )
    parser.add_argument(
        '--device', choices=['cpu', 'cuda'], default='cpu', help='where the part methods runs (default cpu)'
    )
    args = parser.parse_args(argv)
    if args.images < 2:
        parser.error(f'--images {args.images}: batch normalization after global pooling needs at least 2 images')
    torch.set_num_threads(args.threads)
    for part in args.parts:
        print(f'measuring {part} ...', flush=True)
        for name, options in calls(part, args):
            try:
                report = PARTS[part](args.repeats, **options)
            except SkipPart as reason:
                print(f'skipped: {reason}\n')
                continue
            print(write(report, name, args.out), end='\n\n')
    print(f'written to {args.out}')


if __name__ == '__main__':
    main()
