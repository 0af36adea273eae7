"""The files of a finished run: damaged ones are named, and the run counts as not done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mmseg_acl.engine import atomic
from mmseg_acl.errors import CheckpointError
from mmseg_acl.evaluation.polyp_metric import ImageScore
from mmseg_acl.evaluation.result_files import read_scores, write_results
from mmseg_acl.experiments import records
from mmseg_acl.experiments.records import recorded, scored_sets
from mmseg_acl.visualization.scores import read_dice

RESULTS = '{"synthetic": {"student": {"image": {"mDice": 50.0, "mIoU": 40.0}}}}'
HEAD = 'set,network,image,dice,iou\n'
FINISHED = {
    'results.json': RESULTS,
    'per_image.csv': f'{HEAD}synthetic,student,a,50,40\n',
    'scalars.json': '{"step": 1, "loss": 0.5, "pseudo/share": NaN}\n',  # what is only watched may be of no pixels
    'run.json': '{"hash": "a", "seed": 0, "state": "done", "seconds": 3}',
}
DAMAGED = [
    ('results.json', ''),
    ('results.json', RESULTS[:20]),
    ('results.json', b'\xff\xfe{'),
    ('results.json', '[1, 2]'),
    ('results.json', '{}'),
    ('results.json', '{"synthetic": {}}'),
    ('results.json', '{"synthetic": 50.0}'),
    ('results.json', '[' * 100_000),
    ('results.json', RESULTS.replace('50.0', 'NaN')),
    ('results.json', RESULTS.replace('40.0', '-Infinity')),
    ('results.json', RESULTS.replace('40.0', '1e999')),
    ('results.json', RESULTS.replace('40.0', '"much"')),
    ('results.json', RESULTS.replace('40.0', 'true')),
    ('results.json', RESULTS.replace('"mDice": 50.0, ', '')),
    ('per_image.csv', ''),
    ('per_image.csv', HEAD),
    ('per_image.csv', f'{HEAD}synthetic,student,a,50'),
    ('per_image.csv', f'{HEAD}synthetic,student,a,5,40\n'),
    ('per_image.csv', f'{HEAD}synthetic,student,a,nan,40\n'),
    ('per_image.csv', f'{HEAD}synthetic,student,a,50,inf\n'),
    ('per_image.csv', f'{HEAD}synthetic,teacher,a,50,40\n'),
    ('per_image.csv', HEAD.encode() + b'synthetic,student,\xff,50,40\n'),
    ('per_image.csv', HEAD.encode() + b'synthetic,student,a,50,40\0\n'),
    ('per_image.csv', HEAD.replace(',', ';')),
    ('scalars.json', '{"step": 1, "loss": 0.5}\n{"step": 2, "lo'),
    ('scalars.json', '{"step": 1, "loss_seg": NaN}\n'),
    ('scalars.json', '{"step": Infinity, "loss": 0.5}\n'),
    ('scalars.json', '{"loss": 0.5}\n'),
    ('scalars.json', '[1]\n'),
    ('scalars.json', b'\xff\xfe\n'),
    ('run.json', ''),
    ('run.json', '{}'),
    ('run.json', '[]'),
    ('run.json', b'\xff\xfe'),
    ('run.json', '{"hash": ["a"], "seed": 0}'),
    ('run.json', '{"hash": "a", "seed": NaN}'),
    ('run.json', '{"hash": "a", "seed": 0, "seconds": NaN}'),
]

# Of a file of images, what a figure of its Dice does not need: the IoU, all of the numbers, another network's.
DRAWN = [
    case
    for name, case in DAMAGED
    if name == 'per_image.csv' and any(part in repr(case) for part in (',a,50', ',a,5,40', 'teacher'))
]


def lay_out(folder: Path, **changes: str | bytes) -> Path:
    """The files of a finished run, but for ``changes``."""
    folder.mkdir(parents=True)
    for name, content in {**FINISHED, **changes}.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.mark.parametrize(('name', 'content'), DAMAGED, ids=lambda value: repr(value)[:60])
def test_a_damaged_file_is_named_and_its_run_is_not_done(tmp_path, monkeypatch, name, content):
    said = []
    monkeypatch.setattr(records, 'print_log', lambda text, **_: said.append(text))
    sound = lay_out(tmp_path / 'sound', **{'run.json': '{"hash": "b", "seed": 0}'})
    folder = lay_out(tmp_path / 'run', **{name: content})
    for _ in range(2):
        assert {key: path for key, path in recorded(tmp_path).items() if scored_sets(path)} == {('b', 0): sound}
    assert len(said) == 1 and str(folder / name) in said[0], 'and said once'


def test_what_is_sound_is_done(tmp_path):
    folder = lay_out(tmp_path / 'run')
    assert recorded(tmp_path) == {('a', 0): folder} and scored_sets(folder) == {'synthetic'}
    (folder / 'scalars.json').unlink()  # of a training without logs
    assert scored_sets(folder) == {'synthetic'}
    (folder / 'per_image.csv').unlink()
    assert scored_sets(folder) == set()


@pytest.mark.slow
def test_the_shipped_results_are_sound():
    done = recorded(Path(__file__).parents[1] / 'results' / 'laptop' / 'archive')
    assert done and all(scored_sets(folder) for folder in done.values())


@pytest.mark.parametrize(
    'content', [case for name, case in DAMAGED if name == 'per_image.csv'], ids=lambda value: repr(value)[-30:]
)
def test_a_damaged_table_of_images_is_named_where_it_is_drawn(tmp_path, content):
    folder = lay_out(tmp_path / 'run', **{'per_image.csv': content})
    try:
        read_dice(folder)
    except ValueError as error:
        assert 'per_image.csv' in str(error)
    else:
        assert content in DRAWN


def test_scores_are_replaced_whole(tmp_path, monkeypatch):
    """Of a write that fails, what was there stays; of one between the two files, the difference is seen."""
    old, new = ({'s': {'n': {'image': dict(mDice=dice, mIoU=1.0)}}} for dice in (10.0, 20.0))
    write_results(tmp_path / 'out', old, [('s', 'n', ImageScore('a', 10.0, 1.0))])
    assert read_scores(tmp_path / 'out')[0] == old
    replace = os.replace

    def fail(source, target):
        if Path(target).name == 'results.json':
            raise OSError('No space left on device')
        replace(source, target)

    monkeypatch.setattr(atomic.os, 'replace', fail)
    with pytest.raises(CheckpointError, match=r'results\.json cannot be written: No space left'):
        write_results(tmp_path / 'out', new, [('s', 'n', ImageScore('a', 20.0, 1.0))])
    assert json.loads((tmp_path / 'out' / 'results.json').read_text()) == old
    assert not list((tmp_path / 'out').glob('*.tmp'))
    with pytest.raises(ValueError, match=r'per_image\.csv is cut short, or of another test than results\.json'):
        read_scores(tmp_path / 'out')
