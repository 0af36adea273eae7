"""Figures for a paper, each as PNG and PDF: what networks predict, what they see, how they learn and score."""

import argparse
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from mmseg_acl.arguments import ToolParser
from mmseg_acl.engine import user_errors
from mmseg_acl.evaluation.cross_dataset import OWN, TEST_SETS
from mmseg_acl.experiments.documents import figure_points
from mmseg_acl.visualization.affinity import draw_affinities
from mmseg_acl.visualization.overlay import draw_failures, draw_overlays
from mmseg_acl.visualization.predictions import RUN_FORM, TrainedRun, parse_run
from mmseg_acl.visualization.scores import (
    Point,
    draw_against,
    draw_curves,
    draw_distribution,
    parse_named,
    parse_point,
)
from mmseg_acl.visualization.style import save_figure
from mmseg_acl.visualization.tsne import draw_tsne


def _runs(args: argparse.Namespace) -> list[TrainedRun]:
    return [parse_run(run) for run in args.runs]


def _against(args: argparse.Namespace) -> Figure:
    if args.described:
        given = [name for name in ('runs', 'label', 'datasets') if getattr(args, name)]
        if given:
            raise ValueError(f'the file of --described says {", ".join(given)}, too: give one or the other')
        file, name = args.described
        found = figure_points(Path(file), name)
        return draw_against([Point(*point) for point in found.points], found.label, found.tests, args.network)
    if not args.runs:
        raise ValueError('no run is given: give NAME@NUMBER=PATH, or --described FILE NAME')
    label = args.label or 'labelled images'
    return draw_against([parse_point(run) for run in args.runs], label, args.datasets, args.network)


def add_command(
    commands: argparse._SubParsersAction, name: str, help_text: str, draw: Callable[[argparse.Namespace], Figure]
) -> argparse.ArgumentParser:
    """A sub-command that writes the figure of ``draw(args)``."""
    parser = commands.add_parser(name, help=help_text, description=help_text)
    parser.add_argument(
        '--out', default=f'work_dirs/figures/{name}', help='file without suffix (default: %(default)s)'
    )
    parser.set_defaults(draw=draw)
    return parser


def add_images(parser: argparse.ArgumentParser, first: int) -> None:
    """Arguments that choose images."""
    add_datasets(parser)
    parser.add_argument('--images', nargs='+', metavar='IMAGE', help='names without suffix, or SET/NAME')
    parser.add_argument(
        '--first', type=int, default=first, help='without --images: the first N of each set (default: %(default)s)'
    )


def add_datasets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--datasets',
        nargs='+',
        choices=[*TEST_SETS, OWN],
        metavar='SET',
        help=f"test sets: {', '.join(TEST_SETS)}, or {OWN}, the config's (the default)",
    )


def add_scores(parser: argparse.ArgumentParser) -> None:
    """Arguments that choose among the scores of tested runs."""
    parser.add_argument('--datasets', nargs='+', metavar='SET', help='test sets (default: all that the runs share)')
    parser.add_argument('--network', help='such as student (default: the teacher where there is one)')


def parse_args() -> argparse.Namespace:
    parser = ToolParser(
        description=__doc__,
        epilog=f'RUN is {RUN_FORM}; a name with spaces needs quotes. Pictures of real frames are under the terms of '
        'their data sets. Example: python tools/visualize.py overlay '
        'SupOnly=configs/supervised/mbv2_kvasir_eighth.py:work_dirs/supervised/mbv2_kvasir_eighth/iter_1200.pth '
        'ACL-Net=configs/aclnet/mbv2_kvasir_eighth.py:work_dirs/aclnet/mbv2_kvasir_eighth/iter_1200.pth '
        '--datasets kvasir cvc300 --first 2',
    )
    commands = parser.add_subparsers(required=True, metavar='FIGURE')

    command = add_command(
        commands,
        'overlay',
        'mask (yellow), prediction (light blue) and overlap (red) of several runs, methods (Figure 5) or the rows of '
        'an ablation (Figure 4)',
        lambda args: draw_overlays(_runs(args), args.datasets, args.images, args.first, args.opacity),
    )
    command.add_argument('runs', nargs='+', metavar='RUN', help=RUN_FORM)
    add_images(command, first=4)
    command.add_argument('--opacity', type=float, default=0.6, help='of the colours (default: %(default)s)')

    command = add_command(
        commands,
        'affinity',
        "affinity of a pixel in ACL-Net's student, teacher and after aggregation (Figure 7)",
        lambda args: draw_affinities(*_runs(args), args.datasets, args.images, args.first, args.at),
    )
    command.add_argument('runs', nargs=1, metavar='RUN', help=RUN_FORM)
    add_images(command, first=4)
    command.add_argument(
        '--at',
        nargs=2,
        type=int,
        metavar=('ROW', 'COLUMN'),
        help="the pixel, in the original image (default: the polyp's innermost)",
    )

    command = add_command(
        commands,
        'tsne',
        't-SNE of pixel features by class (Figure 6)',
        lambda args: draw_tsne(
            _runs(args), args.datasets, args.images, args.first, args.pixels, args.source, args.seed
        ),
    )
    command.add_argument('runs', nargs='+', metavar='RUN', help=RUN_FORM)
    add_images(command, first=16)
    command.add_argument('--pixels', type=int, default=500, help='of each class (default: %(default)s)')
    command.add_argument(
        '--source',
        type=lambda text: int(text) if text.lstrip('-').isdecimal() else text,
        default='head',
        help="head (before the classifier, the default) or the index of one of the backbone's outputs",
    )
    command.add_argument('--seed', type=int, default=0, help='of the pixels and of t-SNE (default: %(default)s)')

    command = add_command(
        commands,
        'failures',
        'the images with the worst Dice, with contours of mask (yellow) and prediction (light blue) (Figure 8)',
        lambda args: draw_failures(*_runs(args), args.datasets, args.worst),
    )
    command.add_argument('runs', nargs=1, metavar='RUN', help=RUN_FORM)
    add_datasets(command)
    command.add_argument('--worst', type=int, default=8, help='how many (default: %(default)s)')

    command = add_command(
        commands,
        'curves',
        'training curves of several runs',
        lambda args: draw_curves([parse_named(run) for run in args.runs], args.scalars),
    )
    command.add_argument('runs', nargs='+', metavar='[NAME=]PATH', help='work folders or files scalars.json')
    command.add_argument('--scalars', nargs='+', metavar='S', help='such as loss_seg (default: loss and every mDice)')

    command = add_command(
        commands,
        'distribution',
        'the Dice of every image, a violin a method',
        lambda args: draw_distribution([parse_named(run) for run in args.runs], args.datasets, args.network),
    )
    command.add_argument('runs', nargs='+', metavar='[NAME=]PATH', help='files per_image.csv of tools/test.py')
    add_scores(command)

    command = add_command(
        commands,
        'against',
        'mean Dice against the number of labels, or against what a step costs, with a band over seeds',
        _against,
    )
    command.add_argument(
        'runs', nargs='*', metavar='NAME@NUMBER=PATH', help='number of labels, and per_image.csv of tools/test.py'
    )
    command.add_argument(
        '--described', nargs=2, metavar=('FILE', 'NAME'), help='a figure of a file such as results/laptop/tables.yaml'
    )
    command.add_argument('--label', help='what the number is (default: labelled images)')
    add_scores(command)

    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        for path in save_figure(args.draw(args), Path(args.out)):
            print(f'written: {path}')


if __name__ == '__main__':
    main()
