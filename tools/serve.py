"""A local page for a trained model: drop a frame or a video, see its mask, move the threshold, download."""

from __future__ import annotations

import argparse
import sys

from mmseg_acl.arguments import ToolParser
from mmseg_acl.engine import user_errors
from mmseg_acl.web.page import HOST, NOTE, Page, check_options


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=f'{__doc__} {NOTE}',
        epilog='example: python tools/serve.py work_dirs/aclnet/mbv2_kvasir_eighth',
    )
    parser.add_argument(
        'run',
        nargs='+',
        help='a work dir (its best checkpoint, else the last), a config and a checkpoint, or an exported model',
    )
    parser.add_argument(
        '--exported', nargs='+', default=[], metavar='FILE', help='exported models of the run, to choose from as well'
    )
    parser.add_argument('--threshold', type=float, help='where the slider begins (default: 0.5)')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU where there is one)')
    parser.add_argument('--port', type=int, help='default: the first free one from 7860')
    parser.add_argument(
        '--host', default=HOST, help='address to listen at (default: 127.0.0.1, which no other machine can reach)'
    )
    parser.add_argument('--max-mb', type=int, default=500, help='largest upload, MiB (default: 500)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        check_options(args.threshold, args.port, args.max_mb)
        page = Page(args.run, args.device, args.threshold, args.exported)
        if args.host != HOST:
            print(
                f'{args.host}: whoever reaches this machine can use the page; it asks for no password',
                file=sys.stderr,
            )
        try:
            page.launch(args.host, args.port, args.max_mb)
        finally:
            page.close()


if __name__ == '__main__':
    main()
