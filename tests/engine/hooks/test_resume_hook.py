"""Which validation is made up for on resume."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub

from mmseg_acl.engine.hooks import ResumeHook


def make_runner(iteration: int, **loop) -> SimpleNamespace:
    validated = []
    runner = SimpleNamespace(
        iter=iteration,
        train_loop=SimpleNamespace(**dict(dict(val_begin=1, val_interval=4, max_iters=10), **loop)),
        val_loop=SimpleNamespace(run=lambda: validated.append(iteration)),
        logger=SimpleNamespace(info=lambda text: None),
        message_hub=MessageHub('test_resume_hook'),
    )
    runner.validated = validated
    return runner


@pytest.mark.parametrize(
    ('iteration', 'loop', 'expected'),
    [
        (0, {}, []),  # a run from its beginning
        (4, {}, [4]),
        (5, {}, []),  # none is due
        (10, {}, [10]),  # the last iteration
        (4, dict(val_begin=8), []),
        (8, dict(val_begin=8), [8]),
    ],
)
def test_a_validation_that_was_due_is_made_up_for(iteration, loop, expected):
    runner = make_runner(iteration, **loop)
    ResumeHook().before_train_epoch(runner)
    assert runner.validated == expected


def test_one_that_was_done_is_not_repeated():
    runner = make_runner(4)
    ResumeHook().after_val_epoch(runner)
    ResumeHook().before_train_epoch(runner)
    assert runner.validated == []
    later = make_runner(8)
    later.message_hub = runner.message_hub
    ResumeHook().before_train_epoch(later)
    assert later.validated == [8]


def test_no_note_is_logged_among_the_scores():
    runner = make_runner(4)
    runner.message_hub = MessageHub('test_no_note_is_logged')
    ResumeHook().after_val_epoch(runner)
    assert [key for key in runner.message_hub.runtime_info if key.startswith(('train', 'val', 'test'))] == []


def test_a_checkpoint_of_an_earlier_version_has_its_note_by_another_name():
    runner = make_runner(4)
    runner.message_hub = MessageHub('test_a_checkpoint_of_an_earlier_version')
    runner.message_hub.update_info('validated_iter', 4)
    ResumeHook().before_train_epoch(runner)
    assert runner.validated == [] and 'validated_iter' not in runner.message_hub.runtime_info


def test_a_run_that_validates_nothing_goes_on():
    runner = make_runner(4)
    runner.val_loop = None
    ResumeHook().before_train_epoch(runner)
    runner = make_runner(4)
    del runner.train_loop.val_interval  # a loop of the user's own
    ResumeHook().before_train_epoch(runner)
    assert runner.validated == []
