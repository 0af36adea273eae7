"""Show what a config trains on: images, sizes, shares of the classes, and frames with the contours of their masks."""

import argparse
import re
from pathlib import Path

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.commands import as_typed
from mmseg_acl.datasets.survey import format_survey, survey_data
from mmseg_acl.engine import OptionsAction, load_config, user_errors
from mmseg_acl.visualization.label_sheet import draw_label_sheet
from mmseg_acl.visualization.style import save_figure


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='example: python tools/inspect_data.py configs/aclnet/mbv2_kvasir_eighth.py. All masks are read. '
        'A sheet for each labelled source is written as PNG and PDF. Sheets show the frames themselves: '
        'mind the terms of the data sets before you pass them on.',
    )
    parser.add_argument('config', help='config file of a run')
    parser.add_argument('--frames', type=int, default=16, help='frames on a sheet (default: %(default)s)')
    parser.add_argument('--out', type=folder, help='folder of the sheets (default: work_dirs/inspect_data/CONFIG)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='override values of the config, as tools/train.py does',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        out = args.out or Path('work_dirs/inspect_data') / Path(args.config).stem
        surveys = survey_data(load_config(args.config, options=args.cfg_options))
        print(f'\n{format_survey(surveys)}\n')
        for source in surveys:
            if source.shares is not None:
                name = re.sub(r'\W+', '_', source.name)
                print(f'drawn: {save_figure(draw_label_sheet(source, args.frames), out / name)[0]}')
        print(as_typed(f'next: python tools/train.py {args.config}'))


if __name__ == '__main__':
    main()
