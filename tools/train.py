"""Train a model from a config."""

from __future__ import annotations

import argparse

from mmseg_acl.engine import OptionsAction, build_runner, leave_processes, load_config, train, user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='example: python tools/train.py configs/aclnet/mbv2_kvasir_eighth.py --work-dir work_dirs/first '
        '--iters 600. Data are looked for in $MMSEG_ACL_DATA (else data/), '
        'pre-trained weights in $MMSEG_ACL_WEIGHTS (a folder, or "none").',
    )
    parser.add_argument('config', help='config file, e.g. configs/aclnet/r50_kvasir_quarter.py')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/METHOD/CONFIG)')
    parser.add_argument('--resume', action='store_true', help='go on from the last checkpoint in the work dir')
    parser.add_argument('--amp', action='store_true', help='mixed precision: fp16 on a GPU, bfloat16 on a CPU')
    parser.add_argument(
        '--iters',
        type=int,
        help='length of the run; warm-up, ramps, schedules, validation and checkpoints are scaled with it',
    )
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
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        config = load_config(
            args.config,
            work_dir=args.work_dir,
            options=args.cfg_options,
            seed=args.seed,
            amp=args.amp,
            launcher=args.launcher,
            resume=args.resume,
            iters=args.iters,
        )
        train(build_runner(config))
        leave_processes()


if __name__ == '__main__':
    main()
