"""Grids whose runs are jobs of Slurm: with stand-ins for its programs, and on a cluster of one node."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from grid_tools import TINY, GridTools
from slurm_cluster import SlurmCluster, missing_programs
from stand_in_slurm import write_programs

from mmseg_acl.engine import load_config
from mmseg_acl.errors import RunError, Stopped
from mmseg_acl.experiments import runner, slurm
from mmseg_acl.experiments.commands import Printed
from mmseg_acl.experiments.grid import Run
from mmseg_acl.experiments.records import read_record, write_record
from mmseg_acl.experiments.runner import Settings, run_experiment, show_status
from mmseg_acl.experiments.slurm import Memory, Queue, SlurmError, SlurmJob, submits

ROOT = Path(__file__).parents[1]
TEMPLATE = 'sbatch -J {name} -o {log} --open-mode=append --wrap "exec {python} {command}"'
PATIENCE = 120.0  # seconds for what takes one


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """Folder of the stand-ins, which are found first."""
    folder = tmp_path / 'cluster'
    write_programs(folder)
    monkeypatch.setenv('PATH', str(folder), prepend=os.pathsep)
    return folder


@pytest.fixture
def grid(tools) -> Callable[..., Settings]:
    """Settings of a grid on the cluster, with what its seeds are to do."""

    def settings(todo: dict | None = None, **changes) -> Settings:
        usual = dict(command=TEMPLATE, test_command=TEMPLATE, ask_every=0.02, jobs=2)
        return tools.settings(todo, **{**usual, **changes})

    return settings


def wait_for(ready: Callable[[], object]) -> None:
    """Return once something holds."""
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end, 'it did not come about'
        time.sleep(0.02)


def when(ready: Callable[[], object], then: Callable[[], object]) -> threading.Thread:
    """Do something once something else holds, beside the test."""

    def act() -> None:
        wait_for(ready)
        then()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def on_saying(monkeypatch: pytest.MonkeyPatch, text: str, then: Callable[[], object]) -> list[str]:
    """Do something when a grid says a text; what it says."""
    said = []

    def say(line: str) -> None:
        said.append(line)
        if text in line:
            then()

    monkeypatch.setattr(runner, '_say', say)
    return said


def states(cluster: Path) -> list[str]:
    """How the jobs of the stand-ins stand, in their order."""
    return [(cluster / 'jobs' / str(n + 1) / 'state').read_text().strip() for n in range(len(jobs(cluster)))]


def jobs(cluster: Path) -> list[Path]:
    return list((cluster / 'jobs').iterdir())


def trained(tools: GridTools) -> list[list]:
    """Seeds of the trainings that were called, and whether they went on from a checkpoint."""
    return [call[1:3] for call in tools.calls() if call[0] == 'train']


# ------------------------------------------------------------------ with stand-ins


@pytest.mark.slow
@pytest.mark.parametrize('template', [TEMPLATE, TEMPLATE.replace('sbatch', 'sbatch --wait')])
def test_runs_are_jobs_and_nothing_remembers_them_at_the_end(template, describe, grid, tools, tmp_path, cluster):
    run_experiment(describe(), grid(command=template, test_command=template))
    assert states(cluster) == ['COMPLETED'] * 4 and sorted(trained(tools)) == [['0', False], ['1', False]]
    assert not list(tmp_path.glob('work/*/job.json'))
    (record,) = {read_record(folder)['seconds'] for folder in (tmp_path / 'results').iterdir()}
    assert record == 7, 'the time that Slurm says, not that since the submission'


@pytest.mark.slow
def test_ctrl_c_cancels_the_jobs_which_save_and_go_on_at_the_next_call(describe, grid, tools, tmp_path, cluster):
    experiment = describe()
    interrupt = when((tools.root / 'waiting').exists, lambda: os.kill(os.getpid(), 15))
    with pytest.raises(Stopped, match='0 of 2 runs are done'):
        run_experiment(experiment, grid({'0': 'wait for a signal'}, jobs=1))
    interrupt.join()
    assert states(cluster) == ['CANCELLED'] and (tools.root / 'signalled').exists()
    assert show_status(experiment, tmp_path / 'results', tmp_path / 'work').endswith('1 interrupted, 1 not begun')
    run_experiment(experiment, grid())
    assert sorted(trained(tools)) == [['0', True], ['1', False]]


@pytest.mark.slow
def test_ctrl_c_takes_back_what_is_in_the_queue(describe, grid, tools, cluster):
    (cluster / 'hold').touch()
    interrupt = when(lambda: len(jobs(cluster)) == 2, lambda: os.kill(os.getpid(), 15))
    with pytest.raises(Stopped):
        run_experiment(describe(), grid(ask_every=0.5))
    interrupt.join()
    assert states(cluster) == ['CANCELLED'] * 2 and tools.calls() == []


@pytest.mark.slow
def test_jobs_that_cannot_be_cancelled_are_waited_for_at_the_next_call(
    describe, grid, tools, tmp_path, cluster, monkeypatch
):
    experiment = describe()
    said = on_saying(monkeypatch, 'stopping 1 commands', (cluster / 'down').touch)
    interrupt = when(lambda: (tools.root / 'here_0').exists(), lambda: os.kill(os.getpid(), 15))
    with pytest.raises(Stopped):
        run_experiment(experiment, grid({'0': 'meet go'}, jobs=1))
    interrupt.join()
    assert 'job 1 of Slurm is not cancelled, the next call asks for it: scancel ended with status 1' in said[-1]
    with pytest.raises(SlurmError, match=r'job 1 of Slurm may still be at work in .*seed0, and squeue ended with'):
        run_experiment(experiment, grid({'0': 'meet go'}))
    assert show_status(experiment, tmp_path / 'results', tmp_path / 'work').endswith('1 unknown, 1 not begun')
    (cluster / 'down').unlink()
    assert show_status(experiment, tmp_path / 'results', tmp_path / 'work').endswith('1 running, 1 not begun')
    on_saying(monkeypatch, 'goes on as job 1', (tools.root / 'here_go').touch)
    run_experiment(experiment, grid({'0': 'meet go'}))
    assert trained(tools) == [['1', False]] and states(cluster) == ['COMPLETED'] * 4


@pytest.mark.slow
def test_a_grid_that_was_killed_finds_its_jobs_again(describe, grid, tools, tmp_path, cluster, monkeypatch):
    """Also where it had no time to note the job's number."""
    experiment, settings = describe(), grid({'0': 'meet go', '1': 'meet go'})
    first = multiprocessing.get_context('fork').Process(target=run_experiment, args=(experiment, settings))
    first.start()
    memories = [tmp_path / 'work' / run.name / 'job.json' for run in experiment.runs]
    wait_for(lambda: all(file.exists() and json.loads(file.read_text())['number'] for file in memories))
    wait_for(lambda: len(tools.calls()) == 2)
    on_saying(monkeypatch, '', lambda: None)
    with pytest.raises(slurm.BusyError):
        SlurmJob.recall(memories[0].parent, Queue(0))
    first.kill()
    first.join()
    memory = json.loads(memories[0].read_text())
    memories[0].write_text(json.dumps(dict(memory, number='')))
    both = on_saying(monkeypatch, '2 under way, 0 to do', (tools.root / 'here_go').touch)
    run_experiment(experiment, settings)
    assert states(cluster) == ['COMPLETED'] * 4 and len(trained(tools)) == 2
    assert f'{experiment.runs[0].name}: train.py goes on as job {memory["number"]} of Slurm' in both[0]


