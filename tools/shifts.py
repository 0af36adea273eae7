"""Score a checkpoint on labelled images made unlike its training images: smaller, redder, grey, blurred."""

import argparse
from pathlib import Path

from mmseg_acl.engine import load_config, user_errors
from mmseg_acl.evaluation.shifts import measure_shifts


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='example: python tools/shifts.py configs/aclnet/mbv2_kvasir_eighth.py '
        'work_dirs/aclnet/mbv2_kvasir_eighth/iter_1200.pth',
    )
    parser.add_argument('config', help='config of any segmentor with two classes')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument(
        '--list',
        default='kvasir/dev',
        help='labelled images to score on, a shipped list or a file (default: kvasir/dev, 100 training images '
        'outside every labelled partition)',
    )
    parser.add_argument('--out', help='folder for shifts.json (default: beside the checkpoint)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        out = args.out or Path(args.checkpoint).parent
        measure_shifts(load_config(args.config), args.checkpoint, args.list, str(out))


if __name__ == '__main__':
    main()
