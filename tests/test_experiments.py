"""The grid, its runner and its tables: with stand-ins for the tools, and once with the tools themselves."""

from __future__ import annotations

import csv
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import yaml
from grid_tools import TINY, TRAIN
from mmengine.config import Config

from mmseg_acl.engine import load_config
from mmseg_acl.engine.start.weights import resolve_weights
from mmseg_acl.errors import RunError, Stopped
from mmseg_acl.experiments import records, runner
from mmseg_acl.experiments.comparison import compare, holm
from mmseg_acl.experiments.grid import read_experiment
from mmseg_acl.experiments.identity import fingerprint
from mmseg_acl.experiments.records import find_trained, folder_for, read_record, whole_log, write_record
from mmseg_acl.experiments.runner import fill_template, run_experiment, show_status
from mmseg_acl.experiments.tables import fill_table, read_paper, write_tables
from mmseg_acl.methods import METHODS

ROOT = Path(__file__).parents[1]
LAPTOP = ROOT / 'configs' / 'aclnet' / 'mbv2_kvasir_eighth.py'
DESCRIPTIONS = sorted((ROOT / 'configs' / 'experiments').glob('*.yaml'))
# What stands in results/laptop.
LAPTOP_GRIDS = ('labels', 'decomposition', 'laptop', 'foreign', 'sequences', 'black_frames')


def leave(config: Config, file: Path) -> None:
    """Write a config as training leaves it in its work dir, but without mmengine's slow formatting."""
    file.write_text(''.join(f'{key} = {value!r}\n' for key, value in config.to_dict().items()))


# ------------------------------------------------------------------ the grid


@pytest.mark.slow
def test_entries_are_expanded_by_their_axes_and_seeds(describe):
    entry = dict(config=f'{TINY}/{{method}}.py', method=['supervised', 'mean_teacher'], data='kvasir', seeds=[0, 3])
    labelled = dict(config=f'{TINY}/aclnet.py', label='ours', options=['train_cfg.max_iters=6'])
    found = describe(entry, labelled, seeds=7).runs
    assert [(run.label, run.seed) for run in found] == [
        ('SupOnly', 0),
        ('SupOnly', 3),
        ('Mean Teacher', 0),
        ('Mean Teacher', 3),
        ('ours', 7),
    ]
    assert found[2].axes == dict(method='mean_teacher', data='kvasir') and found[2].path.name == 'mean_teacher.py'
    assert [run.max_iters for run in found] == [8, 8, 8, 8, 6]
    assert len({run.hash for run in found}) == 3 and len({run.name for run in found}) == 5


def test_options_and_names_have_placeholders(describe):
    entry = dict(config=f'{TINY}/supervised.py', name='mine_{length}', options='train_cfg.max_iters={length}')
    found = describe(dict(entry, length=[4, 6], seeds=3)).runs
    assert [(run.name, run.max_iters, run.options) for run in found] == [
        (f'mine_{length}_seed3', length, (f'train_cfg.max_iters={length}',)) for length in (4, 6)
    ]
    unnamed = describe(dict(entry, name='', length=4, seeds=3)).runs[0]
    assert unnamed.key == found[0].key and unnamed.name == f'configs_supervised_{found[0].hash[:6]}_seed3'


def test_one_training_under_two_labels_is_run_once(describe):
    found = describe(*(dict(config=f'{TINY}/supervised.py', label=label) for label in 'ab'))
    assert len(found.runs) == 2 and len(found.distinct) == 1


@pytest.mark.parametrize(
    ('entry', 'rest', 'message'),
    [
        (dict(config='{method}.py'), {}, r"'\{method\}.py' asks for 'method', but the entry has the axes none"),
        (dict(config='absent.py'), {}, 'no config at'),
        (dict(method='x'), {}, 'has no config'),
        (dict(config=f'{TINY}/aclnet.py', seeds=['one']), {}, 'must be a list of whole numbers'),
        (dict(config=f'{TINY}/aclnet.py', options=dict(a=1)), {}, 'list of KEY=VALUE'),
        (dict(config=f'{TINY}/aclnet.py', options=['modle.x=1']), {}, "Did you mean 'model'"),
        (
            dict(config=f'{TINY}/aclnet.py', options='model.threshold={x}'),
            {},
            "asks for 'x', but the entry has the axes",
        ),
        (dict(config=f'{TINY}/aclnet.py', name='a/b'), {}, "the name 'a/b' becomes that of a folder"),
        (dict(config=f'{TINY}/aclnet.py'), dict(test_sets=['kvasr']), 'allowed are kvasir, clinicdb'),
        (dict(config=f'{TINY}/aclnet.py'), dict(protocols=['pranet']), 'need image'),
        (dict(config=f'{TINY}/aclnet.py'), dict(table=[]), "has the key 'table'; allowed are title, runs"),
    ],
)
def test_what_is_wrong_with_a_description_is_said(entry, rest, message, describe):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        describe(entry, **rest)


