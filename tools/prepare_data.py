"""Lay out downloads of the polyp data sets under the data root, every file checked."""

import argparse

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.datasets.catalogue import POLYP_SETS
from mmseg_acl.datasets.polyp import default_data_root
from mmseg_acl.datasets.prepare import format_reports, prepare
from mmseg_acl.engine import user_errors


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='example: python tools/prepare_data.py Kvasir-SEG.zip TestDataset.zip. Recognised are downloads '
        'of Kvasir-SEG, CVC-ClinicDB, CVC-ColonDB, ETIS-LaribPolypDB, EndoScene (its CVC-300 and CVC-612), and '
        "PraNet's TrainDataset and TestDataset. Sources are only read; a second call adds what is new.",
    )
    parser.add_argument('sources', nargs='+', help='zip files, or folders they were unpacked to')
    parser.add_argument('--out', type=folder, help='the data root (default: MMSEG_ACL_DATA, else data/)')
    parser.add_argument(
        '--dataset', choices=list(POLYP_SETS), help='the set all sources are of, where their folders do not say so'
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace files that are there but show something else'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        reports = prepare(args.sources, args.out or default_data_root(), args.dataset, args.overwrite)
        print(format_reports(reports))


if __name__ == '__main__':
    main()
