"""A full disk, few open files, growing memory, a killed loader process, and what is left of processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from memory_use import malloc_in_use, measure, slope
from mmengine.hooks import Hook
from steps import half_size
from tool_process import ROOT, ToolProcess, run_tool

from mmseg_acl.engine import build_runner, load_config, read_checkpoint, train, user_errors
from mmseg_acl.engine.hooks import StopSignalHook
from mmseg_acl.engine.start import open_files
from mmseg_acl.engine.start.resume import last_whole_checkpoint
from mmseg_acl.errors import RunError

OPTIONS = {'train_cfg.val_begin': 99, 'default_hooks.checkpoint.interval': 2}
SIDE = 20 * 2**20


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 20 MB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    done = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', f'size={SIDE}', 'tmpfs', str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f'no file system of its own can be mounted: {done.stderr.strip()}')
    yield folder
    subprocess.run(['umount', '--lazy', str(folder)], check=True)


def fill(folder: Path, left: int = 0) -> None:
    """Leave so many bytes of a file system."""
    free = os.statvfs(folder)
    with (folder / 'filler').open('wb') as file:
        file.write(bytes(max(free.f_bavail * free.f_frsize - left, 0)))


def start(
    work_dir: Path,
    data: Path,
    *options: str,
    before: Callable[[], None] | None = None,
    method: str = 'mean_teacher',
) -> ToolProcess:
    config = ROOT / 'tests' / 'configs' / f'{method}.py'
    settings = [f'{key}={value}' for key, value in OPTIONS.items()]
    return ToolProcess(
        'train.py',
        config,
        '--work-dir',
        work_dir,
        '--cfg-options',
        *settings,
        *options,
        data=data,
        before=before,
    )


def run_of(folder: Path, data: Path) -> tuple[Path, Path]:
    """Config and checkpoint of a short run."""
    done = start(folder, data, 'train_cfg.max_iters=2').wait()
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / 'mean_teacher.py', folder / 'iter_2.pth'


@pytest.mark.trained
@pytest.mark.slow
def test_a_disk_that_is_full_at_a_checkpoint(small_disk, synthetic_root, monkeypatch, capsys):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')

    class Fill(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 == 3:
                fill(small_disk, left=100_000)

    def runner(resume: bool = False):
        path = str(ROOT / 'tests' / 'configs' / 'mean_teacher.py')
        options = {**OPTIONS, 'train_cfg.max_iters': 6}
        return build_runner(load_config(path, work_dir=str(small_disk / 'run'), options=options, resume=resume))

    broken = runner()
    broken.register_hook(Fill())
    with pytest.raises(SystemExit) as stop, user_errors():
        train(broken)
    said = capsys.readouterr().err
    assert stop.value.code == 1 and 'iter_4.pth cannot be written: No space left on device' in said
    assert last_whole_checkpoint(small_disk / 'run').path.name == 'iter_2.pth'
    (small_disk / 'filler').unlink()
    train(runner(resume=True))
    assert read_checkpoint(small_disk / 'run' / 'iter_6.pth')['meta']['iter'] == 6


@pytest.mark.trained
@pytest.mark.slow
def test_a_disk_that_is_full_at_a_result_and_at_an_export(small_disk, synthetic_root, tmp_path):
    config, checkpoint = run_of(tmp_path / 'run', synthetic_root)
    fill(small_disk)
    for tool, *arguments in (
        ('test.py', config, checkpoint, '--datasets', 'synthetic'),
        ('export.py', tmp_path / 'run', '--format', 'mmseg'),
        ('export.py', tmp_path / 'run', '--format', 'safetensors'),
        ('export.py', tmp_path / 'run', '--format', 'torchscript'),
        *([('export.py', tmp_path / 'run', '--format', 'onnx')] if find_spec('onnx') else []),
        ('predict.py', tmp_path / 'run', synthetic_root / 'Synthetic' / 'test' / 'images'),
    ):
        out = small_disk / 'out'
        done = run_tool(tool, *arguments, '--out', out, data=synthetic_root, check=False)
        assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr[-3000:]
        assert 'cannot be written: No space left on device' in done.stderr
        assert [path for path in out.rglob('*') if path.is_file()] == [], tool


def children(process: int) -> list[int]:
    """Ids of the processes that a process has started."""
    return [int(child) for child in Path(f'/proc/{process}/task/{process}/children').read_text().split()]


def gone(process: int) -> bool:
    """Whether a process has ended."""
    status = Path(f'/proc/{process}/status')
    try:
        return 'State:\tZ' in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.trained
@pytest.mark.slow
def test_a_loaders_process_that_is_killed_ends_the_run_with_what_to_do(synthetic_root, tmp_path):
    process = start(tmp_path / 'run', synthetic_root, 'train_dataloader.num_workers=1', 'train_cfg.max_iters=500')
    process.wait_for('Iter(train) [  3/')
    (worker,) = children(process.id)
    os.kill(worker, signal.SIGKILL)
    done = process.wait()
    assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr[-3000:]
    assert 'a process that loads images was killed' in done.stderr and '--resume' in done.stderr
    assert 'train_dataloader.num_workers' in done.stderr
    assert last_whole_checkpoint(tmp_path / 'run').path.name.startswith('iter_')


@pytest.mark.parametrize('error', [ConnectionResetError(104, 'Connection reset by peer'), EOFError()])
def test_a_loaders_process_that_goes_while_it_hands_over_a_batch(error):
    def fail():
        raise error

    runner = SimpleNamespace(hooks=[], register_hook=lambda hook: None, train=fail, iter=1, work_dir='run', rank=1)
    with pytest.raises(RunError, match='a process that loads images was killed at iteration 2 .*--resume'):
        train(runner)


def test_a_run_under_nohup_outlives_its_terminal():
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
    hook = StopSignalHook()
    try:
        for handler, taken in ((signal.SIG_IGN, False), (signal.SIG_DFL, True)):
            signal.signal(signal.SIGHUP, handler)
            hook.before_train(None)
            assert (signal.getsignal(signal.SIGHUP) is not handler) == taken
            hook.after_train(None)
            assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before[0])
    assert signal.getsignal(signal.SIGTERM) is before[1]


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_process(number, synthetic_root, tmp_path):
    process = start(tmp_path / 'run', synthetic_root, 'train_dataloader.num_workers=2', 'train_cfg.max_iters=500')
    process.wait_for('Iter(train) [  3/')
    workers = children(process.id)
    assert len(workers) == 2
    os.kill(process.id, number)
    done = process.wait()
    assert done.returncode == 128 + number, done.stderr[-3000:]
    for _ in range(600):
        if all(map(gone, workers)):
            break
        time.sleep(0.1)
    assert [worker for worker in workers if not gone(worker)] == []


@pytest.mark.trained
@pytest.mark.slow
def test_few_open_files_and_any_number_of_loaders_change_no_weight(synthetic_root, tmp_path):
    limited = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (64, 64))  # as `ulimit -n 64` does
    states = []
    for workers in (0, 2, 4):
        options = (f'train_dataloader.num_workers={workers}', f'train_dataloader.persistent_workers={workers > 0}')
        work_dir = tmp_path / f'run{workers}'
        process = start(work_dir, synthetic_root, *options, 'train_cfg.max_iters=4', before=limited, method='aclnet')
        process.wait_for('Iter(train)')
        started = children(process.id) if workers else []
        done = process.wait()
        assert done.returncode == 0, done.stderr[-3000:]
        assert ('handed over by names' in done.stdout + done.stderr) == (workers > 0)
        assert all(map(gone, started))
        states.append(read_checkpoint(work_dir / 'iter_4.pth')['state_dict'])
    first, *others = states
    for state in others:
        assert [key for key in first if not torch.equal(first[key], state[key])] == []


@pytest.mark.parametrize(('limit', 'workers', 'strategy'), [(64, 0, None), (64, 4, 'file_system'), (4096, 4, None)])
def test_loaders_hand_over_by_names_where_few_files_may_be_open(monkeypatch, limit, workers, strategy):
    chosen = []
    monkeypatch.setattr(open_files.resource, 'getrlimit', lambda _: (limit, limit))
    monkeypatch.setattr(open_files.os, 'listdir', lambda _: range(20))
    monkeypatch.setattr(open_files.torch.multiprocessing, 'set_sharing_strategy', chosen.append)
    open_files.prepare_open_files(workers, 'train_dataloader.num_workers')
    assert chosen == ([strategy] if strategy else [])


def test_more_loaders_than_files_are_refused(monkeypatch):
    monkeypatch.setattr(open_files.resource, 'getrlimit', lambda _: (64, 64))
    monkeypatch.setattr(open_files.os, 'listdir', lambda _: range(20))
    with pytest.raises(ValueError, match=r'num_workers is 8, .* open 64: .*`ulimit -n 4096`, or set .* to 5 or less'):
        open_files.prepare_open_files(8, 'train_dataloader.num_workers')


def test_too_many_open_files_end_with_what_to_do(capsys):
    error = OSError(24, 'Too many open files', 'frame.png')

    def fail():
        raise error

    with pytest.raises(SystemExit) as stop, user_errors():
        raise error
    assert stop.value.code == 2 and '`ulimit -n 4096`' in capsys.readouterr().err
    runner = SimpleNamespace(hooks=[], register_hook=lambda hook: None, train=fail, iter=1, work_dir='run', rank=1)
    with pytest.raises(RunError, match='at iteration 2: .*frame.png.*`ulimit -n 4096`'):
        train(runner)


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.skipif(malloc_in_use() is None, reason='the C library does not say what it has given out')
def test_memory_does_not_grow_with_iterations(tmp_path):
    found = measure('aclnet', tmp_path, iterations=60, every=5, changes=half_size('aclnet'))
    after = [(iteration, memory.in_use) for iteration, memory in found if iteration >= 20]
    assert slope(after) < 0.01, f'MB an iteration: {found}'
    assert slope([(0, 1.0), (5, 1.5), (10, 2.0)]) == pytest.approx(0.1), 'a leak would be seen'