def test_a_description_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match='configs/experiments'):
        read_experiment(tmp_path / 'absent.yaml')
    for text, message in (('a: [', 'is no YAML'), ('title: x', 'has no runs'), ('- a', 'has no runs')):
        (tmp_path / 'x.yaml').write_text(text)
        with pytest.raises(ValueError, match=message):
            read_experiment(tmp_path / 'x.yaml')


@pytest.mark.slow
def test_the_shipped_descriptions_are_the_papers_tables(tmp_path):
    """Every number of the paper has its place, and every method its runs."""
    found, placed = {file.stem: read_experiment(file) for file in DESCRIPTIONS}, set()
    assert set(found) == {*LAPTOP_GRIDS, 'laptop_ablation', 'gpu_day', 'paper_table1', 'paper_table2', 'paper_table3'}
    paper = read_paper()
    for number in (1, 2, 3):
        experiment = found[f'paper_table{number}']
        table = fill_table(experiment, experiment.tables[0], tmp_path)
        for (row, index), cell in table.cells.items():
            assert cell.planned == 3 and cell.missing == 'not run'
            placed |= {key for key, value in paper.items() if key[:2] == (number, row) and value == cell.paper}
            assert cell.paper is not None, (row, index)
    assert placed == set(paper)
    assert [len(found[name].distinct) for name in ('paper_table1', 'paper_table2', 'paper_table3')] == [21, 180, 30]
    laptop = found['laptop'].distinct
    seeds = {method.name: {run.seed for run in laptop if run.label == method.name} for method in METHODS}
    thrice = {'SupOnly', 'SupOnly (strong)', 'SupOnly (plus)', 'FixMatch', 'UniMatch', 'ACL-Net', 'ACL-Net+'}
    assert seeds == {name: {0, 1, 2} if name in thrice else {0} for name in seeds}
    ablation = found['laptop_ablation']
    table = fill_table(ablation, ablation.tables[0], tmp_path)
    assert len(table.rows) == 8 and table.columns[-1].tests == ('kvasir', 'clinicdb', 'cvc300')
    full = {run.key for run in ablation.distinct if run.label == table.reference}
    assert full == {run.key for run in laptop if run.label == 'ACL-Net'}, 'row V is ACL-Net: the runs are shared'


@pytest.mark.slow
def test_descriptions_of_the_laptop_track_share_their_runs():
    """What two of them have is one run under one name, so that it is trained once, and no two runs share a name."""
    found = {
        name: read_experiment(ROOT / 'configs' / 'experiments' / f'{name}.yaml').distinct for name in LAPTOP_GRIDS
    }
    names = {(run.key, run.name) for runs in found.values() for run in runs}
    assert len(names) == len({key for key, _ in names}) == len({name for _, name in names})
    keys = {name: {run.key for run in runs} for name, runs in found.items()}
    assert len(keys['labels'] & keys['decomposition']) == 15  # five kinds of runs, three seeds
    assert len(keys['labels'] & keys['laptop']) == 21  # seven methods
    assert len(keys['labels'] & keys['foreign']) == 3
    first = [(run.name.removesuffix('_mbv2_kvasir_thirtysecond_seed0')) for run in found['labels'][:6]]
    assert first == ['supervised_strong', 'supervised_plus', 'aclnet_plus', 'aclnet_row1', 'fixmatch', 'unimatch']


# ------------------------------------------------------------------ which runs are the same


@pytest.mark.slow
def test_a_hash_does_not_depend_on_the_machine(monkeypatch, tmp_path):
    whole = fingerprint(load_config(str(LAPTOP)))
    elsewhere = tmp_path / 'copy'
    (elsewhere / 'lists').mkdir(parents=True)
    for variable in ('MMSEG_ACL_DATA', 'MMSEG_ACL_WEIGHTS'):
        monkeypatch.setenv(variable, str(elsewhere))
    options = {
        'train_dataloader.num_workers': 5,
        'train_dataloader.persistent_workers': True,
        'train_dataloader.dataset.labelled.data_root': str(elsewhere),
        'train_cfg.val_interval': 7,
        'default_hooks.logger.interval': 3,
    }
    config = load_config(str(LAPTOP), str(elsewhere), options, seed=5, resume=True)
    config.custom_hooks = config.custom_hooks + [dict(type='StopSignalHook')]
    assert fingerprint(config) == whole
    leave(config, elsewhere / 'dumped.py')
    assert fingerprint(Config.fromfile(elsewhere / 'dumped.py', import_custom_modules=False)) == whole
    # A list of one's own counts by its content, wherever it lies.
    for folder in ('a', 'b'):
        (elsewhere / folder).mkdir()
        (elsewhere / folder / 'mine.txt').write_text('one\ntwo\n')
    key = 'train_dataloader.dataset.labelled.ann_file'
    lists = [fingerprint(load_config(str(LAPTOP), options={key: str(elsewhere / x / 'mine.txt')})) for x in 'ab']
    (elsewhere / 'b' / 'mine.txt').write_text('one\nthree\n')
    lists.append(fingerprint(load_config(str(LAPTOP), options={key: str(elsewhere / 'b' / 'mine.txt')})))
    assert lists[0] == lists[1] != lists[2] and whole not in lists


