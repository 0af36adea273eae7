"""Say which frames of a folder to label next."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.commands import as_typed
from mmseg_acl.datasets.audit import THRESHOLD
from mmseg_acl.engine import user_errors
from mmseg_acl.inference import Predictor
from mmseg_acl.inference.sources import read_frame
from mmseg_acl.labelling.pool import SEQUENCES
from mmseg_acl.labelling.rules import RULES
from mmseg_acl.labelling.sheets import draw_sheets
from mmseg_acl.labelling.suggestion import LIST, suggest, write_suggestion


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        usage='%(prog)s RUN|none FOLDER --budget N --out FOLDER [options]',
        epilog='example: python tools/suggest.py work_dirs/own frames/ --budget 20 --labelled labelled.txt --out '
        'round_2. A call that was stopped goes on where it was when it is given again.',
    )
    parser.add_argument(
        'words',
        nargs='+',
        metavar='RUN FOLDER',
        help='RUN: a work dir, a config and a checkpoint, or the word none. FOLDER: the frames, in sub-folders or '
        'not, labelled ones among them',
    )
    parser.add_argument('--budget', type=int, required=True, metavar='N', help='how many frames')
    parser.add_argument('--out', type=folder, required=True, help='folder for suggested.txt and the rest')
    parser.add_argument(
        '--rule',
        choices=RULES,
        default='auto',
        metavar='R',
        help=f'{", ".join(RULES)} (default: auto, which is random-foreground, and random without a run)',
    )
    parser.add_argument('--labelled', nargs='+', default=[], metavar='LIST', help='lists of frames that have masks')
    parser.add_argument(
        '--exclude',
        nargs='+',
        metavar='LIST',
        help='lists of frames that are not chosen, or the word none (default: the test and dev lists of the public '
        'polyp sets, for frames that lie in folders of their names)',
    )
    parser.add_argument(
        '--sequences',
        choices=SEQUENCES,
        default='auto',
        help='frames of a sequence count as one: those of a sub-folder, those whose names differ in the last number, '
        "CVC-ClinicDB's (auto), or none",
    )
    parser.add_argument(
        '--twins',
        default=str(THRESHOLD),
        metavar='BITS',
        help='near-twins count as one: frames whose hashes differ in at most so many of 256 bits, or the word none '
        '(default: %(default)s)',
    )
    parser.add_argument('--seed', type=int, default=0, help='one seed gives one choice (default: 0)')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU where there is one)')
    args = parser.parse_args()
    if len(args.words) not in (2, 3):
        parser.error('give a run (a work dir, or a config and a checkpoint) or the word none, and a folder')
    if args.twins != 'none' and not args.twins.isdecimal():
        parser.error(f'--twins {args.twins}: give a number of bits or the word none')
    return args


def main() -> None:
    args = parse_args()
    with user_errors():
        *run, frames = args.words
        run = [] if run == ['none'] else run
        found = suggest(
            run,
            frames,
            args.budget,
            args.out,
            args.rule,
            args.seed,
            args.labelled,
            [] if args.exclude == ['none'] else args.exclude,
            args.sequences,
            None if args.twins == 'none' else int(args.twins),
            args.device,
        )
        print(', '.join(f'{key} {value}' for key, value in found.counts.items()) + f'; rule {found.rule}')
        chosen = [found.frames[choice.index].path for choice in found.choices]
        masks = None
        if run:
            predictor = Predictor(run, device=args.device)
            masks = lambda number: predictor([read_frame(chosen[number])])[0].labels > 0  # noqa: E731
        for path in write_suggestion(found, args.out, partial(draw_sheets, found=masks)):
            print(f'written: {path}')
        if len(chosen) < args.budget:
            print(f'chosen: {len(chosen)}, as the pool has no more')
        words, names = ' '.join(run) or 'RUN', args.out / LIST
        print(
            as_typed(f'next: python tools/predict.py {words} {frames} --list {names} --out proposals --format cvat')
        )
        for fault in found.faults:
            print(f'skipped: {fault}', file=sys.stderr)
        if found.faults:
            sys.exit(f'{len(found.faults)} frame(s) could not be read')


if __name__ == '__main__':
    main()
