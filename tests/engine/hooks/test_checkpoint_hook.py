"""Arguments of the checkpoint hook, and what it keeps and removes; killed writes are in ../test_interruption.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub

from mmseg_acl.engine.hooks import AtomicCheckpointHook


def make_runner(folder: Path, counts: int = 1) -> SimpleNamespace:
    def save(out_dir: str, name: str, **_: object) -> None:
        torch.save({}, Path(out_dir) / name)

    return SimpleNamespace(
        work_dir=str(folder),
        epoch=0,
        iter=0,
        max_iters=100,
        message_hub=MessageHub(f'test_checkpoint_hook_{folder}'),
        logger=SimpleNamespace(info=lambda text: None),
        optim_wrapper=SimpleNamespace(_accumulative_counts=counts),
        save_checkpoint=save,
    )


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (dict(interval=0), ValueError, 'interval is 0; it must be a whole number of at least 1, or -1'),
        (dict(interval=2.5), ValueError, 'interval is 2.5'),
        (dict(max_keep_ckpts=-2), ValueError, 'max_keep_ckpts is -2'),
        (dict(intervall=3), TypeError, "unexpected keyword argument 'intervall'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        AtomicCheckpointHook(**arguments)


def test_the_last_ones_are_kept_and_the_last_is_noted(tmp_path):
    hook, runner = AtomicCheckpointHook(interval=2, max_keep_ckpts=2, by_epoch=False), make_runner(tmp_path)
    (tmp_path / 'iter_1.pth.tmp').write_bytes(b'killed while writing')
    hook.before_train(runner)
    assert not list(tmp_path.iterdir())
    for runner.iter in range(7):
        hook.after_train_iter(runner, runner.iter)
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_4.pth', 'iter_6.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_6.pth')


def test_a_state_is_saved_once(tmp_path):
    hook, runner = AtomicCheckpointHook(interval=2, by_epoch=False), make_runner(tmp_path)
    hook.before_train(runner)
    for runner.iter in range(2):
        hook.after_train_iter(runner, runner.iter)
    written = (tmp_path / 'iter_2.pth').stat()
    assert hook.save_now(runner, 2) == tmp_path / 'iter_2.pth'
    assert (tmp_path / 'iter_2.pth').stat().st_ino == written.st_ino, 'it was due and is there'
    assert hook.save_now(runner, 3) == tmp_path / 'iter_3.pth'
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_3.pth')
    assert AtomicCheckpointHook(interval=1).save_now(runner, 4) is None, 'epochs cannot be saved in their middle'


def test_an_interval_between_two_updates_is_refused(tmp_path):
    hook = AtomicCheckpointHook(interval=3, by_epoch=False)
    with pytest.raises(ValueError, match='interval is 3; it must be a multiple of the 2 iterations'):
        hook.before_train(make_runner(tmp_path, counts=2))