@pytest.mark.parametrize(
    'option',
    [
        {'optim_wrapper.optimizer.lr': 0.02},
        {'model.warmup_iters': 3},
        {'train_cfg.max_iters': 1201},
        {'train_dataloader.dataset.partition': 'kvasir/half'},
        {'train_dataloader.dataset.unlabelled.exclude': ['kvasir/dev']},
    ],
)
def test_a_hash_depends_on_what_trains(option):
    assert fingerprint(load_config(str(LAPTOP), options=option)) != fingerprint(load_config(str(LAPTOP)))


def test_random_weights_are_another_run(monkeypatch):
    monkeypatch.delenv('MMSEG_ACL_WEIGHTS', raising=False)
    named = fingerprint(load_config(str(LAPTOP)))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    config = load_config(str(LAPTOP))
    assert (random := fingerprint(config)) != named
    resolve_weights(config.model)
    assert fingerprint(config) == random


@pytest.mark.slow
def test_runs_of_the_train_tool_are_found_by_the_config_they_left(describe, tmp_path):
    experiment = describe(dict(config=f'{TINY}/supervised.py', seeds=[0, 1, 2]))
    for seed, last in ((0, 'iter_8.pth'), (1, 'iter_4.pth')):
        folder = tmp_path / 'old' / f'any{seed}'
        folder.mkdir(parents=True)
        config = deepcopy(experiment.runs[seed].config)
        config.randomness, config.work_dir = dict(seed=seed), str(folder)
        config.resume, config.load_from = True, str(folder / 'iter_4.pth')
        leave(config, folder / 'supervised.py')
        (folder / last).touch()
        (folder / 'last_checkpoint').write_text(last)
    assert find_trained([tmp_path / 'old'], experiment.distinct) == {
        experiment.runs[0].key: tmp_path / 'old' / 'any0'
    }
    with pytest.raises(FileNotFoundError, match='is no folder'):
        find_trained([tmp_path / 'absent'], experiment.distinct)


def test_a_folder_of_another_run_is_not_taken(describe, tmp_path):
    one, two = (
        describe(dict(config=f'{TINY}/supervised.py', options=o)).runs[0] for o in ([], ['train_cfg.max_iters=4'])
    )
    two = type(two)(**{**two.__dict__, 'options': ()})
    assert one.name == two.name and one.hash != two.hash
    write_record(folder_for(tmp_path, one), one)
    assert folder_for(tmp_path, one) == tmp_path / one.name
    assert folder_for(tmp_path, two) == tmp_path / f'{two.name}_{two.hash[:8]}'
    (tmp_path / one.name / 'run.json').write_text('{}')
    with pytest.raises(ValueError, match=r'run\.json is no record of a run'):
        read_record(tmp_path / one.name)


def test_a_log_over_several_sessions_has_each_step_once(tmp_path):
    for name, steps in (('20260101', (1, 2, 3, 4, 5)), ('20260102', (4, 5, 6))):
        file = tmp_path / name / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True)
        file.write_text(''.join(json.dumps(dict(step=step, loss=0.5)) + '\n' for step in steps) + '{"step": 7, "lo')
    assert [json.loads(line)['step'] for line in whole_log(tmp_path)] == [1, 2, 3, 4, 5, 6]


# ------------------------------------------------------------------ running


@pytest.mark.slow
def test_runs_are_trained_and_tested_and_not_again(describe, tools, tmp_path, capsys):
    experiment, settings = describe(), tools.settings()
    run_experiment(experiment, settings)
    assert [call[:3] for call in tools.calls() if call[0] == 'train'] == [
        ['train', '0', False],
        ['train', '1', False],
    ]
    for run in experiment.runs:
        folder = tmp_path / 'results' / run.name
        assert sorted(path.name for path in folder.iterdir()) == [
            'per_image.csv',
            'results.json',
            'run.json',
            'scalars.json',
        ]
        record = json.loads((folder / 'run.json').read_text())
        assert (record['hash'], record['seed'], record['state']) == (run.hash, run.seed, 'done')
        assert str(tmp_path) not in (folder / 'run.json').read_text()
        assert len((folder / 'scalars.json').read_text().splitlines()) == 8
    assert '2 of 2 runs are done' in capsys.readouterr().out
    run_experiment(experiment, tools.settings())
    assert tools.calls() == []
    assert show_status(experiment, tmp_path / 'results', tmp_path / 'work').endswith('2 done')
    # Without the work dirs the results still say that all is done; with another seed or option there is more to do.
    run_experiment(experiment, tools.settings(work_root=tmp_path / 'new'))
    assert tools.calls() == []
    more = describe(dict(config=f'{TINY}/supervised.py', options=['model.decode_head.channels=4'], seeds=0))
    run_experiment(more, tools.settings())
    assert [call[0] for call in tools.calls()] == ['train', 'test']
    assert all(call[3][-2:] == ['--cfg-options', 'model.decode_head.channels=4'] for call in tools.calls())


