"""tools/simulate_labelling.py: rules compared on frames whose masks are known."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tool_process import run_tool

from mmseg_acl.datasets import write_synthetic
from mmseg_acl.datasets.partitions import read_list
from mmseg_acl.engine.start.work_dir import take_lock
from mmseg_acl.labelling import simulation
from mmseg_acl.labelling.simulation import Plan, Point, areas, summary

CONFIG = Path(__file__).parent / 'configs' / 'supervised_strong.py'


def test_the_area_is_the_mean_height_over_the_logarithm_and_is_compared_image_by_image():
    random = np.random.default_rng(0)
    points = []
    for rule, gain in (('random', 0), ('random-foreground', 1), ('typical', 8)):
        for seed in (0, 1):
            for step, labels in enumerate((28, 56, 112)):
                dice = {f'kvasir {i}': 50 + 10 * step + gain + random.normal() for i in range(40)}
                points.append(Point(rule, seed, labels, dice))
    curves = areas(points, 'typical')
    assert len(curves) == 2
    three = [point.dice['kvasir 7'] for point in points if (point.rule, point.seed) == ('typical', 1)]
    assert curves[1]['kvasir 7'] == pytest.approx((three[0] / 2 + three[1] + three[2] / 2) / 2)
    # A seed that lacks a round has no area yet, and the table says so by leaving the place free.
    assert len(areas(points[:-1], 'typical')) == 1
    rows = {line.split('|')[1].strip(): line for line in summary(points).splitlines() if line.startswith('| ')}
    cells = [cell.strip() for cell in rows['typical'].split('|')]
    assert cells[2].startswith('58.') and '±' in cells[5]
    assert 7 < float(cells[6].split()[0]) < 9 and 6 < float(cells[7].split()[0]) < 8
    assert [cell.strip() for cell in rows['random'].split('|')][6] == ''


@pytest.mark.parametrize('step', ['prepare_pool', 'suggest'])
def test_what_calls_for_several_seeds_share_is_written_by_one_at_a_time(step, monkeypatch, tmp_path):
    seen = []

    def probe(*_: object) -> None:
        seen.append(take_lock(tmp_path / 'pool.lock'))
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, 'prepare_pool', lambda plan, work: work)
    monkeypatch.setattr(simulation, 'find_pool', lambda pool: [SimpleNamespace(entry=name) for name in 'ab'])
    monkeypatch.setattr(simulation, step, probe)
    plan = Plan(str(CONFIG), Path(), '', (), ('random',), (0,), 1, 1, None, (), False, None, 'none')
    with pytest.raises(KeyboardInterrupt):
        next(simulation.simulate(plan, tmp_path, Path()))
    assert seen == [None]


@pytest.mark.slow
def test_rounds_of_labelling_are_simulated_and_go_on(tmp_path):
    write_synthetic(tmp_path, labelled=12, unlabelled=1, test=2, size=(72, 96), seed=0)
    (tmp_path / 'all.txt').write_text('\n'.join(p.stem for p in (tmp_path / 'Synthetic/labelled/images').iterdir()))
    options = (
        *('--config', CONFIG, '--folder', 'Synthetic/labelled', '--list', tmp_path / 'all.txt', '--exclude'),
        *('--datasets', 'synthetic', '--rules', 'random-foreground', '--seeds', 0, '--start', 3),
        *('--rounds', 1, '--iters', 2, '--no-crops', '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out'),
    )
    done = run_tool('simulate_labelling.py', *options, data=tmp_path)
    rows = list(csv.DictReader(open(tmp_path / 'out' / 'points.csv')))
    assert [(row['rule'], row['labels']) for row in rows] == [('random-foreground', '3'), ('random-foreground', '6')]
    first = read_list(tmp_path / 'work' / 'first' / 'seed0' / 'labelled.txt')
    second = read_list(tmp_path / 'work' / 'random-foreground' / 'seed0_round1' / 'labelled.txt')
    assert len(first) == 3 and second[:3] == first and len(set(second)) == 6
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / 'work').rglob('*.pth')}
    again = run_tool('simulate_labelling.py', *options, data=tmp_path)
    said = [[line for line in each.stdout.splitlines() if 'Dice' in line] for each in (done, again)]
    assert said[0] == said[1] and len(said[0]) == 2
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / 'work').rglob('*.pth')}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--start', 0), 'start is 0 and rounds 2'),
        (('--start', 8), '8 labels doubled 2 times are more than the pool has'),
        (('--folder', 'nowhere'), "folder '.*nowhere/images' does not exist"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(options, message, synthetic_root, tmp_path):
    (tmp_path / 'all.txt').write_text(
        '\n'.join(path.stem for path in (synthetic_root / 'Synthetic/labelled/images').iterdir())
    )
    given = ('--config', CONFIG, '--folder', 'Synthetic/labelled', '--list', tmp_path / 'all.txt', '--exclude')
    folders = ('--work-dir', tmp_path / 'work', '--out', tmp_path / 'out', '--no-crops')
    done = run_tool('simulate_labelling.py', *given, *folders, *options, data=synthetic_root, check=False)
    assert done.returncode == 2 and re.search(message, done.stderr), done.stderr
