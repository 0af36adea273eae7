"""When a run says how far it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmseg_acl.engine.hooks import ProgressLoggerHook
from mmseg_acl.engine.hooks import progress_hook as module


def logged(monkeypatch, duration: float, iterations: int = 12, **options) -> list[int]:
    """Iterations, counted from 1, that are logged where each takes ``duration`` seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, 'monotonic', lambda: clock.now)
    hook, found, scalars = ProgressLoggerHook(**options), [], []
    hook.json_log_path = 'scalars.json'
    runner = SimpleNamespace(
        iter=0,
        max_iters=iterations,
        log_processor=SimpleNamespace(get_log_after_iter=lambda runner, *_: ({}, runner.iter + 1)),
        logger=SimpleNamespace(info=found.append),
        visualizer=SimpleNamespace(add_scalars=lambda tag, step, file_path: scalars.append(step)),
    )
    for runner.iter in range(iterations):
        clock.now += duration
        hook.after_train_iter(runner, runner.iter)
    assert scalars == found
    return found


def test_it_says_before_the_first_iteration_what_comes():
    said = []
    runner = SimpleNamespace(iter=300, max_iters=1200, logger=SimpleNamespace(info=said.append))
    hook = ProgressLoggerHook(interval=20)
    hook.json_log_path = 'scalars.json'
    hook.before_train(runner)
    assert said == [
        'training begins at iteration 301 of 1200. A line follows after the first iterations, then every 20 of them '
        'or 60 s'
    ]


@pytest.mark.parametrize(
    ('duration', 'options', 'expected'),
    [
        (1, dict(interval=5), [5, 10, 12]),
        (0.5, dict(interval=50), [12]),
        (1, dict(interval=50), [10, 12]),  # the first line comes after ten seconds
        (1, dict(interval=50, first=4), [4, 12]),
        (40, dict(interval=50), [1, 3, 5, 7, 9, 11, 12]),
        (40, dict(interval=5), [1, 3, 5, 7, 9, 10, 12]),
        (40, dict(interval=50, seconds=100), [1, 4, 7, 10, 12]),
        (40, dict(interval=50, seconds=100, first=100), [3, 6, 9, 12]),
    ],
)
def test_it_speaks_at_its_interval_after_a_silence_and_at_the_end(monkeypatch, duration, options, expected):
    assert logged(monkeypatch, duration, **options) == expected
