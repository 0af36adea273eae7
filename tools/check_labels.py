"""Find masks that are probably wrong, by models that were trained without them."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.datasets.labels import IGNORE
from mmseg_acl.engine import OptionsAction, load_config, user_errors
from mmseg_acl.labelling.checking import (
    PROBABILITIES,
    SHEET,
    check_masks,
    find_masks,
    out_of_sample,
    read_probabilities,
    write_table,
)
from mmseg_acl.labelling.sheets import FRAMES_A_PAGE, draw_sheets


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='example: python tools/check_labels.py configs/supervised_strong/mbv2_kvasir_eighth.py --folds 4 '
        '--iters 600 --out checked. A call that was stopped goes on where it was when it is given again.',
    )
    parser.add_argument(
        'config', help='config whose labelled masks are checked; without unlabelled images it is fast'
    )
    parser.add_argument(
        '--out', type=folder, required=True, help='folder for labels.csv, sheets, probabilities and trainings'
    )
    parser.add_argument(
        '--folds', type=int, default=4, metavar='K', help='trainings, each on all but a Kth (default: 4)'
    )
    parser.add_argument('--iters', type=int, help='length of each training; all phases are scaled with it')
    parser.add_argument('--seed', type=int, default=0, help='of the division into folds (default: 0)')
    parser.add_argument(
        '--probabilities',
        metavar='FOLDER',
        help='train nothing: take these, as tools/predict.py --prob --tta writes them, of a model that has not seen '
        'the masks',
    )
    parser.add_argument(
        '--sheet', type=int, default=FRAMES_A_PAGE, metavar='N', help='draw the worst N (default: 40)'
    )
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='overrides')
    args = parser.parse_args()
    if args.sheet < 1:
        parser.error(f'--sheet {args.sheet}: it must be at least 1')
    return args


def main() -> None:
    args = parse_args()
    with user_errors():
        config = load_config(args.config, options=args.cfg_options, iters=args.iters)
        masks = find_masks(config)
        out = args.out
        if not args.probabilities:
            train = Path(__file__).parent / 'train.py'
            for fold, what in out_of_sample(config, masks, args.folds, args.seed, out, train):
                print(f'fold {fold + 1} of {args.folds}: {what}', flush=True)
        maps = Path(args.probabilities) if args.probabilities else out / PROBABILITIES
        checked = check_masks(masks, maps)
        print(f'written: {write_table(checked, out)}, {len(checked)} masks, the most doubtful first')
        worst = checked[: args.sheet]
        sheets = draw_sheets(
            [found.mask.path for found in worst],
            [f'{rank}. {found.mask.entry}, {found.doubt.total:.2f}' for rank, found in enumerate(worst, 1)],
            out / SHEET,
            found=lambda number: read_probabilities(maps, worst[number].mask.entry).argmax(0) > 0,
            given=lambda number: _foreground(worst[number].mask.read()),
        )
        for sheet in sheets:
            print(f'written: {sheet}')
        print('next: look at the sheets, correct what is wrong, and train again')


def _foreground(labels):
    return (labels > 0) & (labels != IGNORE)


if __name__ == '__main__':
    main()
