"""Score a checkpoint on one or several test sets, the known ones of polyps or your own."""

import argparse

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.engine import OptionsAction, load_config, user_errors
from mmseg_acl.evaluation.cross_dataset import OWN, TEST_SETS, evaluate_checkpoint
from mmseg_acl.evaluation.polyp_metric import PROTOCOLS
from mmseg_acl.inference.runs import find_run


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        usage='%(prog)s RUN [options]',
        epilog='Data sets are looked for in the folder that MMSEG_ACL_DATA names, else in data/. '
        'Scores are in percent. The best checkpoint is the best one on the images to validate on. To score the last '
        'one, give config and checkpoint.',
    )
    parser.add_argument(
        'run',
        nargs='+',
        help='a work dir (its best checkpoint, else the last), or a config and a checkpoint file (.pth)',
    )
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
        type=folder,
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
        config, checkpoint = find_run(args.run)
        if config is None:
            raise ValueError(f'{checkpoint} is an exported model: give a work dir, or a config and a checkpoint')
        print(f'checkpoint: {checkpoint}')
        evaluate_checkpoint(
            load_config(str(config), options=args.cfg_options),
            str(checkpoint),
            out_dir=args.out or str(checkpoint.parent / 'test'),
            datasets=args.datasets,
            protocols=args.protocol,
            networks=args.network,
            save_maps=args.save_maps,
        )


if __name__ == '__main__':
    main()
