"""Kill -9, full disks, signals, losses that are no numbers: what is saved stays, and a resumed run is the same."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from comparing import assert_same_run, same
from killing import die_at
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import MODELS
from tool_process import ROOT, ToolProcess

from mmseg_acl.engine import atomic, build_runner, load_config, read_checkpoint, train, user_errors
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.engine.hooks.finite_loss_hook import broken_losses
from mmseg_acl.engine.start.resume import last_whole_checkpoint
from mmseg_acl.engine.start.work_dir import claim_work_dir, in_use
from mmseg_acl.errors import CheckpointError, DataError, NonFiniteError, RunError, Stopped
from mmseg_acl.models import MeanTeacher

KILLED_WHILE_WRITING = ('mean_teacher',)
KILLED_AT_RANDOM = ('aclnet',)
SHORT = {'train_cfg.max_iters': 4, 'train_cfg.val_begin': 99, 'default_hooks.checkpoint.interval': 2}


@pytest.fixture
def build(synthetic_root, tmp_path, monkeypatch):
    """Runners on synthetic frames, as tools/train.py builds them."""
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')

    def make(method: str = 'mean_teacher', work_dir: Path = tmp_path / 'run', resume: bool = False, **options):
        path = str(ROOT / 'tests' / 'configs' / f'{method}.py')
        options = {**SHORT, **{key.replace('__', '.'): value for key, value in options.items()}}
        return build_runner(load_config(path, work_dir=str(work_dir), options=options, resume=resume))

    return make


def call_after(runner: Runner, iteration: int, action) -> None:
    """Have ``action(runner)`` called after so many steps, before checkpoints are written."""

    class Call(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 == iteration:
                action(runner)

    runner.register_hook(Call())


def is_no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ------------------------------------------------------------------ files


def test_a_file_is_replaced_whole(tmp_path):
    write_atomically(b'first', tmp_path / 'deep' / 'a.pth')
    write_atomically(b'second', tmp_path / 'deep' / 'a.pth')
    assert (tmp_path / 'deep' / 'a.pth').read_bytes() == b'second'
    assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['a.pth']


@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, step):
    write_atomically(b'first', tmp_path / 'a.pth')
    monkeypatch.setattr(atomic.os, step, is_no_space)
    with pytest.raises(CheckpointError, match=r'a.pth cannot be written: No space left.* takes 0.0 MB, and .* free'):
        write_atomically(b'second', tmp_path / 'a.pth')
    assert (tmp_path / 'a.pth').read_bytes() == b'first'
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_a_file_that_cannot_fit_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10, 6, 4))
    monkeypatch.setattr(atomic, 'open', lambda *_: pytest.fail('begun'), raising=False)
    with pytest.raises(CheckpointError, match='No space left'):
        write_atomically(b'12345', tmp_path / 'a.pth')


def test_a_limit_of_the_system_is_told(tmp_path):
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_atomically(b'x' * 5000, tmp_path / 'a.pth')
        except CheckpointError as error:
            os._exit(7 if 'File too large' in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert not list(tmp_path.iterdir())


def save(path: Path, **more) -> Path:
    """The least that a run can go on from, but for ``more``."""
    content = dict(
        meta=dict(iter=1, epoch=0),
        state_dict={'a': torch.arange(5000.0)},
        message_hub={},
        optimizer=dict(state={}, param_groups=[]),
    )
    torch.save({**content, **more}, path)
    return path


def test_the_last_whole_checkpoint_is_found(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmseg_acl.engine.start.resume.print_log', lambda text, **_: said.append(text))
    assert last_whole_checkpoint(tmp_path) is None
    for number in (2, 4, 10, 12):
        save(tmp_path / f'iter_{number}.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_4.pth'))
    assert last_whole_checkpoint(tmp_path).path.name == 'iter_12.pth'  # killed before it was noted

    data = (tmp_path / 'iter_12.pth').read_bytes()
    (tmp_path / 'iter_12.pth').write_bytes(data[:-100])  # cut short
    damaged = bytearray((tmp_path / 'iter_10.pth').read_bytes())
    damaged[8000:8400] = bytes(400)  # torch alone would read zeros
    (tmp_path / 'iter_10.pth').write_bytes(damaged)
    assert torch.load(tmp_path / 'iter_10.pth', weights_only=True)
    assert last_whole_checkpoint(tmp_path).path.name == 'iter_4.pth'
    (said,) = said
    assert 'iter_12.pth cannot be read' in said and 'iter_10.pth is damaged' in said and 'iter_4.pth' in said

    for number in (2, 4):
        (tmp_path / f'iter_{number}.pth').write_bytes(b'')
    with pytest.raises(ValueError, match='no checkpoint in .* is whole: .*Restore one'):
        last_whole_checkpoint(tmp_path)


def test_a_resume_stays_within_its_own_folders(tmp_path, monkeypatch):
    original, copied, elsewhere = tmp_path / 'original', tmp_path / 'copied', tmp_path / 'out' / 'copied'
    for folder in (original, copied, elsewhere):
        folder.mkdir(parents=True)
    newest = save(original / 'iter_9.pth')
    (copied / 'last_checkpoint').write_text(str(newest))
    with pytest.raises(ValueError, match=rf'copied has no checkpoint of its own: .* load_from={newest}'):
        last_whole_checkpoint(copied)

    save(copied / 'iter_3.pth')
    assert last_whole_checkpoint(copied).path == copied / 'iter_3.pth'
    (copied / 'last_checkpoint').write_text(str(save(original / 'mine.pth')))
    save(copied / 'mine.pth')
    assert last_whole_checkpoint(copied).path == copied / 'mine.pth', 'a name of the user, in the own folder'

    # Where the hook's out_dir puts checkpoints elsewhere, that folder is the run's own as well.
    save(elsewhere / 'iter_5.pth')
    (copied / 'last_checkpoint').write_text(str(elsewhere / 'iter_5.pth'))
    assert last_whole_checkpoint(copied).path == copied / 'iter_3.pth'
    assert last_whole_checkpoint(copied, elsewhere).path == elsewhere / 'iter_5.pth'


@pytest.mark.parametrize('note', [b'', b'\n', b'.', b'\xff\xfe\x00', b'../iter_9.pth', b'/nowhere/iter_9.pth'])
def test_a_damaged_note_leads_nowhere_else(tmp_path, monkeypatch, note):
    folder = tmp_path / 'run'
    folder.mkdir()
    save(tmp_path / 'iter_9.pth')
    monkeypatch.chdir(tmp_path)
    (folder / 'last_checkpoint').write_bytes(note)
    assert last_whole_checkpoint(folder) is None
    save(folder / 'iter_2.pth')
    assert last_whole_checkpoint(folder).path == folder / 'iter_2.pth'


CLAIM = 'import sys; from mmseg_acl.engine.start import work_dir; work_dir.claim_work_dir(sys.argv[1], False)'
HOLD_AND_FORK = f"""{CLAIM}
import os, time
assert not work_dir.in_use(sys.argv[1]), 'by another process'
if os.fork() == 0:
    time.sleep(60)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_second_run_is_kept_out_of_a_work_dir_until_the_first_has_ended(tmp_path):
    folder = tmp_path / 'a'
    assert not in_use(folder)
    command = [sys.executable, '-c', HOLD_AND_FORK, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as other:
        try:
            int(other.stdout.readline())
            assert in_use(folder)
            with pytest.raises(ValueError, match='another run is writing to the work dir .*wait for its end'):
                claim_work_dir(folder, resume=False)
            other.kill()
            other.wait()
            assert not in_use(folder), 'though a process that it had forked, as loaders do, is still there'
            claim_work_dir(folder, resume=False)
            assert not in_use(folder), 'by another process'
        finally:
            os.killpg(other.pid, signal.SIGKILL)


def test_a_work_dir_without_locks_is_used_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    claim_work_dir(tmp_path / 'a', resume=False)
    monkeypatch.setattr('fcntl.flock', refuse)
    claim_work_dir(tmp_path / 'b', resume=False)
    assert not in_use(tmp_path / 'b')


# ------------------------------------------------------------------ one process


@pytest.mark.trained
@pytest.mark.slow
def test_a_copied_run_leaves_the_best_checkpoint_of_the_original(build, tmp_path):
    options = dict(default_hooks__checkpoint__save_best='teacher/mDice', train_cfg__val_begin=1)
    options['train_cfg__val_interval'] = 2
    scores = iter([2.0, 2.0, 1.0, 1.0, 3.0, 3.0])
    runner = build(**options)
    runner.val_loop.evaluator.evaluate = lambda size: {'mDice': next(scores)}
    train(runner)
    best = 'best_teacher_mDice_iter_{}.pth'.format
    shutil.copytree(tmp_path / 'run', tmp_path / 'copy', ignore=shutil.ignore_patterns('iter_4.pth', '*.lock'))
    (tmp_path / 'run' / 'iter_2.pth').unlink()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / 'run').glob('*.pth'))

    runner = build(work_dir=tmp_path / 'copy', resume=True, **options)
    assert runner._load_from == str(tmp_path / 'copy' / 'iter_2.pth'), 'not the noted iter_4.pth of the original'
    runner.val_loop.evaluator.evaluate = lambda size: {'mDice': next(scores)}
    train(runner)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / 'run').glob('*.pth')) == before
    assert [path.name for path in (tmp_path / 'run').glob('best*')] == [best(2)]
    assert [path.name for path in (tmp_path / 'copy').glob('best*')] == [best(4)]


