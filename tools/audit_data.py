"""Look for near-duplicate images within and across splits, and for ClinicDB's sequences in two splits."""

import argparse
from pathlib import Path

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.datasets.audit import THRESHOLD, audit_data, format_audit, write_audit
from mmseg_acl.engine import user_errors
from mmseg_acl.visualization.style import save_figure
from mmseg_acl.visualization.twins import draw_twins


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='Data sets are looked for in the folder that MMSEG_ACL_DATA names, else in data/. Written are '
        'audit.md, pairs.csv and, where there are near-duplicates, twins.png and twins.pdf. These pictures '
        'show real frames: mind the terms of the data sets before you pass them on.',
    )
    parser.add_argument(
        '--splits',
        nargs='+',
        metavar='S',
        help='shipped lists such as kvasir/train or clinicdb_seq/test, or FOLDER:LIST for your own (default: '
        'training and test lists of all sets that are present)',
    )
    parser.add_argument(
        '--threshold',
        type=int,
        default=THRESHOLD,
        help='the most bits, of 256, in which near-duplicates differ (default: %(default)s)',
    )
    parser.add_argument('--pictures', type=int, default=12, help='pairs to draw (default: %(default)s)')
    parser.add_argument('--out', type=folder, default=Path('work_dirs/audit'), help='folder (default: %(default)s)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        audit = audit_data(args.splits, threshold=args.threshold)
        write_audit(audit, args.out)
        print(format_audit(audit))
        if figure := draw_twins(audit, args.pictures):
            save_figure(figure, args.out / 'twins')
        print(f'written to {args.out}')


if __name__ == '__main__':
    main()
