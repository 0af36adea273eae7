"""Learn on the images to validate on how far a trained model's masks can be trusted, and store it with the run.

A temperature makes probabilities mean what they say. `tools/predict.py --csv` then has a calibrated confidence, the
Dice that a mask may be expected to have, and which frames to look at: those whose expected Dice is below that of four
fifths of the images to validate on.
"""

from __future__ import annotations

import argparse

from mmseg_acl.arguments import ToolParser
from mmseg_acl.commands import as_typed
from mmseg_acl.engine import OptionsAction, user_errors
from mmseg_acl.inference.calibrating import calibrate


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example: python tools/calibrate.py work_dirs/aclnet/mbv2_kvasir_eighth',
    )
    parser.add_argument(
        'run', nargs='+', help='a work dir (its best checkpoint, else the last), or a config and a checkpoint'
    )
    parser.add_argument('--network', help='such as student or teacher (default: the teacher where there is one)')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU where there is one)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='K=V',
        help='override settings of the config, such as val_dataloader.dataset.ann_file=lists/validation.txt',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        fit = calibrate(args.run, args.network, args.device, args.cfg_options)
        found = fit.calibration
        print(f'temperature {found.temperature:.3f}, from {found.images} images to validate on')
        print('expected calibration error of the foreground: {:.4f} before, {:.4f} after'.format(*fit.error))
        print(
            f'look at frames whose expected Dice is below {found.look_below:.3f}: '
            + ('none' if fit.looked_at is None else f'mean Dice {fit.looked_at:.1f}')
            + f', that of all {fit.dice:.1f}'
        )
        print(f'written: {fit.file}')
        print(as_typed(f'use it: python tools/predict.py {" ".join(args.run)} FRAMES --out predicted --csv'))


if __name__ == '__main__':
    main()
