"""Processes that kill themselves with signal 9 at a given moment, with no time to tidy up."""

from __future__ import annotations

import os
import signal

from mmseg_acl.engine import atomic
from mmseg_acl.engine.hooks.mean_teacher_hook import MeanTeacherHook
from mmseg_acl.engine.loops import StudentTeacherValLoop


def die_at(moment: str, name: str) -> None:
    """Have this process die at a moment; any other word than these is never.

    ``'in a step'``: between the optimizer's step and the teachers', at iteration ``name``. ``'half written'``,
    ``'written'``, ``'renamed'``: on the way of a checkpoint ``name`` from the first byte to its place.
    ``'noted'``: when the next checkpoint is there, and ``name`` is to be removed. ``'validating'``: as it begins.
    """
    replace, remove = os.replace, atomic.AtomicBackend.remove
    after_iteration = MeanTeacherHook.after_train_iter

    def open_half(path, mode):
        return _Half(open(path, mode)) if name in str(path) else open(path, mode)

    def replace_and_die(a, b):
        replace(a, b)
        if name in str(b):
            _die()

    def die_or_go_on(self, runner, *args, **kwargs):
        _die() if runner.iter + 1 == int(name) else after_iteration(self, runner, *args, **kwargs)

    if moment == 'in a step':
        MeanTeacherHook.after_train_iter = die_or_go_on
    elif moment == 'half written':
        atomic.open = open_half
    elif moment == 'written':
        atomic.os.replace = lambda a, b: _die() if name in str(b) else replace(a, b)
    elif moment == 'renamed':
        atomic.os.replace = replace_and_die
    elif moment == 'noted':
        atomic.AtomicBackend.remove = lambda self, path: _die() if name in path else remove(self, path)
    elif moment == 'validating':
        StudentTeacherValLoop.run = _die


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Half:
    """A file that takes half of what is written, then the process dies."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        _die()
