"""Score a checkpoint on one or several test sets, the known ones of polyps or your own."""

import argparse
from pathlib import Path

from mmseg_acl.engine import OptionsAction, load_config, user_errors
from mmseg_acl.evaluation.cross_dataset import OWN, TEST_SETS, evaluate_checkpoint
from mmseg_acl.evaluation.polyp_metric import PROTOCOLS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Data sets are looked for in the folder that MMSEG_ACL_DATA names, else in data/. '
        'Scores are in percent.',
    )
    parser.add_argument('config', help='config file the checkpoint was trained with')
    parser.add_argument('checkpoint', help='checkpoint file (.pth)')
    parser.add_argument(
        '--datasets',
        nargs='+',
        choices=[*TEST_SETS, OWN],
        metavar='SET',
        help=f'test sets: {", ".join(TEST_SETS)}, or {OWN} for the one in the config, which is scored by its own '
        f'test_evaluator (default: {OWN} where the config has one of its own, else all that are present)',
    )
    parser.add_argument(
        '--protocol',
        nargs='+',
        choices=PROTOCOLS,
        default=['image'],
        metavar='P',
        help='how to score: image (Dice and IoU per image at probability 0.5, mean over images; '
        'the default), pranet (256 thresholds, S-, F- and E-measure, MAE), dataset (areas summed)',
    )
    parser.add_argument(
        '--network',
        nargs='+',
        metavar='N',
        help='networks to score, such as student and teacher (default: all that the model has)',
    )
    parser.add_argument(
        '--out',
        metavar='D',
        help='folder for results.json and per_image.csv (default: test/ beside the checkpoint)',
    )
    parser.add_argument(
        '--save-maps',
        action='store_true',
        help="also write the foreground's probability as 8-bit png to D/maps/SET/NETWORK/ "
        '(tools/evaluate_maps.py scores such folders)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='K=V',
        help='override settings of the config, such as test_dataloader.num_workers=4',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        evaluate_checkpoint(
            load_config(args.config, options=args.cfg_options),
            args.checkpoint,
            out_dir=args.out or str(Path(args.checkpoint).parent / 'test'),
            datasets=args.datasets,
            protocols=args.protocol,
            networks=args.network,
            save_maps=args.save_maps,
        )


if __name__ == '__main__':
    main()