@pytest.mark.slow
def test_an_interrupted_run_goes_on_from_its_checkpoint(describe, tools, tmp_path):
    experiment = describe()
    with pytest.raises(RunError, match='1 runs failed'):
        run_experiment(experiment, tools.settings({'0': 'stop once'}))
    assert '5 of 8' in show_status(experiment, tmp_path / 'results', tmp_path / 'work')
    run_experiment(experiment, tools.settings({'0': 'stop once'}))
    assert [call[:3] for call in tools.calls()][0] == ['train', '0', True] and len(tools.calls()) == 2
    steps = [
        json.loads(line)['step'] for line in (tmp_path / 'results' / experiment.runs[0].name / 'scalars.json').open()
    ]
    assert steps == list(range(1, 9))


@pytest.mark.slow
def test_a_failing_run_is_told_with_the_end_of_its_log_and_the_others_go_on(describe, tools, tmp_path, capsys):
    experiment = describe(dict(config=f'{TINY}/supervised.py', seeds=[0, 1, 2]))
    with pytest.raises(RunError) as error:
        run_experiment(experiment, tools.settings({'1': 'fail'}))
    message = str(error.value)
    assert 'configs_supervised_seed1: train.py ended with status 3' in message and 'the disk is on fire' in message
    assert 'FAILED' in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / 'results').iterdir()) == [
        'configs_supervised_seed0',
        'configs_supervised_seed2',
    ]
    status = show_status(experiment, tmp_path / 'results', tmp_path / 'work')
    assert status.endswith('2 done, 1 failed') or status.endswith('1 failed, 2 done')
    with pytest.raises(RunError) as error:
        run_experiment(experiment, tools.settings({'1': 'fail'}))
    assert str(error.value).count('the disk is on fire') == 1, 'what the first try said is not shown again'
    run_experiment(experiment, tools.settings())
    assert [call[:2] for call in tools.calls() if call[0] == 'train'] == [['train', '1']]


@pytest.mark.slow
def test_several_runs_at_a_time_each_in_a_slot_of_its_own(describe, tools):
    template = f'{sys.executable} {tools.root}/slot.py {{slot}} {{command}}'
    (tools.root / 'slot.py').write_text(
        'import pathlib, runpy, sys\n'
        "seed = sys.argv[sys.argv.index('--seed') + 1]\n"
        "(pathlib.Path(__file__).parent / f'slot_{seed}').write_text(sys.argv[1])\n"
        'sys.argv = sys.argv[2:]\n'
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    run_experiment(describe(), tools.settings({'0': 'meet 1', '1': 'meet 0'}, jobs=2, command=template))
    assert {(tools.root / f'slot_{seed}').read_text() for seed in '01'} == {'0', '1'}


@pytest.mark.slow
def test_a_signal_stops_the_runs_in_order(describe, tools, tmp_path):
    experiment, settings = describe(), tools.settings({'0': 'wait for a signal'})

    def interrupt():
        for _ in range(2000):
            if (tools.root / 'waiting').exists():
                return os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Stopped, match='stopped by SIGTERM: 0 of 2 runs are done') as stop:
        run_experiment(experiment, settings)
    thread.join()
    assert stop.value.status == 143 and (tools.root / 'signalled').exists()
    assert signal.getsignal(signal.SIGTERM) is before
    run_experiment(experiment, tools.settings())
    assert [call[:3] for call in tools.calls() if call[0] == 'train'] == [['train', '0', True], ['train', '1', False]]


@pytest.mark.slow
def test_a_finished_training_elsewhere_is_only_tested(describe, tools, tmp_path):
    experiment = describe(dict(config=f'{TINY}/supervised.py', seeds=0))
    old = tmp_path / 'old' / 'run'
    old.mkdir(parents=True)
    leave(experiment.runs[0].config, old / 'supervised.py')
    (old / 'iter_8.pth').write_text('whole')
    (old / 'last_checkpoint').write_text('iter_8.pth')
    run_experiment(experiment, tools.settings(reuse=(tmp_path / 'old',)))
    assert [call[:2] for call in tools.calls()] == [['test', str(old / 'iter_8.pth')]]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['results.json', 'per_image.csv', 'scalars.json', 'run.json'])
