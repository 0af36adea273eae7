"""Masks of a trained model for an image, a folder, a list, a video or a camera."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.engine import user_errors
from mmseg_acl.inference import Predictor, find_frames, predict_into
from mmseg_acl.inference.writing import FOLDERS, MASKS, Outputs
from mmseg_acl.labelling.formats.labelstudio import LOCAL_FILES
from mmseg_acl.labelling.proposals import FORMATS, write_proposals


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        usage='%(prog)s RUN SOURCE --out FOLDER [options]',
        epilog='example: python tools/predict.py work_dirs/aclnet/mbv2_kvasir_eighth frames/ --out predicted '
        '--overlay. A call that was stopped goes on where it was when it is given again.',
    )
    parser.add_argument(
        'words',
        nargs='+',
        metavar='RUN SOURCE',
        help='RUN: a work dir (its best checkpoint, else the last), a config and a checkpoint, or an exported model '
        '(.onnx, .torchscript). SOURCE: an image, a folder with sub-folders, a glob in quotes, a text file with one '
        'path a line, a video, or the number of a camera',
    )
    parser.add_argument('--out', type=folder, required=True, help='folder for masks/ and what else is asked for')
    parser.add_argument('--network', help='such as student or teacher (default: the teacher where there is one)')
    parser.add_argument('--overlay', action='store_true', help='also write the frames with the mask drawn over them')
    parser.add_argument('--prob', action='store_true', help='also write probabilities as 16-bit PNG (65535 is 1)')
    parser.add_argument(
        '--csv',
        action='store_true',
        help='also write predictions.csv: share, regions, boxes, confidence of each frame; after tools/calibrate.py '
        'also which to look at',
    )
    parser.add_argument(
        '--format',
        nargs='+',
        choices=FORMATS,
        default=['png'],
        metavar='F',
        help='also write the masks for labelling tools, of png (always written), coco, cvat, labelstudio',
    )
    parser.add_argument(
        '--image-root',
        default=LOCAL_FILES,
        metavar='TEXT',
        help="for Label Studio: what stands before a frame's path to make its address (default: %(default)s)",
    )
    parser.add_argument('--list', metavar='LIST', help='of a folder: only the frames of this list')
    parser.add_argument(
        '--smooth',
        type=float,
        default=0.0,
        metavar='W',
        help='of a video: the weight of the past in each frame, within [0, 1), such as 0.6 (default: 0)',
    )
    parser.add_argument('--video', action='store_true', help='of a video: also write overlay.mp4')
    parser.add_argument(
        '--threshold',
        type=float,
        help='foreground is what is more probable than this (default: 0.5, or what an exported model says)',
    )
    parser.add_argument('--tta', action='store_true', help='average over the frame and its mirror images')
    parser.add_argument(
        '--batch', type=int, default=8, help='frames that go through the network together (default: 8)'
    )
    parser.add_argument('--frames', type=int, metavar='N', help='at most N frames; a camera needs it')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU where there is one)')
    parser.add_argument('--overwrite', action='store_true', help='write anew what is there')
    args = parser.parse_args()
    if len(args.words) not in (2, 3):
        parser.error('give a run (a work dir, a config and a checkpoint, or an exported model) and a source')
    return args


def main() -> None:
    args = parse_args()
    with user_errors():
        *run, source = args.words
        outcome = [args.out / folder for folder in FOLDERS]  # of a former call, which may lie in the source
        frames = find_frames(source, args.frames, args.list, outcome)  # first: the model takes longer to load
        if set(args.format) != {'png'} and frames.rate is not None:
            raise ValueError('labelling tools take images: write the frames of the video to a folder, and give that')
        if args.smooth and frames.rate is None:
            raise ValueError('--smooth is for a video, whose frames follow one another')
        predictor = Predictor(run, args.network, args.device, args.threshold, args.tta, args.smooth)
        print(f'{predictor.run.checkpoint}, network {predictor.network}, classes {", ".join(predictor.classes)}')
        outputs = Outputs(args.overlay, args.prob, args.csv, '.mp4' if args.video else None)
        done = predict_into(predictor, frames, args.out, outputs, args.batch, args.overwrite)
        again = f', {done.there} were there already' if done.there else ''
        if done.flicker is not None:
            print(f'flicker: {100 * done.flicker:.3f} % of the pixels change from a frame to the next')
        if args.csv and predictor.calibration is None:
            print('the confidence is not calibrated; tools/calibrate.py does that')
        print(f'written: {done.written} masks to {args.out}/{MASKS}{again}')
        for path in write_proposals(
            Path(args.out),
            frames.frames,
            predictor.classes,
            args.format,
            f'{predictor.run.checkpoint.stem} {predictor.network}',
            args.image_root,
        ):
            print(f'written: {path}')
        for fault in done.unreadable:
            print(f'skipped: {fault}', file=sys.stderr)
        if done.unreadable:
            sys.exit(f'{len(done.unreadable)} frame(s) could not be read and have no mask')


if __name__ == '__main__':
    main()
