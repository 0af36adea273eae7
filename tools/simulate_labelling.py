"""Compare the rules of tools/suggest.py on frames whose masks are known: label some, train, choose, label, train."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.datasets.audit import THRESHOLD
from mmseg_acl.datasets.polyp import default_data_root
from mmseg_acl.engine import user_errors
from mmseg_acl.labelling.pool import SEQUENCES
from mmseg_acl.labelling.simulation import REAL_RULES, Plan, simulate, write_points

EXAMPLES = """examples, which take hours and go on where they were when they are given again:
  python tools/simulate_labelling.py --work-dir work_dirs/labelling --out results/labelling
  python tools/simulate_labelling.py --config configs/aclnet_plus/mbv2_kvasir_quarter.py --rules typical \\
      random-foreground --seeds 0 --work-dir work_dirs/labelling_aclnet_plus --out results/labelling/aclnet_plus
  python tools/simulate_labelling.py --folder CVC-ClinicDB --list clinicdb/train --exclude clinicdb/dev \\
      --datasets clinicdb --no-crops --rules typical --twins none --sequences none \\
      --work-dir work_dirs/labelling_clinicdb_alone --out results/labelling/clinicdb_alone"""


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--config', default='configs/supervised_strong/mbv2_kvasir_quarter.py', help='what is trained'
    )
    parser.add_argument(
        '--folder', default='Kvasir-SEG', help='labelled folder below the data root (default: %(default)s)'
    )
    parser.add_argument('--list', default='kvasir/train', help='frames of the pool (default: %(default)s)')
    parser.add_argument('--exclude', nargs='*', default=['kvasir/dev'], metavar='LIST', help='left out of it')
    parser.add_argument('--no-crops', action='store_true', help='no polyp-free crops of these frames in the pool')
    parser.add_argument('--rules', nargs='+', choices=REAL_RULES, default=list(REAL_RULES), metavar='R')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='S')
    parser.add_argument('--start', type=int, default=28, help='first labels, drawn at random (default: 28)')
    parser.add_argument('--rounds', type=int, default=2, help='how often they are doubled (default: 2)')
    parser.add_argument('--iters', type=int, default=600, help='length of each training (default: 600)')
    parser.add_argument(
        '--datasets', nargs='+', default=['kvasir'], metavar='SET', help='test sets (default: kvasir)'
    )
    parser.add_argument('--twins', default=str(THRESHOLD), metavar='BITS', help='as of tools/suggest.py')
    parser.add_argument('--sequences', choices=SEQUENCES, default='auto', help='as of tools/suggest.py')
    parser.add_argument('--work-dir', type=folder, required=True, help='folder for the pool and the trainings')
    parser.add_argument('--out', type=folder, required=True, help='folder for points.csv and README.md')
    args = parser.parse_args()
    if args.twins != 'none' and not args.twins.isdecimal():
        parser.error(f'--twins {args.twins}: give a number of bits or the word none')
    return args


def main() -> None:
    args = parse_args()
    with user_errors():
        plan = Plan(
            config=args.config,
            folder=default_data_root() / args.folder,
            names=args.list,
            exclude=tuple(args.exclude),
            rules=tuple(args.rules),
            seeds=tuple(args.seeds),
            start=args.start,
            rounds=args.rounds,
            iters=args.iters,
            datasets=tuple(args.datasets),
            crops=not args.no_crops,
            twins=None if args.twins == 'none' else int(args.twins),
            sequences=args.sequences,
        )
        points = []
        for point in simulate(plan, args.work_dir, Path(__file__).parent):
            points.append(point)
            mean = sum(point.dice.values()) / len(point.dice)
            print(f'{point.rule}, seed {point.seed}, {point.labels} labels: Dice {mean:.1f}', flush=True)
            written = write_points(points, args.out)
        for path in written:
            print(f'written: {path}')


if __name__ == '__main__':
    main()
