"""Draw which training images are labelled, and write it as lists: of your own images, or anew by another seed."""

import argparse

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.datasets.partitions import (
    FRACTIONS,
    PARTITION_SEED,
    REDRAW_SEEDS,
    draw_partitions,
    read_list,
    redraw_partition,
    write_lists,
)
from mmseg_acl.datasets.sequences import PRANET_TEST_FRAMES, draw_sequence_split
from mmseg_acl.engine import user_errors

LIST = 'a text file with one image name a line, or a list of this package such as kvasir/train'


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog='The lists of this package were drawn so, with the default seed. Example: python tools/draw_lists.py '
        'partitions data/mine/train.txt --out data/mine/lists',
    )
    commands = parser.add_subparsers(dest='command', required=True)

    nested = commands.add_parser(
        'partitions', help=f'{", ".join(FRACTIONS)} of a training list, one within the other'
    )
    nested.add_argument('names', metavar='LIST', help=LIST)
    nested.add_argument(
        '--dev',
        type=int,
        default=0,
        metavar='N',
        help='also draw dev: N images outside the half, to choose settings on',
    )
    _add_seed(nested)
    nested.set_defaults(
        draw=lambda args: draw_partitions(read_list(args.names), args.seed, args.dev),
    )

    again = commands.add_parser('again', help='one partition independently of the others')
    again.add_argument('names', metavar='LIST', help=LIST)
    again.add_argument('part', choices=list(FRACTIONS))
    again.add_argument('draw_name', metavar='draw', choices=list(REDRAW_SEEDS), help='%(choices)s')
    again.add_argument('--exclude', metavar='LIST', help='images that are not drawn, such as kvasir/dev')
    again.set_defaults(draw=_again)

    sequences = commands.add_parser('sequences', help='CVC-ClinicDB: train, test and partitions by whole sequences')
    sequences.add_argument(
        '--num-test',
        type=int,
        default=PRANET_TEST_FRAMES,
        metavar='N',
        help='at most N frames to test on (%(default)s)',
    )
    _add_seed(sequences)
    sequences.set_defaults(draw=lambda args: draw_sequence_split(args.num_test, args.seed))

    for command in (nested, again, sequences):
        command.add_argument('--out', type=folder, required=True, help='folder that the lists are written to')
    return parser.parse_args()


def _add_seed(command: argparse.ArgumentParser) -> None:
    command.add_argument('--seed', type=int, default=PARTITION_SEED, help='of the draw (default: %(default)s)')


def _again(args: argparse.Namespace) -> dict[str, list[str]]:
    excluded = read_list(args.exclude) if args.exclude else []
    names = redraw_partition(read_list(args.names), args.part, args.draw_name, excluded)
    return {f'{args.part}_{args.draw_name}': names}


def main() -> None:
    args = parse_args()
    with user_errors():
        for path, size in write_lists(args.draw(args), args.out).items():
            print(f'{path}: {size} images')


if __name__ == '__main__':
    main()