@pytest.mark.slow
def test_what_another_process_waits_for_is_left_out(describe, grid, tools, tmp_path, cluster, capsys):
    experiment = describe()
    folder = tmp_path / 'work' / experiment.runs[0].name
    write_record(folder, experiment.runs[0], state='started')
    job = SlurmJob.submit(['sbatch', '--wrap', 'exec sleep 600'], folder, 'train', folder / 'launch.log', Queue(0))
    run_experiment(experiment, grid())
    assert 'seed0: left out, another process waits for its job' in capsys.readouterr().out
    assert [seed for seed, _ in trained(tools)] == ['1']
    job.stop()
    wait_for(job.ended)


@pytest.mark.slow
def test_a_job_that_somebody_cancels_has_failed_and_is_tried_again(describe, grid, tools, cluster):
    experiment = describe()
    cancel = when((tools.root / 'waiting').exists, lambda: subprocess.run([cluster / 'scancel', '1'], check=True))
    with pytest.raises(RunError, match='seed0: train.py ended as job 1 of Slurm: CANCELLED'):
        run_experiment(experiment, grid({'0': 'wait for a signal'}, jobs=1))
    cancel.join()
    run_experiment(experiment, grid())
    assert trained(tools) == [['0', True]]


@pytest.mark.slow
def test_what_waits_in_the_queue_is_told_with_its_reason(describe, grid, tmp_path, cluster, monkeypatch):
    experiment, seen = describe(), []

    def release() -> None:
        seen.append(show_status(experiment, tmp_path / 'results', tmp_path / 'work'))
        (cluster / 'hold').unlink(missing_ok=True)

    (cluster / 'hold').touch()
    said = on_saying(monkeypatch, 'seed0 0/8, job 1 pending (Resources)', release)
    run_experiment(experiment, grid(report_every=0.1, jobs=1))
    assert '2 of 2 runs are done' in said[-1] and '1 pending, 1 not begun' in seen[0]


