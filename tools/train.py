"""Train a model from a config, or from folders of your own data."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmseg_acl.arguments import ToolParser
from mmseg_acl.datasets.own import Request
from mmseg_acl.engine import OptionsAction, build_runner, leave_processes, load_config, train, user_errors
from mmseg_acl.engine.start.own_config import NETWORKS, SIZES, Choices, prepare_own_run
from mmseg_acl.engine.start.tracking import TRACKERS, add_tracker

OWN = ('unlabelled', 'val', 'test', 'split', 'method', 'network', 'size', 'masks', 'classes', 'every')


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='examples: python tools/train.py configs/aclnet/mbv2_kvasir_eighth.py --work-dir work_dirs/first '
        '--iters 600; python tools/train.py --labelled my/labelled --unlabelled my/frames. Data of the shipped '
        'configs are looked for in $MMSEG_ACL_DATA (else data/), '
        'pre-trained weights in $MMSEG_ACL_WEIGHTS (a folder, or "none").',
    )
    parser.add_argument('config', nargs='?', help='config file, e.g. configs/aclnet/r50_kvasir_quarter.py')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/METHOD/CONFIG)')
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument('--resume', action='store_true', help='go on from the last checkpoint in the work dir')
    resume.add_argument(
        '--auto-resume',
        action='store_true',
        help='the same where there is a checkpoint, else start: for jobs that a scheduler may start again',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision: fp16 on a GPU, bfloat16 on a CPU')
    parser.add_argument(
        '--iters',
        type=int,
        help='length of the run; warm-up, ramps, schedules, validation and checkpoints are scaled with it',
    )
    parser.add_argument('--tracker', choices=TRACKERS, help='also write scalars and pictures for this program')
    parser.add_argument('--seed', type=int, help='seed of everything random (default: the one in the config)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='override values of the config, e.g. optim_wrapper.optimizer.lr=0.005 model.warmup_iters=0',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started (default: none, one process)',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    own = parser.add_argument_group('your own data, without a config', 'The config that is used is written, too.')
    folders = dict(nargs='+', type=Path, metavar='FOLDER')
    own.add_argument('--labelled', **folders, help='a folder of images and masks, or one of images and one of masks')
    own.add_argument('--unlabelled', **folders, help='folders of images, with sub-folders, and videos')
    own.add_argument('--val', **folders, help='as --labelled: images to validate on (default: some of the labelled)')
    own.add_argument('--test', **folders, help='as --labelled: images for tools/test.py')
    own.add_argument(
        '--split',
        type=float,
        metavar='SHARE',
        help='of the labelled images to validate on (default: 0.2 of 20 or more)',
    )
    own.add_argument('--method', help='default: aclnet_plus')
    own.add_argument('--network', help=f'{", ".join(NETWORKS)}, or a config with a model (default: mbv2)')
    own.add_argument('--size', type=int, choices=SIZES, help='side of what the network sees (default: 128)')
    own.add_argument('--masks', choices=['binary', 'classes'], help='what the masks hold, where that cannot be told')
    own.add_argument('--classes', nargs='+', metavar='NAME', help='names of the classes, the background first')
    own.add_argument('--every', type=int, metavar='N', help='of videos, take each Nth frame (default: one a second)')
    args = parser.parse_args()
    if bool(args.config) == bool(args.labelled):
        parser.error('give a config, or your own data with --labelled')
    if args.config and (given := [f'--{name}' for name in OWN if getattr(args, name) is not None]):
        parser.error(f'{", ".join(given)} are for --labelled; a config says all of it')
    if args.labelled and args.launcher != 'none':
        parser.error('--launcher takes a config, such as the one that a run with --labelled has written')
    return args


def write_own_config(args: argparse.Namespace) -> str:
    """The config of a run on the data that the command line names; says what was decided."""
    request = Request(
        **{name: tuple(getattr(args, name) or ()) for name in ('labelled', 'unlabelled', 'val', 'test', 'classes')},
        **{name: getattr(args, name) for name in ('split', 'masks', 'every')},
    )
    chosen = {name: getattr(args, name) for name in ('method', 'network', 'size', 'iters')}
    choices = Choices(**{name: value for name, value in chosen.items() if value is not None})
    path, why = prepare_own_run(request, choices, args.work_dir, args.resume or args.auto_resume)
    print('\n'.join(why), flush=True)
    return str(path)


def main() -> None:
    args = parse_args()
    with user_errors():
        config = load_config(
            args.config or write_own_config(args),
            work_dir=args.work_dir,
            options=args.cfg_options,
            seed=args.seed,
            amp=args.amp,
            launcher=args.launcher,
            resume='auto' if args.auto_resume else args.resume,
            iters=args.iters if args.config else None,  # else it stands in the config
        )
        if args.tracker:
            add_tracker(config, args.tracker)
        train(build_runner(config))
        leave_processes()


if __name__ == '__main__':
    main()
