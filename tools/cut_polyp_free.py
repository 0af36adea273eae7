"""Cut polyp-free crops out of test frames, to count false alarms on."""

import argparse
from pathlib import Path

from rich.progress import track

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.commands import as_typed
from mmseg_acl.datasets.catalogue import POLYP_SETS
from mmseg_acl.datasets.partitions import read_list
from mmseg_acl.datasets.polyp import default_data_root
from mmseg_acl.datasets.polyp_free import CROPS, CROPS_FOLDER, MARGIN, MIN_SIDE, cut_crops
from mmseg_acl.engine import user_errors


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='The largest square of a frame is cut that keeps a margin to every polyp and is hardly black. They '
        'are crops: other frames of the same patients, without a polyp, may look different. Example: python '
        'tools/cut_polyp_free.py kvasir clinicdb cvc300',
    )
    parser.add_argument('sets', nargs='+', choices=list(POLYP_SETS), metavar='SET', help=', '.join(POLYP_SETS))
    parser.add_argument(
        '--margin',
        type=float,
        default=MARGIN,
        help="least distance to a polyp, as a share of the frame's shorter side (default: %(default)s)",
    )
    parser.add_argument(
        '--min-side',
        type=float,
        default=MIN_SIDE,
        help="least side of a crop, as a share of the frame's shorter side (default: %(default)s)",
    )
    parser.add_argument(
        '--out', type=folder, help=f'folder with a folder for each set (default: {CROPS_FOLDER} below the data root)'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        root = Path(default_data_root())
        for name in args.sets:
            folder, names = POLYP_SETS[name].folder, read_list(f'{name}/test')
            out = (args.out or root / CROPS_FOLDER) / folder
            crops = cut_crops(
                root / folder / 'images', root / folder / 'masks', names, out, args.margin, args.min_side
            )
            found = [crop for crop in track(crops, total=len(names), description=name) if crop]
            print(f'{out}: {len(found)} crops of {len(names)} frames, where they lie: {CROPS}')
        tests = ' '.join(f'{name}_crops' for name in args.sets)
        print(as_typed(f'next: python tools/test.py CONFIG CHECKPOINT --datasets {tests}'))


if __name__ == '__main__':
    main()
