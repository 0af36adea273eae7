"""Show the whole way on synthetic frames: make them, train SupOnly and ACL-Net, test, report.

Needs no data set, no pre-trained weights and no GPU; takes some minutes on two CPU cores.
"""

import argparse
from pathlib import Path

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.demo import run_demo
from mmseg_acl.shipped import ROOT


def main() -> None:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--out',
        type=folder,
        default=Path('work_dirs/demo'),
        help='folder for frames, runs and report.html (default: %(default)s)',
    )
    run_demo(ROOT, parser.parse_args().out)


if __name__ == '__main__':
    main()
