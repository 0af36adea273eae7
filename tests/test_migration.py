"""What runs of an earlier version left is brought to today's names, and nothing else is."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from test_resolved_configs import stored

from mmseg_acl.engine import load_config
from mmseg_acl.experiments.grid import read_experiment
from mmseg_acl.experiments.identity import fingerprint, former_fingerprints
from mmseg_acl.experiments.migration import migrate, refuse_former_records
from mmseg_acl.experiments.records import find_trained, read_record, recorded
from mmseg_acl.methods import BY_FOLDER, METHODS
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


def former(**options: object) -> str:
    """A hash that the config may have had up to 1a6be0e, and has not today."""
    config = load_config(CONFIG, options={key.replace('__', '.'): value for key, value in options.items()})
    return min(former_fingerprints(config) - {fingerprint(config)})


def leave(folder: Path, digest: str, *options: str, config: str = CONFIG) -> Path:
    """What a run leaves in the folder of results."""
    folder.mkdir(parents=True)
    record = dict(name='x', config=config, options=options, seed=3, hash=digest, torch='2', code='abc', state='done')
    (folder / 'run.json').write_text(json.dumps(record))
    (folder / 'scalars.json').write_text(LINES)
    return folder


@pytest.mark.parametrize(
    ('name', 'digest'),
    [
        ('supervised/mbv2_kvasir_eighth.py', '9417b524bdddf167'),
        ('cac/mbv2_kvasir_eighth.py', 'd16aa5a2338733cb'),
        ('aclnet/mbv2_kvasir_eighth.py', '2ea23abd2a770a95'),
        ('aclnet/ablation/mbv2_kvasir_eighth_row1.py', 'e8580095ee6ef6f4'),
    ],
)
def test_hashes_of_1a6be0e_are_found_again(name, digest):
    """The config as it resolved then, in today's words, and the hash that runs had on record."""
    assert digest in former_fingerprints(Config(stored(name)))


def test_a_record_gets_the_hash_of_the_same_config(tmp_path):
    folder = leave(tmp_path / 'plain', former())
    before = read_record(folder)
    done = migrate(tmp_path)
    now = fingerprint(load_config(CONFIG))
    assert read_record(folder) == dict(before, hash=now)
    assert done.rehashed == [folder] and not done.kept
    again = migrate(tmp_path)
    assert (again.rehashed, again.current, again.logs) == ([], 1, [])


def test_options_of_a_record_are_renamed_too(tmp_path):
    digest = former(model__affinity_weight=0.5, train_cfg__max_iters=600)
    folder = leave(tmp_path / 'options', digest, 'model.lambda_aff=0.5', 'train_cfg.max_iters=600')
    migrate(tmp_path)
    record = read_record(folder)
    assert record['options'] == ['model.affinity_weight=0.5', 'train_cfg.max_iters=600']
    options = {'model.affinity_weight': 0.5, 'train_cfg.max_iters': 600}
    assert record['hash'] == fingerprint(load_config(CONFIG, options=options))


@pytest.mark.parametrize(
    ('digest', 'config', 'message'),
    [
        ('0' * 16, CONFIG, 'mbv2_kvasir_eighth.py of today trains something else'),
        (None, 'configs/aclnet/mbv2_kvasir_quarter.py', 'mbv2_kvasir_quarter.py of today trains something else'),
        (None, 'configs/gone.py', 'no config at configs/gone.py'),
    ],
)
def test_a_record_of_another_config_stays(digest, config, message, tmp_path):
    folder = leave(tmp_path / 'other', digest or former(), config=config)
    before = (folder / 'run.json').read_bytes()
    done = migrate(tmp_path)
    assert (folder / 'run.json').read_bytes() == before
    assert message in done.kept[folder] and message in str(done)


def test_logs_have_new_names_and_their_very_numbers(tmp_path):
    folder = leave(tmp_path / 'run', former())
    migrate(tmp_path)
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


def test_a_grid_does_not_begin_anew_what_an_earlier_version_has_done(tmp_path, monkeypatch, capsys):
    leave(tmp_path / 'results' / 'x', former())
    description = tmp_path / 'mine.yaml'
    description.write_text(f'runs:\n  - {{config: {(ROOT / CONFIG).as_posix()}, seeds: 3}}\n')
    run = read_experiment(description).runs
    with pytest.raises(ValueError, match='x has the run .* migrate .*results brings all records up to date'):
        refuse_former_records(run, [tmp_path / 'absent', tmp_path / 'results'])

    def tool(*args):
        monkeypatch.setattr(sys, 'argv', ['experiments.py', *map(str, args)])
        runpy.run_path(str(ROOT / 'tools' / 'experiments.py'), run_name='__main__')

    status = ('status', description, '--results', tmp_path / 'results', '--work-dir', tmp_path / 'work')
    with pytest.raises(SystemExit, match='2'):
        tool(*status)
    assert 'under the hash of an earlier version' in capsys.readouterr().err
    tool('migrate', tmp_path / 'results')
    assert '1 records have their new hash' in capsys.readouterr().out
    assert recorded(tmp_path / 'results').keys() == {run[0].key}
    tool(*status)

    with pytest.raises(SystemExit, match='2'):
        tool('migrate', tmp_path / 'results', '--method', 'acl')
    assert f'--method acl: there are {", ".join(BY_FOLDER)}' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        tool('migrate', tmp_path / 'absent')
    assert 'absent, whose runs are to be migrated, is no folder' in capsys.readouterr().err


def test_a_work_dir_of_an_earlier_version_is_reused(tmp_path, monkeypatch):
    """The config that training left has old names, a hook that has gone, and says None of an auxiliary head."""
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    description = tmp_path / 'mine.yaml'
    description.write_text(f'runs:\n  - {{config: {(ROOT / CONFIG).as_posix()}, seeds: 0}}\n')
    (run,) = read_experiment(description).runs
    config = load_config(CONFIG)
    model = config.model
    for new, old in dict(consistency_weight='con', contrast_weight='tra').items():
        model[f'lambda_{old}'] = model.pop(new)
    model.segmentor.auxiliary_head = None
    config.train_dataloader.collate_fn = dict(type='branch_collate')
    config.custom_hooks.insert(0, dict(type='ChannelsLastHook'))
    folder = tmp_path / 'old' / 'run'
    folder.mkdir(parents=True)
    config.dump(folder / 'mbv2_kvasir_eighth.py')
    for name in ('iter_1200.pth', 'last_checkpoint'):
        (folder / name).touch()
    assert find_trained([tmp_path / 'old'], [run]) == {run.key: folder}


def test_no_stored_log_has_an_old_name():
    old = {name for names in RENAMED_SCALARS.values() for name in names}
    for log in RESULTS.rglob('scalars.json'):
        found = {key for line in log.read_text().splitlines() for key in json.loads(line)}
        assert not found & old, log
