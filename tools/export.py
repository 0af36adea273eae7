"""Write a trained model for use elsewhere: as ONNX, TorchScript, safetensors or a plain mmseg model."""

from __future__ import annotations

import argparse

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.commands import as_typed
from mmseg_acl.engine import OptionsAction, user_errors
from mmseg_acl.inference import find_frames
from mmseg_acl.inference.exporting import FORMATS, export

COMPARED = 5


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='example: python tools/export.py work_dirs/aclnet/mbv2_kvasir_eighth --format onnx mmseg',
    )
    parser.add_argument(
        'run', nargs='+', help='a work dir (its best checkpoint, else the last), or a config and a checkpoint'
    )
    parser.add_argument('--format', nargs='+', choices=FORMATS, default=['onnx'], help='default: onnx')
    parser.add_argument('--out', type=folder, help='folder to write to (default: export/ beside the checkpoint)')
    parser.add_argument('--network', help='such as student or teacher (default: the teacher where there is one)')
    parser.add_argument('--threshold', type=float, help='that the files tell their users (default: 0.5)')
    parser.add_argument(
        '--frames',
        metavar='SOURCE',
        help=f'compare with torch on the first {COMPARED} of these, named as for predict.py (default: random ones)',
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
    with user_errors():
        frames = [frame.read() for frame in find_frames(args.frames, COMPARED).frames] if args.frames else ()
        options = args.cfg_options
        written = export(args.run, args.format, args.out, args.network, args.threshold, frames, options)
        for path in written:
            print(f'written: {path}')
        usable = [path for path in written if path.suffix in ('.onnx', '.torchscript')]
        if usable:
            print(as_typed(f'try it: python tools/predict.py {usable[0]} FRAMES --out predicted --overlay'))


if __name__ == '__main__':
    main()
