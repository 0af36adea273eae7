"""Copy labelled frames with some masks spoilt on purpose, to try tools/check_labels.py on."""

from __future__ import annotations

import argparse

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.engine import user_errors
from mmseg_acl.labelling.spoiling import TABLE, WAYS, spoil_labels


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog="Masks are shifted by a quarter of the polyps' width, shrunk to 60 % of their area, swapped with each "
        'other, and emptied. Example: python tools/spoil_labels.py data/Kvasir-SEG --list 200.txt --out spoilt',
    )
    parser.add_argument('folder', help='labelled folder, with images/ and masks/')
    parser.add_argument('--out', type=folder, required=True, help=f'new folder: images/, masks/ and {TABLE}')
    parser.add_argument('--list', default='', metavar='LIST', help='frames to copy (default: all of the folder)')
    parser.add_argument('--first', type=int, metavar='N', help='of these only the first N')
    parser.add_argument('--count', type=int, default=5, metavar='N', help='spoilt masks of each kind (default: 5)')
    parser.add_argument('--seed', type=int, default=0, help='which frames and which way (default: 0)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        chosen = spoil_labels(args.folder, args.out, args.list, args.count, args.seed, args.first)
        counts = ', '.join(f'{list(chosen.values()).count(way)} {way}' for way in WAYS)
        print(f'written: {args.out}, with {counts} masks, named in {args.out / TABLE}')


if __name__ == '__main__':
    main()