def test_a_squashed_file_does_not_block_the_grid_and_is_made_anew(describe, tools, tmp_path, monkeypatch, name):
    """From the checkpoint, where it is still there; else by training again."""
    said = []
    monkeypatch.setattr(records, 'print_log', lambda text, **_: said.append(text))
    experiment, results, work = describe(), tmp_path / 'results', tmp_path / 'work'
    run_experiment(experiment, tools.settings())
    damaged = results / experiment.runs[0].name / name
    for root, again in ((work, ['test']), (tmp_path / 'elsewhere', ['train', 'test'])):
        damaged.write_text('{"squa')
        assert show_status(experiment, results, work).endswith('1 without results, 1 done')
        run_experiment(experiment, tools.settings(work_root=root))
        assert [call[0] for call in tools.calls()] == again
        assert str(damaged) in said[-1]
        done = [folder for folder in records.recorded(results).values() if records.scored_sets(folder)]
        assert len(done) == 2, 'both runs'
        if name == 'run.json':
            return  # it stays as it is, and the run has a folder of its own beside it
    assert show_status(experiment, results, work).endswith('2 done')


@pytest.mark.slow
def test_a_run_that_leaves_what_is_no_number_has_failed(describe, tools, tmp_path, monkeypatch):
    monkeypatch.setattr(records, 'print_log', lambda *_, **__: None)
    (tools.root / 'train.py').write_text(TRAIN.replace('loss=1.0', "loss=float('nan')"))
    experiment = describe(dict(config=f'{TINY}/supervised.py', seeds=0))
    with pytest.raises(RunError, match=f'what it left in .*{experiment.runs[0].name} is not sound'):
        run_experiment(experiment, tools.settings())
    assert show_status(experiment, tmp_path / 'results', tmp_path / 'work').endswith('1 failed')


@pytest.mark.slow
def test_a_squashed_record_of_a_run_under_way_does_not_end_the_grid(describe, tools, tmp_path, monkeypatch):
    monkeypatch.setattr(records, 'print_log', lambda *_, **__: None)
    experiment = describe(dict(config=f'{TINY}/supervised.py', seeds=0))
    train = tools.root / 'train.py'
    train.write_text(f"{TRAIN}\n(folder / 'run.json').write_text('{{')\n")
    run_experiment(experiment, tools.settings())
    record = read_record(tmp_path / 'results' / experiment.runs[0].name)
    assert (record['hash'], record['state']) == (experiment.runs[0].hash, 'done')


@pytest.mark.slow
def test_a_set_that_comes_to_hand_later_is_scored(describe, tools, tmp_path, monkeypatch):
    experiment = describe(dict(config=f'{TINY}/supervised.py', seeds=0), test_sets=['synthetic', 'cvc300'])
    run_experiment(experiment, tools.settings())
    more = tmp_path / 'data'
    for folder in ('Synthetic/test', 'CVC-300'):
        (more / folder / 'images').mkdir(parents=True)
    monkeypatch.setenv('MMSEG_ACL_DATA', str(more))
    run_experiment(experiment, tools.settings())
    assert [call[0] for call in tools.calls()] == ['test']
    results = tmp_path / 'results' / experiment.runs[0].name / 'results.json'
    assert set(json.loads(results.read_text())) == {'synthetic', 'cvc300'}
    monkeypatch.setenv('MMSEG_ACL_DATA', str(tmp_path / 'nothing'))
    with pytest.raises(ValueError, match='none of the test sets synthetic, cvc300 is at hand: set MMSEG_ACL_DATA'):
        run_experiment(experiment, tools.settings())


@pytest.mark.slow
def test_a_run_of_another_process_is_left_alone(describe, tools, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, 'in_use', lambda folder: folder.name.endswith('seed0'))
    run_experiment(describe(), tools.settings())
    assert [call[1] for call in tools.calls() if call[0] == 'train'] == ['1']
    assert 'seed0: left out, another process is training it' in capsys.readouterr().out


