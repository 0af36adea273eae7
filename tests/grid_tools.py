"""Small grids, and stand-ins for the tools that they call."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from mmseg_acl.experiments.grid import Experiment, read_experiment
from mmseg_acl.experiments.runner import Settings

TINY = Path(__file__).parent / 'configs'

# Eight iterations, the checkpoints at 4 and 8. Beside it lies what a seed is to do, such as to fail.
TRAIN = """
import json, pathlib, signal, sys, time
args = sys.argv[1:]
here, folder = pathlib.Path(__file__).parent, pathlib.Path(args[args.index('--work-dir') + 1])
seed = args[args.index('--seed') + 1]
resumed = (folder / 'iter_4.pth').exists() and '--auto-resume' in args
with (here / 'calls.txt').open('a') as calls:
    calls.write(json.dumps(['train', seed, resumed, args]) + '\\n')
todo = json.loads((here / 'todo.json').read_text()).get(seed, '')
log = folder / ('2' if resumed else '1') / 'vis_data' / 'scalars.json'
log.parent.mkdir(parents=True, exist_ok=True)

def steps(numbers):
    with log.open('a') as lines:
        lines.writelines(json.dumps(dict(step=n, loss=1.0)) + '\\n' for n in numbers)

if todo == 'fail':
    print('first line'), print('the disk is on fire', file=sys.stderr), sys.exit(3)
if resumed:
    steps(range(5, 9))
else:
    steps(range(1, 6))
    (folder / 'iter_4.pth').write_text('half')
    if todo == 'stop once':
        sys.exit(143)
    if todo == 'wait for a signal':
        def save(*_):
            (here / 'signalled').touch()
            sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        (here / 'waiting').touch()
        signal.pause()
    if todo.startswith('meet'):
        (here / f'here_{seed}').touch()
        for _ in range(2000):
            if (here / f'here_{todo.split()[1]}').exists():
                break
            time.sleep(0.01)
        else:
            sys.exit('nobody came')
    steps(range(6, 9))
(folder / 'iter_8.pth').write_text('whole')
"""
TEST = """
import csv, json, pathlib, sys
args = sys.argv[1:]
out = pathlib.Path(args[args.index('--out') + 1])
out.mkdir(parents=True, exist_ok=True)
assert pathlib.Path(args[1]).read_text() == 'whole'
here = pathlib.Path(__file__).parent
with (here / 'calls.txt').open('a') as calls:
    calls.write(json.dumps(['test', args[1], False, args]) + '\\n')
sets = args[args.index('--datasets') + 1:args.index('--protocol')]
results = {name: dict(student=dict(image=dict(mDice=50.0, mIoU=40.0))) for name in sets}
(out / 'results.json').write_text(json.dumps(results))
(out / 'per_image.csv').write_text('set,network,image,dice,iou\\n' + ''.join(f'{n},student,a,50,40\\n' for n in sets))
"""


def describe_grid(file: Path, *runs: dict, **rest: object) -> Experiment:
    """Write a description with these entries, by default two seeds of one training, and read it."""
    runs = runs or (dict(config=f'{TINY}/{{method}}.py', method=['supervised'], seeds=[0, 1]),)
    file.write_text(yaml.safe_dump(dict(runs=list(runs), **{'test_sets': 'synthetic', **rest})))
    return read_experiment(file)


class GridTools:
    """A folder ``tools`` with the stand-ins.

    Args:
        folder: Where it, the work dirs and the results lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / 'tools'
        self.root.mkdir()
        (self.root / 'train.py').write_text(TRAIN)
        (self.root / 'test.py').write_text(TEST)

    def settings(self, todo: dict | None = None, **changes: object) -> Settings:
        """Settings of a grid whose seeds are to do this; nothing has been called yet."""
        (self.root / 'todo.json').write_text(json.dumps(todo or {}))
        (self.root / 'calls.txt').write_text('')
        usual = dict(tools=self.root, work_root=self.folder / 'work', results=self.folder / 'results', poll=0.01)
        return Settings(**{**usual, **changes})

    def calls(self) -> list[list]:
        """What was called since."""
        return [json.loads(line) for line in (self.root / 'calls.txt').read_text().splitlines()]