@pytest.mark.slow
def test_a_submission_that_is_refused_is_told_by_what_it_says(describe, grid, tools, tmp_path, cluster):
    """And not by the log of an earlier try."""
    experiment = describe(dict(config=f'{TINY}/supervised.py', seeds=0))
    with pytest.raises(
        RunError, match='ended as job 1 of Slurm: FAILED; the end of .*train.log(.*\n)+.*disk is on fire'
    ):
        run_experiment(experiment, grid({'0': 'fail'}))
    (cluster / 'refuse').touch()
    with pytest.raises(RunError, match='train.py ended with status 1; the end of .*launch.log') as error:
        run_experiment(experiment, grid())
    assert 'invalid partition specified' in str(error.value) and 'fire' not in str(error.value)
    assert not list(tmp_path.glob('work/*/job.json'))
    with pytest.raises(RunError, match='could not be started: .*nowhere/sbatch'):
        run_experiment(experiment, grid(command='nowhere/sbatch {command}'))
    assert not list(tmp_path.glob('work/*/job.json'))


def test_a_job_is_followed_through_the_queue_and_its_time_there_does_not_count(tmp_path, monkeypatch):
    """Submitted, run, requeued, run again and purged, with an hour in which the controller does not answer."""
    told: list[str] = []
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    (tmp_path / 'squeue').write_text(f'#!/bin/sh\ncat {tmp_path}/answer\n')
    (tmp_path / 'squeue').chmod(0o755)
    submission = [sys.executable, '-c', 'print("sbatch: here is news\\nSubmitted batch job 12")']
    job = SlurmJob.submit(submission, tmp_path, 'train', tmp_path / 'launch.log', queue := Queue(0.0))
    assert job.waits_for == 'being submitted'
    for answer, waits_for, seconds in (
        ('11|RUNNING|9:00|None\n12|PENDING|0:00|ReqNodeNotAvail, Reserved', 'job 12 pending (ReqNodeNotAvail, ', 0),
        ('12|RUNNING|40:00|None', '', 2400),
        ('12|COMPLETING|1-02:03:04|None', 'job 12 completing', 93784),
        ('12|PENDING|0:00|BeginTime', 'job 12 pending (BeginTime)', 93784),
        ('12|RUNNING|1:00:06|None', '', 93784 + 3606),
        (None, 'job 12, of which nothing is known now (squeue ended with status 1: ', 93784 + 3606),
        ('News of today', 'job 12, of which nothing is known now (squeue said ', 93784 + 3606),
        ('12|SUSPENDED|1:00:09|None', 'job 12 suspended', 93784 + 3609),
    ):
        (tmp_path / 'answer').unlink(missing_ok=True)
        if answer:
            (tmp_path / 'answer').write_text(f'{answer}\n')
        wait_for(lambda: job.ended() or job.number)
        assert not job.ended() and job.seconds == seconds and job.waits_for.startswith(waits_for), answer
        told.append(Memory.read(tmp_path).number)
    (tmp_path / 'answer').write_text('')
    assert job.ended() and job.fault == '' and job.seconds == 93784 + 3609
    assert set(told) == {'12'} and Memory.read(tmp_path) is None and not queue.fault