def test_templates_are_filled_without_a_shell():
    command = ['tools/train.py', 'a b.py', "--x=['y']"]
    fill = lambda template: fill_template(template, command, Path('dir/train.log'), 'run', 3)  # noqa: E731
    assert fill('{python} {command}') == [sys.executable, *command]
    assert fill('torchrun --nproc 4 {command} --launcher pytorch') == [
        'torchrun', '--nproc', '4', *command, '--launcher', 'pytorch',
    ]  # fmt: skip
    words = fill('sbatch --wait -J {name} -o {log} --wrap "gpu={slot} {python} {command}"')
    assert words[:6] == ['sbatch', '--wait', '-J', 'run', '-o', 'dir/train.log']
    shell = words[-1].replace(sys.executable, 'echo')
    done = subprocess.run(['bash', '-c', shell], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ' '.join(command)
    for template, message in (
        ('python train.py', r'lacks \{command\}'),
        ('{python} {command} {gpu}', r'has \{gpu\}; there are \{command\}, \{python\}'),
        ('"{command}', 'cannot be split'),
    ):
        with pytest.raises(ValueError, match=message):
            fill(template)


@pytest.mark.slow
def test_a_template_may_write_the_log_itself(describe, tools, tmp_path):
    template = 'bash -c "{python} {command} > {log} 2>&1"'
    with pytest.raises(RunError, match='the disk is on fire'):
        run_experiment(describe(), tools.settings({'1': 'fail'}, command=template, test_command=template))
    assert (tmp_path / 'work' / 'configs_supervised_seed1' / 'launch.log').is_file()
    assert (tmp_path / 'results' / 'configs_supervised_seed0').is_dir()


@pytest.mark.slow
def test_a_template_that_does_not_wait_or_start_is_told(describe, tools):
    with pytest.raises(RunError, match='left no iter_8.pth .a template has to wait'):
        run_experiment(describe(), tools.settings(command='true {command}'))
    with pytest.raises(RunError, match='could not be started: .*no-such-launcher'):
        run_experiment(describe(), tools.settings(command='no-such-launcher {command}'))


def test_settings_that_cannot_be_are_refused(tools, tmp_path):
    with pytest.raises(ValueError, match='0 runs at a time'):
        tools.settings(jobs=0)
    with pytest.raises(ValueError, match='give two'):
        tools.settings(results=tmp_path / 'work')


def test_the_expected_end_follows_from_the_iterations_done(describe, tools, monkeypatch):
    loop = runner._Runner(describe(), tools.settings())
    loop._plan()
    assert loop._expected_end() == 'end not known yet'
    loop.waiting.popleft()
    loop.iterations_done = 8
    monkeypatch.setattr(runner.time, 'monotonic', lambda: loop.began + 3600.0)
    assert loop._expected_end().endswith('in 1 h 0 min'), 'eight iterations in an hour, and eight are left'


# ------------------------------------------------------------------ tables


@pytest.fixture
def filled(describe, tmp_path):
    """An experiment with results made by hand: two seeds of two methods, none of the third."""
    columns = [
        dict(title='Kvasir 1/4', test='kvasir', partition='quarter', paper=2),
        dict(title='ETIS', test='etis', partition='quarter'),
    ]
    experiment = describe(
        dict(config=f'{TINY}/{{method}}.py', method=['supervised', 'mean_teacher', 'aclnet'], partition='quarter'),
        seeds=[0, 1],
        tables=[dict(name='mine', title='By hand & more', columns=columns)],
    )
    dice = {
        ('SupOnly', 0): [60, 70, 80, 50, 40, 30], ('SupOnly', 1): [62, 70, 84, 50, 44, 32],
        ('ACL-Net', 0): [70, 81, 92, 63, 54, 45], ('ACL-Net', 1): [72, 83, 94, 65, 56, 47],
    }  # fmt: skip
    for run in experiment.runs:
        if run.label == 'Mean Teacher':
            continue
        folder = tmp_path / 'results' / run.name
        write_record(folder, run, state='done')
        scores, network = dice[run.label, run.seed], 'student' if run.label == 'SupOnly' else 'teacher'
        results = {network: dict(image=dict(mDice=sum(scores) / 6, mIoU=sum(scores) / 6 - 10))}
        if network == 'teacher':
            results = {'student': dict(image=dict(mDice=1.0, mIoU=1.0)), **results}
        (folder / 'results.json').write_text(json.dumps(dict(kvasir=results)))
        lines = [['set', 'network', 'image', 'dice', 'iou']]
        lines += [
            ['kvasir', name, f'i{n}', s if name == network else 1, 0]
            for name in results
            for n, s in enumerate(scores)
        ]
        with (folder / 'per_image.csv').open('w', newline='') as file:
            csv.writer(file).writerows(lines)
    return experiment


@pytest.mark.slow
def test_tables_have_means_deviations_and_the_papers_numbers(filled, tmp_path):
    files = write_tables(filled, tmp_path / 'results', tmp_path / 'out')
    assert [file.name for file in files] == ['mine.md', 'mine.tex', 'mine.csv']
    text = files[0].read_text()
    # SupOnly: 55 and 57, mean 56, deviation sqrt(2). ACL-Net: 67.5 and 69.5.
    assert '| method | Kvasir 1/4 | paper | ETIS |' in text
    assert '| SupOnly | 56.00 ± 1.41 / 46.00 ± 1.41 | 80.63 / 71.44 | set not at hand |' in text
    assert '| Mean Teacher | not run | 78.85 / 69.06 | not run |' in text
    assert '| ACL-Net | 68.50 ± 1.41 / 58.50 ± 1.41 | 85.89 / 78.51 | set not at hand |' in text
    # Differences of the seeds' means: 10, 12, 11, 14, 13, 15; all positive: p = 2 / 2^6.
    assert '| Kvasir 1/4 | SupOnly | 6 | 2 / 2 | +12.50 |' in text and '| 0.031 | 0.031 |' in text
    latex = files[1].read_text()
    assert 'By hand & more' in latex.splitlines()[0] and latex.startswith('%')
    assert 'SupOnly & 56.00 $\\pm$ 1.41 / 46.00 $\\pm$ 1.41 & 80.63 / 71.44 & -- \\\\' in latex
    assert {
        line.count('&') for line in latex.splitlines() if line.endswith('\\\\') and 'multicolumn' not in line
    } == {3}
    with files[2].open() as file:
        rows = {(row['method'], row['test_set'], row['metric']): row for row in csv.DictReader(file)}
    ours = rows['ACL-Net', 'kvasir', 'dice']
    assert (ours['runs'], ours['planned'], ours['network'], float(ours['mean'])) == ('2', '2', 'teacher', 68.5)
    assert float(ours['std']) == pytest.approx(2**0.5) and ours['paper'] == '85.89'
    assert rows['Mean Teacher', 'kvasir', 'iou']['missing'] == 'not run'
    assert float(rows['SupOnly', 'kvasir', 'dice']['difference']) == pytest.approx(12.5)


@pytest.mark.slow
def test_two_tables_of_one_name_are_refused_before_either_is_written(filled, tmp_path):
    twice = replace(filled, tables=[*filled.tables, dict(filled.tables[0], name='Mine')])
    with pytest.raises(ValueError, match="two tables have the name 'mine': give each a name of its own"):
        write_tables(twice, tmp_path / 'results', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_missing_seeds_and_the_chosen_network_show(filled, tmp_path):
    (tmp_path / 'results' / 'configs_aclnet_seed1' / 'run.json').unlink()
    write_tables(filled, tmp_path / 'results', tmp_path / 'out', network='student')
    assert '| ACL-Net | 1.00 / 1.00 (1 of 2) |' in (tmp_path / 'out' / 'mine.md').read_text()


@pytest.mark.slow
def test_a_column_of_several_sets_counts_their_images_as_one_set(filled, tmp_path):
    """Six images of Kvasir and two of CVC-300, which one of the runs was not scored on."""
    for run in filled.runs:
        folder = tmp_path / 'results' / run.name
        if run.label != 'ACL-Net' and (run.label, run.seed) != ('SupOnly', 1):
            continue
        results, network = json.loads((folder / 'results.json').read_text()), 'student'
        if run.label == 'ACL-Net':
            network = 'teacher'
        results['cvc300'] = {network: dict(image=dict(mDice=10.0, mIoU=5.0))}
        (folder / 'results.json').write_text(json.dumps(results))
        with (folder / 'per_image.csv').open('a', newline='') as file:
            csv.writer(file).writerows([['cvc300', network, f'i{n}', 10 * n + 5, 0] for n in (0, 1)])
    columns = [dict(test=['kvasir', 'cvc300'], partition='quarter')]
    table = fill_table(filled, dict(name='pooled', columns=columns), tmp_path / 'results')
    assert table.columns[0].title == 'kvasir + cvc300'
    ours, sup = table.cells['ACL-Net', 0], table.cells['SupOnly', 0]
    assert ours.dice == pytest.approx([(67.5 * 6 + 20) / 8, (69.5 * 6 + 20) / 8])
    assert ours.iou == pytest.approx([(57.5 * 6 + 10) / 8, (59.5 * 6 + 10) / 8])
    assert sup.dice == pytest.approx([(57 * 6 + 20) / 8]), 'of the other seed there is only one of the two sets'
    (found,) = table.comparisons[0]
    assert found.images == 8
    # Against the second seed of SupOnly alone: 9, 12, 9, 14, 11, 14, and nothing on CVC-300.
    assert found.difference == pytest.approx((9 + 12 + 9 + 14 + 11 + 14) / 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(columns=[dict(test=['kvasir', 'kvasir'])]), 'or a list of different ones'),
        (dict(columns=[]), 'it needs name and columns'),
        (dict(name='../mine'), 'the name becomes that of a file'),
        (dict(name='/tmp/mine'), 'the name becomes that of a file'),
        (dict(name='..'), 'the name becomes that of a file'),
        (dict(name='a\\b'), 'the name becomes that of a file'),
        (dict(name='C:mine'), 'the name becomes that of a file'),
        (dict(name='mine\n'), 'the name becomes that of a file'),
        (dict(name=''), 'the name becomes that of a file'),
        (dict(name=None), 'the name becomes that of a file'),
        (dict(name='m' * 300), 'the name becomes that of a file'),
        (dict(colums=[]), 'allowed are name, title, columns'),
        (dict(columns=[dict(test='nowhere')]), 'test must be one of kvasir'),
        (dict(columns=[dict(test='kvasir', partition='half')]), 'no run of the description has the axes'),
        (dict(compare='U2PL'), "compare is 'U2PL'; there are the rows SupOnly, Mean Teacher, ACL-Net"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(change, message, filled, tmp_path):
    with pytest.raises(ValueError, match=message):
        fill_table(filled, {**filled.tables[0], **change}, tmp_path)


@pytest.mark.slow
def test_two_runs_in_one_place_are_an_error(describe, tmp_path):
    entry = dict(config=f'{TINY}/{{method}}.py', method=['supervised', 'aclnet'], label='same')
    experiment = describe(entry, tables=[dict(name='t', columns=[dict(test='synthetic')])])
    with pytest.raises(ValueError, match="both stand in row 'same', column 'synthetic', seed 0"):
        write_tables(experiment, tmp_path, tmp_path)
    with pytest.raises(ValueError, match='has no tables'):
        write_tables(describe(), tmp_path, tmp_path)


def test_holm_and_the_comparison_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
    images = [f'i{n}' for n in range(20)]
    reference = dict(zip(images, map(float, range(20)), strict=True))
    worse = {image: value - 1 - index % 2 for index, (image, value) in enumerate(reference.items())}
    same, other = compare([reference], dict(same=[dict(reference)], worse=[worse]))
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert other.difference == 1.5 and 1 < other.low < 1.5 < other.high < 2 and other.p < 0.001
    assert other.p_holm == pytest.approx(2 * other.p) and other.seeds == (1, 1)
    with pytest.raises(ValueError, match='worse was scored on other images: 1 are in one set alone, such as i3'):
        compare([reference], dict(worse=[worse, {image: 1.0 for image in images if image != 'i3'}]))


@pytest.mark.slow
def test_intervals_cover_images_and_seeds_as_a_slow_bootstrap_does():
    rng = np.random.default_rng(3)
    images = [f'i{n}' for n in range(30)]
    easy = rng.normal(80, 8, 30)
    ours = [dict(zip(images, easy + shift + rng.normal(0, 2, 30), strict=True)) for shift in (-1, 2, 5)]
    theirs = [dict(zip(images, easy + shift + rng.normal(0, 2, 30), strict=True)) for shift in (-4, 0)]
    (found,) = compare(ours, dict(peer=theirs))
    assert found.seeds == (3, 2)

    draw, means = random.Random(0), []
    for _ in range(4000):
        chosen = [draw.choice(images) for _ in images]
        first, second = ([draw.choice(runs) for _ in runs] for runs in (ours, theirs))
        means.append(mean(mean(run[image] for run in first) - mean(run[image] for run in second) for image in chosen))
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.35) and found.high == pytest.approx(high, abs=0.35)
    # Over images alone it would be far narrower.
    (alone,) = compare([average(ours)], dict(peer=[average(theirs)]))
    assert alone.difference == pytest.approx(found.difference)
    assert found.high - found.low > 3 * (alone.high - alone.low)


def average(runs: list[dict[str, float]]) -> dict[str, float]:
    return {image: mean(run[image] for run in runs) for image in runs[0]}


# ------------------------------------------------------------------ with the tools themselves


@pytest.mark.trained
@pytest.mark.slow
def test_a_small_grid_from_the_command_line(synthetic_root, tmp_path, monkeypatch, capsys):
    description = dict(
        runs=[dict(config=f'{TINY}/{{method}}.py', method='mean_teacher', seeds=3)],
        test_sets=['synthetic', 'own'],  # the config's own ones are the same images
        tables=[dict(name='tiny', columns=[dict(title=test, test=test) for test in ('synthetic', 'own')])],
    )
    (tmp_path / 'grid.yaml').write_text(yaml.safe_dump(description))
    monkeypatch.chdir(tmp_path)
    for name, value in dict(MMSEG_ACL_DATA=synthetic_root, MMSEG_ACL_WEIGHTS='none', PYTHONPATH=ROOT).items():
        monkeypatch.setenv(name, str(value))

    def call(action: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, 'argv', ['experiments.py', action, 'grid.yaml', *arguments])
        runpy.run_path(str(ROOT / 'tools' / 'experiments.py'), run_name='__main__')
        return capsys.readouterr().out

    assert '1 of 1 runs are done' in call('run', '--jobs', '2')
    assert '1 done' in call('status') and 'tiny.md' in call('tables')
    results = tmp_path / 'results' / 'grid'
    found = json.loads((results / 'configs_mean_teacher_seed3' / 'results.json').read_text())
    scores = found['synthetic']['teacher']
    assert found['own'] == found['synthetic']
    cell = ' / '.join(f'{scores["image"][name]:.2f}' for name in ('mDice', 'mIoU'))
    assert f'| Mean Teacher | {cell} | {cell} |' in (results / 'tiny.md').read_text()
    # The folder that training left is found by its config, too; the scores of its checkpoint are the same.
    again = call('run', '--results', 'other', '--work-dir', 'elsewhere', '--reuse', 'work_dirs')
    assert 'train.py' not in again and again.count('test.py started') == 1
    found = json.loads((tmp_path / 'other' / 'configs_mean_teacher_seed3' / 'results.json').read_text())
    assert found['synthetic']['teacher'] == scores
