"""Copy labelled frames of polyps with drawn instruments as a third class, to try several classes on."""

from __future__ import annotations

import argparse

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.engine import user_errors
from mmseg_acl.labelling.instruments import CLASSES, SHARE, draw_instruments


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='Masks have the numbers 0 background, 1 polyp and 2 instrument. Example: python '
        'tools/draw_instruments.py data/Kvasir-SEG --list mmseg_acl/datasets/lists/kvasir/eighth.txt --out three',
    )
    parser.add_argument('folder', help='labelled folder, with images/ and masks/')
    parser.add_argument('--out', type=folder, required=True, help='new folder: images/ and masks/')
    parser.add_argument('--list', default='', metavar='LIST', help='frames to copy (default: all of the folder)')
    parser.add_argument('--first', type=int, metavar='N', help='of these only the first N')
    parser.add_argument(
        '--share', type=float, default=SHARE, help=f'of the frames with an instrument (default: {SHARE})'
    )
    parser.add_argument('--seed', type=int, default=0, help='of what is random (default: 0)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        drawn = draw_instruments(args.folder, args.out, args.list, args.share, args.seed, args.first)
        print(
            f'written: {args.out}, with an instrument in {len(drawn)} frames; to train on it: python tools/train.py '
            f'--labelled {args.out} --unlabelled FOLDER --classes {" ".join(CLASSES)}'
        )


if __name__ == '__main__':
    main()
