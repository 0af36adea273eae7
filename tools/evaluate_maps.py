"""Score a folder of probability or binary maps, of this or any other project, against a folder of masks."""

import argparse
from pathlib import Path

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.engine import user_errors
from mmseg_acl.evaluation.maps import evaluate_maps
from mmseg_acl.evaluation.polyp_metric import PROTOCOLS


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='example: python tools/evaluate_maps.py maps/Kvasir data/Kvasir-SEG/masks --list kvasir/test '
        '--protocol image pranet. Maps and masks are paired by file name without suffix; scores are in percent.',
    )
    parser.add_argument('maps', help='folder of grey maps, 8 or 16 bit, probabilities or binary, of any size')
    parser.add_argument('masks', help='folder of masks')
    parser.add_argument(
        '--list', help='images to score: a shipped list, such as kvasir/test, or a text file (default: all masks)'
    )
    parser.add_argument(
        '--protocol',
        nargs='+',
        choices=PROTOCOLS,
        default=['image'],
        metavar='P',
        help='how to score: image (Dice and IoU per image at the threshold, mean over images; the default), '
        'pranet (256 thresholds, S-, F- and E-measure, MAE), dataset (areas summed)',
    )
    parser.add_argument(
        '--threshold',
        type=float,
        default=0.5,
        metavar='T',
        help='the foreground is where a map is greater; for image and dataset (default: 0.5)',
    )
    parser.add_argument(
        '--out',
        type=folder,
        metavar='D',
        help='folder for results.json and per_image.csv (default: MAPS_scores beside the maps)',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        maps = Path(args.maps).resolve()
        out = args.out or maps.with_name(f'{maps.name}_scores')
        evaluate_maps(args.maps, args.masks, out, args.protocol, args.threshold, args.list)


if __name__ == '__main__':
    main()
