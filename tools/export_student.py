"""The former name of `tools/export.py --format mmseg`, which also goes for the teacher if nobody says otherwise.

Writes one network of a checkpoint as a plain mmseg model: a config and weights that need no mmseg_acl.
"""

import argparse
import sys
from pathlib import Path

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.engine import OptionsAction, load_config, user_errors
from mmseg_acl.engine.export import export_student


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='example: python tools/export_student.py configs/aclnet/mbv2_kvasir_eighth.py '
        'work_dirs/aclnet/mbv2_kvasir_eighth/iter_1200.pth --network teacher',
    )
    parser.add_argument('config', help='config file the checkpoint was trained with')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument(
        '--network', default='student', help='which network, such as student (the default) or teacher'
    )
    parser.add_argument(
        '--out', type=folder, help='folder for NETWORK.py and NETWORK.pth (default: export/ beside the checkpoint)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='K=V',
        help='override settings of the config, such as model.segmentor.test_cfg.mode=whole',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    print(
        'tools/export_student.py will go with the next release: use tools/export.py --format mmseg', file=sys.stderr
    )
    with user_errors():
        out = args.out or Path(args.checkpoint).parent / 'export'
        config = load_config(args.config, options=args.cfg_options)
        for path in export_student(config, args.checkpoint, out, args.network):
            print(f'written: {path}')


if __name__ == '__main__':
    main()