@pytest.mark.slow
def test_weights_that_are_no_numbers_do_not_begin(build, tmp_path):
    """Wherever they come from: here by a head's ``init_cfg``, which mmengine loads when training begins."""
    torch.save({'conv_seg.bias': torch.full((2,), float('nan'))}, tmp_path / 'head.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'head.pth'))
    with pytest.raises(ValueError, match='of the weights to start from are NaN or infinite, such as .*conv_seg.bias'):
        train(build(model__segmentor__decode_head__init_cfg=init))
    assert not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.trained
@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(build, tmp_path, monkeypatch, capsys):
    runner = build()
    call_after(runner, 4, lambda _: monkeypatch.setattr(atomic.os, 'fsync', is_no_space))
    with pytest.raises(SystemExit) as stop, user_errors():
        train(runner)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert 'iter_4.pth cannot be written: No space left' in error and '--resume' in error and 'Traceback' not in error
    assert last_whole_checkpoint(tmp_path / 'run').path.name == 'iter_2.pth'
    assert (tmp_path / 'run' / 'last_checkpoint').read_text().endswith('iter_2.pth')
    assert not list((tmp_path / 'run').glob('*.tmp'))


@pytest.mark.trained
@pytest.mark.slow
def test_nothing_is_deleted_before_the_next_is_there(build, tmp_path, monkeypatch):
    runner = build(
        default_hooks__checkpoint__max_keep_ckpts=1,
        default_hooks__checkpoint__save_best='teacher/mDice',
        train_cfg__val_begin=1,
        train_cfg__val_interval=2,
    )
    scores = iter([1.0, 2.0])
    runner.val_loop.evaluator.evaluate = lambda size: {'mDice': next(scores)}
    monkeypatch.setattr(runner.model, 'networks', ['teacher'])
    monkeypatch.setattr(type(runner.model), 'networks', ('student', 'teacher'))
    events, folder = [], tmp_path / 'run'
    replace, remove = os.replace, atomic.AtomicBackend.remove

    def note(kind, path):
        events.append((kind, Path(path).name, sorted(p.name for p in folder.glob('*.pth'))))

    monkeypatch.setattr(atomic.os, 'replace', lambda a, b: (replace(a, b), note('there', b)))
    monkeypatch.setattr(
        atomic.AtomicBackend, 'remove', lambda self, path: (note('removed', path), remove(self, path))
    )
    train(runner)
    order = [(kind, name) for kind, name, _ in events]
    best = 'best_teacher_mDice_iter_{}.pth'.format
    assert order == [
        ('there', 'iter_2.pth'), ('there', 'last_checkpoint'),
        ('there', best(2)), ('there', 'iter_2.pth'), ('there', 'last_checkpoint'),
        ('there', 'iter_4.pth'), ('there', 'last_checkpoint'), ('removed', 'iter_2.pth'),
        ('there', best(4)), ('there', 'iter_4.pth'), ('there', 'last_checkpoint'), ('removed', best(2)),
    ]  # fmt: skip
    assert sorted(path.name for path in folder.glob('*.pth')) == [best(4), 'iter_4.pth']


@pytest.mark.trained
@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run_with_what_is_needed_to_see_why(build, tmp_path, monkeypatch, capsys):
    original, before = MeanTeacher.semi_supervised_loss, {}

    def broken(self, batch):
        found = original(self, batch)
        if self.iteration == 3:
            before.update({name: value.clone() for name, value in self.state_dict().items()})
            found['loss_consistency'] = found['loss_consistency'] / 0 * 0
        return found

    monkeypatch.setattr(MeanTeacher, 'semi_supervised_loss', broken)
    with pytest.raises(SystemExit) as stop, user_errors():
        train(build())
    assert stop.value.code == 1
    error, path = capsys.readouterr().err, tmp_path / 'run' / 'non_finite_iter_4.pth'
    assert 'not a finite number at iteration 4: loss_consistency = nan (finite: loss_seg = ' in error
    assert 'Traceback' not in error and str(path) in error
    state = read_checkpoint(path)
    for names in state['samples'].values():
        assert len(names) == 4 and all(Path(name).is_file() and name in error for name in names)
    assert same(dict(state['state_dict']), before), 'as they were before the step, BatchNorm aside'

    # The step can be repeated from the file alone.
    monkeypatch.undo()
    model = MODELS.build(load_config(str(ROOT / 'tests' / 'configs' / 'mean_teacher.py')).model)
    model.load_state_dict(state['state_dict'])
    assert state['batch']['sup']['images'][0].dtype == torch.uint8
    assert set(state['batch']['unsup_weak']['maps'][0]) == {'valid', 'hidden_sem_seg'}
    assert last_whole_checkpoint(tmp_path / 'run').path.name == 'iter_2.pth'


@pytest.mark.trained
@pytest.mark.slow
def test_weights_that_are_no_numbers_are_not_saved(build, tmp_path):
    runner = build()
    call_after(runner, 4, lambda runner: next(runner.model.parameters()).data.fill_(float('nan')))
    with pytest.raises(NonFiniteError, match='1 of the .* weights are NaN or infinite before iteration 4 ends'):
        train(runner)
    assert sorted(path.name for path in (tmp_path / 'run').glob('*.pth')) == ['iter_2.pth']


def test_losses_are_judged_as_they_are_summed():
    fine = dict(loss_a=torch.ones(2), loss_b=[torch.ones(()), torch.zeros(3)], watched=torch.tensor(float('nan')))
    assert broken_losses(fine) == broken_losses({}) == []
    bad = dict(fine, loss_c=torch.tensor(float('inf')), loss_d=[torch.ones(()), torch.tensor([1.0, float('nan')])])
    assert broken_losses(bad) == ['loss_c', 'loss_d']


@pytest.fixture
def terminal() -> Iterator[None]:
    """SIGHUP as in a terminal, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_run_after_the_iteration(build, tmp_path, number, terminal):
    handler = signal.getsignal(number)
    whole = build(work_dir=tmp_path / 'whole')
    train(whole)
    runner = build()
    call_after(runner, 3, lambda _: os.kill(os.getpid(), number))
    with pytest.raises(
        Stopped, match=rf'{number.name} after iteration 3: saved .*iter_3.pth; go on with --resume'
    ) as end:
        train(runner)
    assert end.value.status == 128 + number and signal.getsignal(number) is handler
    train(build(resume=True))
    a, b = (read_checkpoint(tmp_path / name / 'iter_4.pth') for name in ('whole', 'run'))
    assert same(a['state_dict'], b['state_dict']) and same(a['optimizer'], b['optimizer'])


@pytest.mark.trained
@pytest.mark.slow
def test_accumulated_gradients_are_not_lost_by_a_signal(build, tmp_path):
    runner = build(optim_wrapper__accumulative_counts=2)
    call_after(runner, 1, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match='after iteration 2'):
        train(runner)
    with pytest.raises(ValueError, match='interval is 3; it must be a multiple of the 2 iterations'):
        train(
            build(
                work_dir=tmp_path / 'b', optim_wrapper__accumulative_counts=2, default_hooks__checkpoint__interval=3
            )
        )


@pytest.mark.trained
@pytest.mark.slow
def test_a_signal_in_a_validation_ends_it(build, tmp_path, monkeypatch):
    options = dict(train_cfg__val_begin=1, train_cfg__val_interval=2)
    runner = build(**options)

    class Call(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None):
            os.kill(os.getpid(), signal.SIGTERM)

    runner.register_hook(Call())
    with pytest.raises(Stopped, match='after iteration 2: saved .*iter_2.pth'):
        train(runner)
    validated = []
    resumed = build(resume=True, **options)
    monkeypatch.setattr(resumed.val_loop, 'run', lambda: validated.append(resumed.iter))
    train(resumed)
    assert validated == [2, 4], 'the validation that was stopped is made up for'


@pytest.mark.trained
@pytest.mark.slow
def test_a_file_that_breaks_during_the_run_is_named(build, tmp_path, synthetic_root, monkeypatch):
    root = tmp_path / 'data'
    shutil.copytree(synthetic_root, root)
    monkeypatch.setenv('MMSEG_ACL_DATA', str(root))
    for workers in (0, 1):
        config = load_config(
            str(ROOT / 'tests' / 'configs' / 'supervised.py'),
            work_dir=str(tmp_path / f'run{workers}'),
            options={**SHORT, 'train_dataloader.num_workers': workers, 'train_cfg.max_iters': 50},
        )
        config.train_dataloader.dataset.labelled.data_root = str(root)
        runner = build_runner(config)
        (image, *_) = sorted((root / 'Synthetic' / 'labelled' / 'images').iterdir())
        content = image.read_bytes()
        call_after(runner, 1, lambda _, image=image: image.write_bytes(b'broken'))
        with pytest.raises(DataError) as end:
            train(runner)
        assert str(end.value).startswith(
            f"image '{image}' does not pass its pipeline: AssertionError: failed to load"
        )
        image.write_bytes(content)


# ------------------------------------------------------------------ kill -9


def start(method: str, work_dir: Path, data: Path, *options: str, before=None, resume: bool = True) -> ToolProcess:
    config = ROOT / 'tests' / 'configs' / f'{method}.py'
    more = ['--resume'] if resume else []
    return ToolProcess(
        'train.py', config, '--work-dir', work_dir, *more, '--cfg-options', *options, data=data, before=before
    )


def expect(process: ToolProcess, status: int) -> str:
    done = process.wait()
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


OPTIONS = (
    'default_hooks.checkpoint.interval=2',
    'default_hooks.checkpoint.max_keep_ckpts=1',
    'train_cfg.val_interval=4',
)


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('method', KILLED_WHILE_WRITING)
def test_killed_at_every_moment_of_a_checkpoint(method, synthetic_root, tmp_path):
    expect(start(method, tmp_path / 'whole', synthetic_root, *OPTIONS, resume=False), 0)

    def run(moment: str, name: str, status: int = -signal.SIGKILL) -> tuple[str, list[str]]:
        before = partial(die_at, moment, name)
        said = expect(start(method, tmp_path / 'run', synthetic_root, *OPTIONS, before=before), status)
        return said, sorted(path.name for path in (tmp_path / 'run').glob('iter_*'))

    said, there = run('half written', 'iter_2.pth')
    assert 'NOTHING TO RESUME' in said and there == ['iter_2.pth.tmp']
    said, there = run('written', 'iter_4.pth')
    assert 'NOTHING TO RESUME' in said and there == ['iter_2.pth', 'iter_4.pth.tmp']
    said, there = run('validating', '')
    assert 'iter: 2' in said and there == ['iter_4.pth']
    said, there = run('renamed', 'iter_6.pth')
    assert 'iter: 4' in said and 'Validating iteration 4' in said and there == ['iter_4.pth', 'iter_6.pth']
    assert (tmp_path / 'run' / 'last_checkpoint').read_text().endswith('iter_4.pth')
    said, there = run('noted', 'iter_6.pth')
    assert 'iter: 6' in said and there == ['iter_4.pth', 'iter_6.pth', 'iter_8.pth']
    said, there = run('never', '', status=0)
    assert 'Validating iteration 8' in said
    assert_same_run(tmp_path / 'whole' / 'iter_8.pth', tmp_path / 'run' / 'iter_8.pth')


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('method', KILLED_AT_RANDOM)
def test_killed_at_random(method, synthetic_root, tmp_path):
    expect(start(method, tmp_path / 'whole', synthetic_root, *OPTIONS, resume=False), 0)
    draw, kills = random.Random(0), 0
    for _ in range(3):
        process = start(method, tmp_path / 'run', synthetic_root, *OPTIONS)
        process.wait_for('Iter(train)', 'Validating')
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        kills += process.wait().returncode == -signal.SIGKILL
    expect(start(method, tmp_path / 'run', synthetic_root, *OPTIONS), 0)
    assert kills, 'some run was killed before its end'
    assert_same_run(tmp_path / 'whole' / 'iter_8.pth', tmp_path / 'run' / 'iter_8.pth')


def test_errors_that_end_a_run_have_a_status(capsys):
    for error, status in ((RunError('x'), 1), (Stopped('x', signal.SIGTERM), 143), (KeyboardInterrupt(), 130)):
        with pytest.raises(SystemExit) as stop, user_errors():
            raise error
        assert stop.value.code == status and 'Traceback' not in capsys.readouterr().err