def test_slurm_is_not_asked_more_often_than_it_should_be(cluster, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(slurm, '_call', lambda *words: calls.append(words) or '7|RUNNING|0:01|None\n')
    queue = Queue(1000.0)
    for _ in range(3):
        queue.look()
    assert len(calls) == 1 and queue['7'].state == 'RUNNING' and queue['8'] is None
    queue.look(since=time.monotonic())
    assert len(calls) == 2, 'of a job that has come since, the last answer says nothing'


@pytest.mark.parametrize('text', ['{', '[]', '{"number": 3}', '{"number": "3", "stage": "train", "output": "x"}'])
def test_a_damaged_memory_is_named(text, describe, grid, tmp_path, cluster):
    experiment = describe()
    folder = tmp_path / 'work' / experiment.runs[0].name
    write_record(folder, experiment.runs[0], state='started')
    (folder / 'job.json').write_text(text)
    with pytest.raises(ValueError, match=r'job\.json is '):
        run_experiment(experiment, grid())


def test_templates_of_slurm_are_known_by_their_program():
    assert submits(TEMPLATE) and submits('env A=1 /opt/slurm/bin/sbatch --wait x.sh {command}')
    assert not submits('{python} {command}') and not submits('srun --mpi=none {python} {command}')


# ------------------------------------------------------------------ on a cluster of one node

# A hundred iterations, a checkpoint at each tenth and, as the real one, on SIGTERM.
LONG_TRAIN = """
import json, pathlib, signal, sys, time
args = sys.argv[1:]
folder = pathlib.Path(args[args.index('--work-dir') + 1])
first = max((int(path.stem[5:]) for path in folder.glob('iter_*.pth')), default=0)
if first and '--auto-resume' not in args:
    sys.exit('the work dir holds checkpoints of an earlier run')
print('begins after', first, flush=True)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
log = folder / str(time.time_ns()) / 'vis_data' / 'scalars.json'
log.parent.mkdir(parents=True)
for step in range(first + 1, 101):
    time.sleep(0.1)
    with log.open('a') as lines:
        lines.write(json.dumps(dict(step=step, loss=1.0)) + '\\n')
    if step % 10 == 0 or asked:
        (folder / f'iter_{step}.pth').write_text('whole')
    if asked:
        print('saved at', step, flush=True)
        sys.exit(143)
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_programs()), reason=f'Slurm is not installed: no {", ".join(missing_programs())}')
def test_a_grid_on_a_cluster(describe, tools, tmp_path, monkeypatch):
    """A drained node, scontrol requeue, scancel and Ctrl-C: each run is trained once, and goes on where it was."""
    (tools.root / 'train.py').write_text(LONG_TRAIN)
    entry = dict(config=f'{TINY}/supervised.py', seeds=[0, 1], options=['train_cfg.max_iters=100'])
    experiment = describe(entry)
    folders = [tmp_path / 'work' / run.name for run in experiment.runs]
    settings = tools.settings(command=TEMPLATE, test_command=TEMPLATE, jobs=2, ask_every=0.5, report_every=0.5)

    def saved(at_least: int) -> bool:
        found = [[int(path.stem[5:]) for path in folder.glob('iter_*.pth')] for folder in folders]
        return min(max(numbers, default=0) for numbers in found) >= at_least

    def begun(folder: Path) -> list[int]:
        return [int(number) for number in re.findall(r'begins after (\d+)', (folder / 'train.log').read_text())]

    with SlurmCluster() as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        # A drained node: the jobs wait, which is told with the reason and is no time of training.
        cluster.call('scontrol', 'update', f'nodename={cluster.node}', 'state=drain', 'reason=test')
        resumed = []

        def resume() -> None:
            if not resumed:
                resumed.append(cluster.call('scontrol', 'update', f'nodename={cluster.node}', 'state=resume'))

        said = on_saying(monkeypatch, 'job 2 pending (', resume)
        # Ctrl-C: the jobs are cancelled, and save before they end.
        interrupt = when(lambda: saved(10), lambda: os.kill(os.getpid(), 15))
        with pytest.raises(Stopped):
            run_experiment(experiment, settings)
        interrupt.join()
        assert resumed and any('0/100, job 1 pending (' in line for line in said)
        assert cluster.call('squeue', '--noheader') == '' and not list(tmp_path.glob('work/*/job.json'))
        for folder in folders:
            assert begun(folder) == [0] and 'saved at ' in (folder / 'train.log').read_text()

        # The next call: one job is requeued, the other is cancelled by somebody.
        def disturb() -> None:
            found = cluster.call('squeue', '--noheader', '--format=%j %A').splitlines()
            numbers = dict(line.split() for line in found)
            cluster.call('scontrol', 'requeue', numbers[experiment.runs[0].name])
            cluster.call('scancel', numbers[experiment.runs[1].name])

        disturbance = when(lambda: saved(40), disturb)
        with pytest.raises(RunError, match='seed1: train.py ended as job 4 of Slurm: CANCELLED'):
            run_experiment(experiment, settings)
        disturbance.join()
        assert cluster.call('squeue', '--noheader', '--states=all', '--format=%T', '--jobs=3') == 'COMPLETED'
        first, second, third = begun(folders[0])
        assert first == 0 < second < third, 'begun, after Ctrl-C, after the requeue'

        # What was cancelled goes on as well, and its time counts.
        run_experiment(experiment, settings)
        assert '2 of 2 runs are done' in said[-1]
        for run in experiment.runs:
            results = tmp_path / 'results' / run.name
            steps = [json.loads(line)['step'] for line in (results / 'scalars.json').read_text().splitlines()]
            assert steps == list(range(1, 101)), 'each iteration once'
            assert 5 <= read_record(results)['seconds'] < 120


# ------------------------------------------------------------------ on this machine, as on a cluster


@pytest.mark.slow
def test_auto_resume_goes_on_where_there_is_a_checkpoint_and_else_starts(tmp_path):
    config = str(TINY / 'supervised.py')
    options = dict(load_from='start.pth')
    begun = load_config(config, str(tmp_path), options, resume='auto')
    assert not begun.get('resume') and begun.load_from == 'start.pth', 'as without it'
    (tmp_path / 'best_teacher_iter_4.pth').touch()
    assert not load_config(config, str(tmp_path), options, resume='auto').get('resume'), 'no run goes on from these'
    (tmp_path / 'iter_4.pth').touch()
    found = load_config(config, str(tmp_path), options, resume='auto')
    assert found.resume and found.load_from is None, 'as with --resume'


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['train', 'test'])
def test_what_is_complete_counts_whatever_the_command_said(stage, describe, tools, tmp_path, capsys):
    experiment = describe()
    with (tools.root / f'{stage}.py').open('a') as file:
        file.write("\nsys.exit('a quarrel at the end')\n")
    run_experiment(experiment, tools.settings())
    said = capsys.readouterr().out
    assert '2 of 2 runs are done' in said
    assert f'seed0: {stage}.py ended with status 1, but has left all that it was to' in said


@pytest.mark.slow
def test_scores_of_an_earlier_test_do_not_count_for_one_that_failed(describe, tools, tmp_path):
    experiment = describe()
    run_experiment(experiment, tools.settings())
    for file in tmp_path.glob('results/*/results.json'):
        file.unlink()
    (tools.root / 'test.py').write_text("raise SystemExit('no')")
    with pytest.raises(RunError, match='2 runs failed'):
        run_experiment(experiment, tools.settings())


def test_the_end_of_a_log_is_what_was_added_since(tmp_path):
    """By whichever of several files it was; where a file was written over, all of it."""
    log = tmp_path / 'train.log'
    nothing = Printed.from_now(log)
    log.write_text('first try, which said much\n')
    assert nothing.read() == Printed(log).read() == 'first try, which said much\n'
    later = Printed.from_now(log)
    assert later.read() == ''
    with log.open('a') as file:
        file.write('second try\n')
    assert later.read() == 'second try\n'
    for text in ('over\n', 'written over by a log that is longer than the first one was\n'):
        log.write_text(text)
        assert later.read() == text


@pytest.mark.slow
def test_the_time_of_a_training_that_was_stopped_counts(describe, tools, tmp_path):
    interrupt = when((tools.root / 'waiting').exists, lambda: (time.sleep(1), os.kill(os.getpid(), 15)))
    run: Run = (experiment := describe()).runs[0]
    with pytest.raises(Stopped):
        run_experiment(experiment, tools.settings({'0': 'wait for a signal'}))
    interrupt.join()
    assert read_record(tmp_path / 'work' / run.name)['seconds'] >= 1
