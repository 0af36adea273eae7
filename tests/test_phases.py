"""Phases follow the length of a run: shares, `--iters`, what is set stays, and what a run is too short for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_acl.engine import load_config
from mmseg_acl.models.segmentors import MeanTeacher
from mmseg_acl.phases import MODEL_PHASES, check_phase, keep_phases, resolve_model, resolve_phases, too_late

CONFIGS = Path(__file__).parents[1] / 'configs'
INTERVALS = ('train_cfg.val_interval', 'default_hooks.checkpoint.interval')
# What each method's phases are at a quarter of the paper's length.
QUARTER = {
    'aclnet': dict(warmup_iters=422, refine_after=0),
    'cafd': dict(warmup_iters=422, rampup_iters=1000, labels_after=844),
    'eln': dict(warmup_iters=422, eln_iters=338),
    'psmt': dict(warmup_iters=211, alternate_every=42, rampup_iters=507),
    'u2pl': dict(warmup_iters=42, total_iters=3375),
}


def phases(config: Config) -> dict[str, int]:
    return {key: config.model[key] for key in MODEL_PHASES if key in config.model}


@pytest.mark.slow
@pytest.mark.parametrize('method', QUARTER)
def test_every_phase_follows_the_length_however_it_is_given(method):
    path = str(CONFIGS / method / 'r50_kvasir_quarter.py')
    scaled, told = load_config(path, iters=3375), load_config(path, options={'train_cfg.max_iters': 3375})
    for config in (scaled, told):
        assert phases(config) == QUARTER[method]
        assert [config.get(key.split('.')[0]) and _at(config, key) for key in INTERVALS] == [300, 300]
        assert config.train_cfg.max_iters == 3375
    assert [_at(load_config(path), key) for key in INTERVALS] == [675, 675]


def _at(config: Config, path: str) -> int:
    for key in path.split('.'):
        config = config[key]
    return config


@pytest.mark.parametrize(
    ('length', 'interval', 'counts', 'expected'),
    [(1200, None, 1, 300), (13500, None, 1, 675), (200, None, 1, 200), (1200, None, 8, 296), (6, None, 4, 4)]
    + [(1000, 0.1, 1, 100), (1000, 70, 1, 70), (1000, 1.0, 1, 1000)],
)
def test_intervals_are_a_twentieth_of_a_run_but_not_short_unless_they_are_set(length, interval, counts, expected):
    config = Config(
        dict(
            train_cfg=dict(max_iters=length),
            optim_wrapper=dict(accumulative_counts=counts),
            default_hooks=dict(checkpoint=dict(by_epoch=False)),
        )
    )
    if interval is not None:
        config.train_cfg.val_interval = config.default_hooks.checkpoint.interval = interval
    resolve_phases(config)
    assert config.train_cfg.val_interval == config.default_hooks.checkpoint.interval == expected


def test_numbers_are_scaled_by_iters_alone_and_what_the_command_line_sets_stays():
    def config() -> Config:
        return Config(
            dict(
                train_cfg=dict(max_iters=1000, val_interval=100),
                model=dict(warmup_iters=200, refine_after=0.25),
                param_scheduler=[
                    dict(type='LinearLR', begin=0, end=50, by_epoch=False),
                    dict(type='MultiStepLR', milestones=[400, 800], by_epoch=False),
                    dict(type='StepLR', step_size=3),
                ],
            )
        )

    shorter, scaled, given = config(), config(), config()
    shorter.train_cfg.max_iters = 500
    resolve_phases(shorter)
    assert phases(shorter) == dict(warmup_iters=200, refine_after=125) and shorter.train_cfg.val_interval == 100
    resolve_phases(scaled, 500)
    assert phases(scaled) == dict(warmup_iters=100, refine_after=125) and scaled.train_cfg.val_interval == 50
    schedules = scaled.param_scheduler
    assert (schedules[0].end, schedules[1].milestones, schedules[2].step_size) == (25, [200, 400], 3)
    resolve_phases(given, 500, ('model.warmup_iters', 'param_scheduler.0.end'))
    assert given.model.warmup_iters == 200 and given.param_scheduler[0].end == 50
    again = Config(scaled.to_dict())
    resolve_phases(again)
    assert again.to_dict() == scaled.to_dict()


@pytest.mark.parametrize(
    ('train', 'iters', 'given', 'message'),
    [
        (dict(max_iters=10), 0, (), '--iters is 0'),
        (dict(max_epochs=10), 5, (), 'no train_cfg.max_iters that it could replace'),
        (dict(max_iters=10), 5, ('train_cfg.max_iters',), 'both give the length'),
        (dict(max_epochs=10), None, (), 'no train_cfg.max_iters that they refer to'),
    ],
)
def test_lengths_that_make_no_sense(train, iters, given, message):
    with pytest.raises(ValueError, match=message):
        resolve_phases(Config(dict(train_cfg=train, model=dict(warmup_iters=0.5))), iters, given)


@pytest.mark.parametrize('value', [-1, 1.5, -0.5, '3', True, None])
def test_what_is_no_phase(value):
    with pytest.raises(ValueError, match='warmup_iters is .*share of the run'):
        check_phase('warmup_iters', value)
    check_phase('warmup_iters', 0)
    with pytest.raises(ValueError, match='eln_iters is 0'):
        check_phase('eln_iters', 0)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (dict(warmup_iters=100), r'warm-up lasts 100 iterations and the run 100: .* ALONE'),
        (dict(warmup_iters=60, refine_after=40), 'NEVER be refined: that begins at iteration 100'),
        (dict(warmup_iters=60, eln_iters=50), 'NEVER learn from unlabelled'),
        (dict(warmup_iters=60, labels_after=200), 'NEVER begin: that begins at iteration 200'),
        (dict(warmup_iters=60, refine_after=39, rampup_iters=400), None),
        ({}, None),
    ],
)
def test_what_a_run_is_too_short_for(model, message):
    found = too_late(Config(dict(model=model, train_cfg=dict(max_iters=100))))
    assert found is None if message is None else re.search(message, found)


def test_a_prolonged_run_keeps_the_phases_it_has_behind_it():
    stored = Config(dict(model=dict(warmup_iters=150), train_cfg=dict(max_iters=1200)))
    longer = Config(dict(model=dict(warmup_iters=300), train_cfg=dict(max_iters=2400)))
    assert keep_phases(longer, stored) == {'model.warmup_iters': (300, 150)} and longer.model.warmup_iters == 150
    changed = Config(dict(model=dict(warmup_iters=300), train_cfg=dict(max_iters=1200)))
    assert keep_phases(changed, stored) == {} and changed.model.warmup_iters == 300


def test_a_model_of_a_config_that_another_program_read():
    segmentor = Config.fromfile(Path(__file__).parent / 'configs' / 'tiny_model.py').model
    model = MeanTeacher(segmentor, warmup_iters=1 / 8, rampup_iters=400)
    resolve_model(model, 1200)
    assert (model.warmup_iters, model.rampup_iters) == (150, 400)
