"""Logs of an earlier version are brought to today's names; runs of another version of the steps do not count."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_acl.engine import load_config
from mmseg_acl.experiments.grid import read_experiment
from mmseg_acl.experiments.identity import fingerprint
from mmseg_acl.experiments.migration import migrate
from mmseg_acl.experiments.records import find_trained, outdated, read_record, recorded, version_in, write_record
from mmseg_acl.methods import BY_FOLDER, METHODS
from mmseg_acl.numerics import NUMERICS
from mmseg_acl.renamed import RENAMED_SCALARS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'results'
CONFIG = 'configs/aclnet/mbv2_kvasir_eighth.py'
LINES = """\
{"lr": 1e-05, "loss_con": 0.10000000000000001, "loss_aff": 2.0, "note": "loss_con", "step": 1}
{"loss_tra": 3e+2}
"""


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Paths of configs in records count from the working directory."""
    monkeypatch.chdir(ROOT)


def leave(folder: Path, **record: object) -> Path:
    """What a run left in the folder of results before training steps had a version."""
    folder.mkdir(parents=True)
    usual = dict(name='x', config=CONFIG, options=[], seed=3, hash='0' * 16, torch='2', code='abc', state='done')
    (folder / 'run.json').write_text(json.dumps({**usual, **record}))
    (folder / 'scalars.json').write_text(LINES)
    return folder


def tool(monkeypatch, *args) -> None:
    monkeypatch.setattr(sys, 'argv', ['experiments.py', *map(str, args)])
    runpy.run_path(str(ROOT / 'tools' / 'experiments.py'), run_name='__main__')


def test_logs_have_new_names_and_their_very_numbers(tmp_path):
    folder = leave(tmp_path / 'run')
    before = (folder / 'run.json').read_bytes()
    assert migrate(tmp_path).logs == [folder / 'scalars.json'] and migrate(tmp_path).logs == []
    assert (folder / 'run.json').read_bytes() == before
    assert (
        (folder / 'scalars.json').read_text()
        == """\
{"lr": 1e-05, "loss_consistency": 0.10000000000000001, "loss_affinity": 2.0, "note": "loss_con", "step": 1}
{"loss_contrast": 3e+2}
"""
    )


def test_the_method_of_a_log_is_told_by_the_config_that_training_left_or_by_the_user(tmp_path):
    log = tmp_path / 'run' / '20260101' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss_con": 1}\n')
    assert migrate(tmp_path).unknown == [log] and log.read_text() == '{"loss_con": 1}\n'
    (tmp_path / 'run' / 'mine.py').write_text("model = dict(type='CAC', lambda_con=0.1)\n")
    assert migrate(tmp_path).logs == [log] and log.read_text() == '{"loss_contrast": 1}\n'

    log.write_text('{"loss_con": 1}\n')
    (tmp_path / 'run' / 'mine.py').unlink()
    assert migrate(tmp_path, 'psmt').logs == [log] and log.read_text() == '{"loss_consistency": 1}\n'


def test_every_method_that_was_renamed_is_one_of_the_table():
    assert RENAMED_SCALARS.keys() <= {method.type for method in METHODS}


def test_no_stored_log_has_an_old_name():
    old = {name for names in RENAMED_SCALARS.values() for name in names}
    for log in RESULTS.rglob('scalars.json'):
        found = {key for line in log.read_text().splitlines() for key in json.loads(line)}
        assert not found & old, log


def test_migration_is_a_command_and_tells_what_is_wrong(tmp_path, monkeypatch, capsys):
    leave(tmp_path / 'results' / 'x')
    tool(monkeypatch, 'migrate', tmp_path / 'results')
    assert '1 logs have new names' in capsys.readouterr().out
    for arguments, message in (
        ((tmp_path / 'results', '--method', 'acl'), f'--method acl: there are {", ".join(BY_FOLDER)}'),
        ((tmp_path / 'absent',), 'absent, whose logs are to be migrated, is no folder'),
    ):
        with pytest.raises(SystemExit, match='2'):
            tool(monkeypatch, 'migrate', *arguments)
        assert message in capsys.readouterr().err


# ------------------------------------------------------------------ versions of the training steps


@pytest.fixture
def description(tmp_path) -> Path:
    """One run, with seed 3."""
    file = tmp_path / 'mine.yaml'
    file.write_text(f'runs:\n  - {{config: {(ROOT / CONFIG).as_posix()}, seeds: 3}}\n')
    return file


@pytest.mark.slow
def test_a_run_counts_for_its_version_of_the_steps_alone(description, tmp_path, monkeypatch):
    (run,) = read_experiment(description).runs
    write_record(tmp_path, run)
    assert read_record(tmp_path)['numerics'] == version_in(tmp_path) == NUMERICS
    monkeypatch.setattr('mmseg_acl.engine.start.launch.NUMERICS', NUMERICS + 1)
    (later,) = read_experiment(description).runs
    assert later.hash != run.hash
    assert version_in(leave(tmp_path / 'old')) == 0


@pytest.mark.slow
def test_what_trained_under_another_version_is_said_and_not_counted(description, tmp_path, monkeypatch, capsys):
    (run,) = read_experiment(description).runs
    results = tmp_path / 'results'
    old, _, _ = leave(results / 'a'), leave(results / 'b', seed=4), leave(results / 'c', options=['x=1'])
    assert outdated(results, [run]) == [old] and run.key not in recorded(results)
    tool(monkeypatch, 'status', description, '--results', results, '--work-dir', tmp_path / 'work')
    said = capsys.readouterr().out
    assert '1 not begun' in said and f'1 of these runs, such as a, stand in {results} from another version' in said


@pytest.mark.slow
def test_only_what_this_version_has_trained_is_reused(description, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    (run,) = read_experiment(description).runs
    folder = tmp_path / 'trained' / 'run'
    folder.mkdir(parents=True)
    for name in ('iter_1200.pth', 'last_checkpoint'):
        (folder / name).touch()
    config = load_config(CONFIG, seed=3)
    config.dump(folder / 'mine.py')
    assert find_trained([tmp_path / 'trained'], [run]) == {run.key: folder}
    config.pop('numerics')  # as training left it before
    config.dump(folder / 'mine.py')
    assert find_trained([tmp_path / 'trained'], [run]) == {}


@pytest.mark.slow
def test_a_config_that_training_left_is_trained_by_the_present_steps(tmp_path):
    config = load_config(CONFIG)
    digest = fingerprint(config)
    config.numerics = NUMERICS - 1
    config.dump(tmp_path / 'mine.py')
    assert fingerprint(Config.fromfile(tmp_path / 'mine.py', import_custom_modules=False)) != digest
    assert fingerprint(load_config(str(tmp_path / 'mine.py'))) == digest


def test_archived_runs_are_of_version_0_and_all_others_of_the_present_one():
    for record in RESULTS.rglob('run.json'):
        expected = 0 if 'archive' in record.parts else NUMERICS
        assert version_in(record.parent) == expected, record
