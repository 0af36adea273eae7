"""Run a grid of experiments, see how it stands, and write its tables, also those inside documents."""

import argparse
from pathlib import Path

from mmseg_acl.arguments import ToolParser, folder
from mmseg_acl.engine import user_errors
from mmseg_acl.experiments.documents import update_document
from mmseg_acl.experiments.grid import read_experiment
from mmseg_acl.experiments.migration import migrate
from mmseg_acl.experiments.runner import LOCAL, Settings, run_experiment, show_status
from mmseg_acl.experiments.tables import write_tables

EXAMPLES = """examples:
  python tools/experiments.py run configs/experiments/laptop.yaml --jobs 2
  python tools/experiments.py run configs/experiments/paper_table2.yaml --jobs 4 \\
      --command 'env CUDA_VISIBLE_DEVICES={slot} {python} {command}'
  JOB='sbatch --requeue --open-mode=append --gres=gpu:1 -J {name} -o {log} --wrap "exec {python} {command}"'
  python tools/experiments.py run configs/experiments/paper_table2.yaml --jobs 50 \\
      --command "$JOB" --test-command "$JOB"
  python tools/experiments.py run configs/experiments/paper_table2.yaml \\
      --command 'torchrun --nproc_per_node 4 {command} --launcher pytorch'
  python tools/experiments.py status configs/experiments/laptop.yaml
  python tools/experiments.py tables configs/experiments/laptop.yaml
  python tools/experiments.py migrate results/laptop
  python tools/experiments.py documents README.md results/laptop/*.md

The same command, given again, goes on where it stopped. Jobs of Slurm are known by their sbatch: Ctrl-C cancels
them, and the next call waits for those that an earlier one has left. Data sets are looked for in $MMSEG_ACL_DATA
(else data/), pre-trained weights in $MMSEG_ACL_WEIGHTS. On a CPU set OMP_NUM_THREADS to the cores that each run may
have."""


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(
        dest='action', required=True, metavar='run | status | tables | documents | migrate'
    )
    shared = ToolParser(add_help=False)
    shared.add_argument('description', help='description of the grid, e.g. configs/experiments/laptop.yaml')
    shared.add_argument('--results', metavar='D', help='folder of the results (default: results/DESCRIPTION)')
    working = ToolParser(add_help=False)
    working.add_argument(
        '--work-dir',
        default='work_dirs/experiments',
        metavar='D',
        help='each run trains in a folder below this one (default: %(default)s)',
    )
    run = commands.add_parser('run', parents=[shared, working], help='train and test what is not done yet')
    run.add_argument('--jobs', type=int, default=1, metavar='K', help='runs at a time (default: 1)')
    run.add_argument(
        '--command',
        default=LOCAL,
        metavar='T',
        help='how to start a training: {command} is tools/train.py with its arguments, {python} this interpreter, '
        '{name} the name of the run, {log} the file for what is printed, {slot} a number from 0 to K-1; it has to '
        'wait for the end, unless it is sbatch (default: %(default)s)',
    )
    run.add_argument(
        '--test-command', default=LOCAL, metavar='T', help='the same for tools/test.py (default: %(default)s)'
    )
    run.add_argument(
        '--reuse',
        nargs='+',
        default=[],
        metavar='D',
        help='folders with runs of tools/train.py that are taken where config and seed are the same',
    )
    commands.add_parser('status', parents=[shared, working], help='how far each run is')
    tables = commands.add_parser('tables', parents=[shared], help='write the tables')
    tables.add_argument('--out', type=folder, metavar='D', help='folder of the tables (default: that of the results)')
    tables.add_argument('--network', metavar='N', help='network to show (default: the teacher where there is one)')
    migration = commands.add_parser(
        'migrate',
        help='bring the logs of an earlier version to the present names',
        description='Losses in scalars.json get the names that they have had since commit 1a6be0e. Nothing else is '
        'touched.',
    )
    migration.add_argument('folder', type=Path, help='folder of results or of work dirs')
    migration.add_argument(
        '--method', metavar='M', help='folder of the method, for logs beside which nothing says it'
    )
    documents = commands.add_parser(
        'documents',
        help='write anew the tables that stand inside Markdown files',
        description='In each file, what stands between <!-- table NAME of FILE, written by make results --> and '
        '<!-- end of table --> is written from the results. FILE is like results/laptop/tables.yaml.',
    )
    documents.add_argument('documents', nargs='+', type=Path, metavar='FILE', help='Markdown files')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        if args.action == 'documents':
            for path in args.documents:
                path.write_text(update_document(path), encoding='utf-8')
            return
        if args.action == 'migrate':
            print(migrate(args.folder, args.method))
            return
        experiment = read_experiment(args.description)
        results = Path(args.results or Path('results') / experiment.name)
        if args.action == 'tables':
            for path in write_tables(experiment, results, Path(args.out or results), args.network):
                print(f'written: {path}')
        elif args.action == 'status':
            print(show_status(experiment, results, Path(args.work_dir)))
        else:
            settings = Settings(
                tools=Path(__file__).parent,
                work_root=Path(args.work_dir),
                results=results,
                jobs=args.jobs,
                command=args.command,
                test_command=args.test_command,
                reuse=tuple(map(Path, args.reuse)),
            )
            run_experiment(experiment, settings)


if __name__ == '__main__':
    main()
