"""Command lines that ask for what cannot be are refused before the work."""

from __future__ import annotations

import runpy
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from mmseg_acl.arguments import folder, positive

TOOLS = Path(__file__).parents[1] / 'tools'
BEFORE = {
    'audit_data.py': [],
    'benchmark_speed.py': [],
    'check_labels.py': ['run.py', '--folds', '3'],
    'cut_polyp_free.py': ['kvasir'],
    'demo.py': [],
    'draw_instruments.py': ['labelled'],
    'draw_lists.py': ['partitions', 'kvasir/train'],
    'evaluate_maps.py': ['maps', 'masks'],
    'experiments.py': ['tables', 'grid.yaml'],
    'export.py': ['run'],
    'export_student.py': ['run.py', 'iter_1.pth'],
    'import_labels.py': ['export.zip'],
    'inspect_data.py': ['run.py'],
    'label_quality.py': ['run.py', 'iter_1.pth'],
    'predict.py': ['run', 'frames'],
    'prepare_data.py': ['download'],
    'shifts.py': ['run.py', 'iter_1.pth'],
    'simulate_labelling.py': ['--work-dir', 'work'],
    'spoil_labels.py': ['labelled'],
    'suggest.py': ['run', 'frames'],
    'test.py': ['run.py', 'iter_1.pth'],
}


def test_every_tool_that_writes_a_folder_is_here():
    # The rest of a figure's name is no folder, and calibrate.py names the option of another tool.
    others = {'visualize.py', 'calibrate.py'}
    writing = {path.name for path in TOOLS.glob('*.py') if '--out' in path.read_text()} - others
    assert writing | {'label_quality.py', 'shifts.py'} == BEFORE.keys()


def refused(tool: str, arguments: list[str], patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """What a tool says when it refuses its command line."""
    patch.setattr(sys, 'argv', [tool, *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOLS / tool), run_name='__main__')
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize('inside', [False, True])
@pytest.mark.parametrize('tool', BEFORE)
def test_a_file_is_no_folder_to_write_to(tool, inside, tmp_path, monkeypatch, capsys):
    (tmp_path / 'scores.csv').write_text('')
    out = tmp_path / 'scores.csv' / ('a/b' if inside else '')
    said = refused(tool, [*BEFORE[tool], '--out', str(out)], monkeypatch, capsys)
    assert f'argument --out: {tmp_path / "scores.csv"} is a file; give a folder, which need not exist' in said


@pytest.mark.parametrize('option', ['--threads', '--repeats'])
@pytest.mark.parametrize('value', ['0', '-1', 'x', '1.5'])
def test_counts_are_whole_numbers_of_at_least_1(option, value, monkeypatch, capsys):
    said = refused('benchmark_speed.py', [f'{option}={value}'], monkeypatch, capsys)
    assert f'argument {option}: {value} is not a whole number of at least 1' in said
    with pytest.raises(ArgumentTypeError):
        positive(value)


def test_a_folder_need_not_exist(tmp_path):
    assert folder(str(tmp_path / 'a' / 'b')) == tmp_path / 'a' / 'b'
    assert folder(str(tmp_path)) == tmp_path and positive('3') == 3
