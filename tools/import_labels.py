"""Turn the export of a labelling tool into a labelled folder to train on."""

from __future__ import annotations

import argparse

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.engine import user_errors
from mmseg_acl.labelling.importing import LIST, PROVENANCE, READERS, import_labels


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='example: python tools/import_labels.py cvat_export.zip --images frames/ --proposals proposals --out '
        'labelled. A second export is added to what is there.',
    )
    parser.add_argument(
        'export',
        help='CVAT: the zip of "Segmentation mask 1.1"; COCO: the .json; Label Studio: the .json of the export '
        '"JSON"; or a folder of PNG masks named as the frames are',
    )
    parser.add_argument('--images', required=True, metavar='FOLDER', help='folder of the frames that were labelled')
    parser.add_argument(
        '--out', type=folder, required=True, help=f'labelled folder: images/, masks/, {LIST}, {PROVENANCE}'
    )
    parser.add_argument('--format', choices=list(READERS), help='of the export (default: told by the file)')
    parser.add_argument(
        '--classes',
        nargs='+',
        default=['background', 'polyp'],
        metavar='NAME',
        help='names of the classes, the background first (default: background polyp)',
    )
    parser.add_argument(
        '--proposals',
        metavar='FOLDER',
        help=f'what tools/predict.py wrote, so that {PROVENANCE} says which masks a person has corrected',
    )
    parser.add_argument('--list', metavar='LIST', help='take these frames alone (default: all of the export)')
    parser.add_argument('--overwrite', action='store_true', help='replace masks that are there')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        done = import_labels(
            args.export,
            args.images,
            args.out,
            args.format,
            args.classes,
            args.proposals,
            args.list,
            args.overwrite,
        )
        states = ', '.join(f'{count} {state}' for state, count in done.states.items())
        print(f'imported: {len(done.entries)} frames ({states}) into {args.out}')
        if done.left:
            print(f'left out: {done.left} frames that are not in {args.list}')
        print(
            f'next: train with data_root={str(args.out)!r}, ann_file={str(args.out / LIST)!r}, see docs/labelling.md'
        )


if __name__ == '__main__':
    main()
