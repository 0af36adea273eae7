"""Measure what each term of Eq. 11 makes of an ACL-Net checkpoint's pseudo-labels."""

import argparse
from pathlib import Path

from mmseg_acl.arguments import ToolParser
from mmseg_acl.engine import load_config, user_errors
from mmseg_acl.evaluation.label_quality import measure_label_quality
from mmseg_acl.evaluation.labelled_images import add_arguments


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='example: python tools/label_quality.py configs/aclnet/mbv2_kvasir_eighth.py '
        'work_dirs/aclnet/mbv2_kvasir_eighth/iter_300.pth',
    )
    add_arguments(parser, config='an ACLNet', results='label_quality.json')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        out = args.out or Path(args.checkpoint).parent
        measure_label_quality(load_config(args.config), args.checkpoint, args.list, str(out))


if __name__ == '__main__':
    main()
