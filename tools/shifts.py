"""Score a checkpoint on labelled images made unlike its training images: smaller, redder, grey, blurred."""

import argparse
from pathlib import Path

from mmseg_acl.arguments import ToolParser
from mmseg_acl.engine import load_config, user_errors
from mmseg_acl.evaluation.labelled_images import add_arguments
from mmseg_acl.evaluation.shifts import measure_shifts


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='example: python tools/shifts.py configs/aclnet/mbv2_kvasir_eighth.py '
        'work_dirs/aclnet/mbv2_kvasir_eighth/iter_1200.pth',
    )
    add_arguments(parser, config='any segmentor with two classes', results='shifts.json')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        out = args.out or Path(args.checkpoint).parent
        measure_shifts(load_config(args.config), args.checkpoint, args.list, str(out))


if __name__ == '__main__':
    main()
