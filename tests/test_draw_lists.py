"""Lists drawn from the command line are those that are shipped, or a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tool_process import run_tool

from mmseg_acl.datasets import read_list
from mmseg_acl.datasets.partitions import FRACTIONS


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arguments', 'group', 'parts'),
    [
        (['partitions', 'kvasir/train', '--dev', 100], 'kvasir', [*FRACTIONS, 'dev']),
        (['again', 'kvasir/train', 'thirtysecond', 'c', '--exclude', 'kvasir/dev'], 'kvasir', ['thirtysecond_c']),
        (['sequences'], 'clinicdb_seq', ['train', 'test', 'half', 'quarter', 'eighth']),
    ],
)
def test_the_shipped_lists_are_drawn_again(arguments, group, parts, tmp_path):
    done = run_tool('draw_lists.py', *arguments, '--out', tmp_path / 'lists', data=tmp_path)
    for part in parts:
        names = read_list(tmp_path / 'lists' / f'{part}.txt')
        assert names == read_list(f'{group}/{part}')
        assert f'{part}.txt: {len(names)} images' in done.stdout


@pytest.mark.slow
def test_a_list_of_ones_own_is_drawn_by_its_seed(tmp_path):
    own = tmp_path / 'train.txt'
    own.write_text('\n'.join(f'frame{i}' for i in range(20)))
    drawn = []
    for seed in (1, 1, 2):
        arguments = ['partitions', own, '--seed', seed, '--out', tmp_path / f'seed{seed}']
        run_tool('draw_lists.py', *arguments, data=tmp_path)
        drawn.append(read_list(tmp_path / f'seed{seed}' / 'half.txt'))
    assert len(drawn[0]) == 10 and drawn[0] == drawn[1] != drawn[2]
    assert not Path(tmp_path, 'seed1', 'thirtysecond.txt').exists(), 'a part of no image is no list'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['partitions', 'kvasir/tenth'], "no list 'kvasir/tenth'"),
        (['partitions', 'kvasir/train', '--dev', 500], 'num_dev=500 must lie in 0 to 450'),
        (['sequences', '--num-test', 3], 'num_test=3 must lie in 6 to 606'),
        (['partitions', 'kvasir/train', '--seed', 1], 'half.txt is there with other names'),
        (['partitions', 'kvasir/train', '--seed', -1], 'Seed must be between 0 and'),
    ],
)
def test_what_cannot_be_drawn_is_one_message(arguments, message, tmp_path):
    (tmp_path / 'half.txt').write_text('of another draw\n')
    done = run_tool('draw_lists.py', *arguments, '--out', tmp_path, data=tmp_path, check=False)
    assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ['half.txt']
