"""Which settings a resumed run must share with the run whose checkpoint it takes, and which may change."""

from __future__ import annotations

import logging
import re
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import pytest
from building import LAY_OUT
from mmengine.config import Config
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from torch import nn
from yapf.yapflib import yapf_api

from mmseg_acl.engine import load_config, same_run
from mmseg_acl.engine.same_run import check_same_data, check_same_optimizer, check_same_run, note_data

pytestmark = pytest.mark.usefixtures('bases')
CONFIGS = Path(__file__).parents[2] / 'configs'
PLAIN = CONFIGS / 'mean_teacher' / 'mbv2_kvasir_eighth.py'
# With two optimizers and multipliers of the learning rate.
ADVERSARIAL = CONFIGS / 'cafd' / 'r50_kvasir_quarter.py'
ENDS = {PLAIN: 1200, ADVERSARIAL: 13500}
LISTS = 'train_dataloader.dataset'


class Building:
    """What a runner has before it builds its optimizer, on a model of few parts."""

    scale_lr = Runner.scale_lr
    param_schedulers, world_size, logger = None, 1, logging.getLogger()

    def __init__(self, config: Config) -> None:
        parts = {name: nn.Linear(2, 2) for name in ('backbone', 'decode_head', 'localization', 'neck')}
        self.model = nn.ModuleDict(dict(student=nn.ModuleDict(parts), discriminator=nn.Linear(2, 2)))
        self.cfg, self.optim_wrapper, self._train_dataloader = config, config.optim_wrapper, config.train_dataloader
        self.auto_scale_lr = config.get('auto_scale_lr')

    def build_optim_wrapper(self, config: dict):
        return build_optim_wrapper(self.model, config)


def checkpoint(path: Path, options: dict | None = None) -> dict:
    """A checkpoint of a run under a config, as far as it is compared."""
    runner = Building(load_config(str(path), options=options))
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(wrapper, runner.auto_scale_lr)
    schedules = runner.cfg.param_scheduler
    for one in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
        for schedule in schedules:
            built = PARAM_SCHEDULERS.build(dict(schedule, optimizer=one, end=ENDS[path]))
            built.step()  # the rate is another by now
    # As mmengine writes it, but for its slow formatting.
    text = ''.join(f'{key} = {value!r}\n' for key, value in runner.cfg.to_dict().items())
    return dict(meta=dict(seed=0, cfg=text), optimizer=wrapper.state_dict(), param_schedulers=[dict(end=ENDS[path])])


@pytest.fixture(scope='module')
def stored() -> dict[Path, dict]:
    """Checkpoints of runs under these configs, with the config's text as mmengine writes it."""
    found = {path: checkpoint(path) for path in ENDS}
    with patch.object(yapf_api, 'FormatCode', LAY_OUT):
        for path, content in found.items():
            content['meta']['cfg'] = load_config(str(path)).pretty_text
    return found


def resume(content: dict, path: Path, options: dict | None = None) -> None:
    """Compare a config with a checkpoint as the start of a run does."""
    config = load_config(str(path), options=options)
    check_same_run(config, content, 'run/iter_4.pth')
    check_same_optimizer(Building(config), content, 'run/iter_4.pth')


CHANGED = [
    (PLAIN, {'optim_wrapper.optimizer.lr': 0.5}, 'optim_wrapper.optimizer.lr is 0.01 there, 0.5 here'),
    (PLAIN, {'optim_wrapper.optimizer.weight_decay': 0}, 'optimizer.weight_decay is 0.0001 there, 0 here'),
    (PLAIN, {'optim_wrapper.optimizer.momentum': 0.8}, 'optimizer.momentum is 0.9 there, 0.8 here'),
    (PLAIN, {'optim_wrapper.optimizer.nesterov': True}, 'optimizer.nesterov is not set there, True here'),
    (PLAIN, {'optim_wrapper.optimizer.type': 'RMSprop'}, "optimizer.type is 'SGD' there, 'RMSprop' here"),
    (PLAIN, {'optim_wrapper.accumulative_counts': 2}, 'accumulative_counts is 1 there, 2 here'),
    (
        PLAIN,
        {'optim_wrapper.paramwise_cfg.bias_lr_mult': 2.0},
        'optim_wrapper.paramwise_cfg.bias_lr_mult is not set there, 2.0 here',
    ),
    (ADVERSARIAL, {'optim_wrapper.separate.discriminator.optimizer.lr': 0.1}, 'discriminator.optimizer.lr is 0.0001'),
    (ADVERSARIAL, {'optim_wrapper.separate.discriminator.optimizer.betas': (0.5, 0.99)}, r'betas is \(0.9, 0.99\)'),
    (
        ADVERSARIAL,
        {'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult': 1.0},
        'custom_keys.backbone.lr_mult is 0.1 there, 1.0 here',
    ),
    (PLAIN, {'param_scheduler.0.power': 0.5}, 'param_scheduler.0.power is 0.9 there, 0.5 here'),
    (
        PLAIN,
        {'param_scheduler.0.type': 'PolyMomentum'},
        "param_scheduler.0.type is 'PolyLR' there, 'PolyMomentum' here",
    ),
    (
        PLAIN,
        {'auto_scale_lr.enable': True, 'auto_scale_lr.base_batch_size': 4},
        'auto_scale_lr.base_batch_size is not set there, 4 here',
    ),
    (PLAIN, {'train_dataloader.batch_size': 16}, 'train_dataloader.batch_size is 8 there, 16 here'),
    (PLAIN, {'train_dataloader.sampler.ratio': (2, 6)}, r'sampler.ratio is \(4, 4\) there, \(2, 6\) here'),
    (PLAIN, {'train_dataloader.sampler.shuffle': False}, 'sampler.shuffle is True there, False here'),
    (PLAIN, {f'{LISTS}.partition': 'kvasir/half'}, "dataset.partition is 'kvasir/eighth' there, 'kvasir/half' here"),
    (PLAIN, {f'{LISTS}.unlabelled.exclude': ['a.txt']}, r"unlabelled.exclude is not set there, \('a.txt',\) here"),
    (PLAIN, {f'{LISTS}.labelled.type': 'CVCClinicDBDataset'}, "labelled.type is 'KvasirSEGDataset' there, 'CVC"),
    (PLAIN, {f'{LISTS}.labelled.indices': 10}, 'labelled.indices is not set there, 10 here'),
]


@pytest.mark.parametrize(('path', 'options', 'message'), CHANGED, ids=lambda value: str(value)[:60])
def test_what_a_resume_would_read_over_is_refused_by_name(stored, path, options, message):
    with pytest.raises(
        ValueError, match=f'run/iter_4.pth is of a run with other settings: .*{message}.* Set them to what they were'
    ):
        resume(stored[path], path, options)
    # And the other way round, from a run that had the setting.
    with pytest.raises(ValueError, match=re.escape(next(iter(options)))):
        resume(checkpoint(path, options), path)


@pytest.mark.slow
def test_rates_are_judged_by_what_comes_of_them(stored, monkeypatch):
    """Ten times the rate for all but the backbone, written either way."""
    said = []
    monkeypatch.setattr(same_run, 'print_log', lambda text, **_: said.append(text))
    # As the shipped configs had it at first; the parts under `student` keep their order.
    former = {
        'optim_wrapper.optimizer.lr': 0.001,
        'optim_wrapper.paramwise_cfg.custom_keys': {
            'backbone': dict(lr_mult=1.0),
            **{name: dict(lr_mult=10.0) for name in ('decode_head', 'localization', 'neck')},
        },
    }
    resume(checkpoint(ADVERSARIAL, former), ADVERSARIAL)
    assert not said

    # A config that tells nothing: the optimizers are compared.
    untold = dict(stored[PLAIN], meta=dict(seed=0))
    resume(untold, PLAIN)
    with pytest.raises(ValueError, match='of a run with other settings: lr is 0.01 there, 0.5 here; weight_decay is'):
        resume(untold, PLAIN, {'optim_wrapper.optimizer.lr': 0.5, 'optim_wrapper.optimizer.weight_decay': 0.0})
    with pytest.raises(ValueError, match='has 1 groups of parameters there, 10 here'):
        resume(untold, PLAIN, {'optim_wrapper.paramwise_cfg.bias_lr_mult': 2.0})
    said.clear()

    # The run's own config, but a hook has had another decay: that is not the config's doing.
    changed = deepcopy(stored[PLAIN])
    changed['optimizer']['param_groups'][0]['weight_decay'] = 0.3
    resume(changed, PLAIN)
    assert 'not as the config has it, and is used as it is: weight_decay is 0.3 there, 0.0001 here' in said[0]


def test_a_cycle_of_rates_begins_at_its_own():
    cycle = {'param_scheduler': [dict(type='OneCycleLR', eta_max=0.1, total_steps=1200, by_epoch=False)]}
    content = checkpoint(PLAIN, cycle)
    assert content['optimizer']['param_groups'][0]['initial_lr'] != 0.01
    resume(content, PLAIN, cycle)


@pytest.mark.parametrize('path', [PLAIN, ADVERSARIAL], ids=lambda path: path.stem)
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'train_cfg.max_iters': 20000, 'train_cfg.val_interval': 7, 'param_scheduler.0.end': 'as it was'},
        {'default_hooks.checkpoint.interval': 3, 'default_hooks.logger.interval': 3},
        {'train_dataloader.num_workers': 3, 'train_dataloader.persistent_workers': True},
        {f'{LISTS}.labelled.data_root': '/other/machine', f'{LISTS}.unlabelled.data_root': '/other/machine'},
        {'optim_wrapper.type': 'BFloat16OptimWrapper', 'optim_wrapper.clip_grad.max_norm': 1.0},
        {'optim_wrapper.accumulative_counts': 1, 'train_dataloader.sampler.shuffle': True},
        {'auto_scale_lr.enable': False, 'auto_scale_lr.base_batch_size': 4},
        {'model.consistency_weight': 0.1, 'model.warmup_iters': 3},
    ],
    ids=lambda options: next(iter(options), 'nothing'),
)
def test_what_may_change(stored, path, options):
    options = {key: ENDS[path] if value == 'as it was' else value for key, value in options.items()}
    resume(stored[path], path, options)


def test_a_list_that_has_moved_with_its_folder_is_the_same():
    before, now = ({f'{LISTS}.unlabelled.exclude': [f'/{root}/a.txt']} for root in ('here', 'there/deeper'))
    resume(checkpoint(PLAIN, before), PLAIN, now)
    with pytest.raises(ValueError, match=r"exclude is \('a.txt',\) there, \('b.txt',\) here"):
        resume(checkpoint(PLAIN, before), PLAIN, {f'{LISTS}.unlabelled.exclude': ['/here/b.txt']})


@pytest.mark.parametrize('cfg', [None, 3, '', '(', 'a = 1', 'x\0y', '(' * 5000, 'optim_wrapper = open("x", "w")'])
def test_a_checkpoint_that_does_not_tell_its_config_is_resumed_with_a_warning(monkeypatch, tmp_path, cfg):
    """And what it tells is not executed."""
    said = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(same_run, 'print_log', lambda text, **_: said.append(text))
    check_same_run(Config(dict(randomness=dict(seed=0))), dict(meta=dict(seed=0, cfg=cfg)), 'a.pth')
    assert not list(tmp_path.iterdir())
    assert bool(said) == (cfg not in ('', 'a = 1', 'optim_wrapper = open("x", "w")'))


class Images:
    def __init__(self, *source_sizes: int) -> None:
        self.source_sizes = source_sizes

    def __len__(self) -> int:
        return sum(self.source_sizes)


def test_numbers_of_images_and_processes_are_compared(monkeypatch):
    said, meta = [], {}
    monkeypatch.setattr(same_run, 'print_log', lambda text, **_: said.append(text))
    note_data(Images(3, 5), meta)
    check_same_data(Images(3, 5), meta, 'a.pth')
    check_same_data(Images(4, 4), {}, 'of an earlier version')
    for other in (Images(4, 4), Images(3, 6), [0] * 8):
        with pytest.raises(ValueError, match=r'a.pth is of a run on \[3, 5\] images .* this data set has \['):
            check_same_data(other, meta, 'a.pth')
    assert not said
    monkeypatch.setattr(same_run, 'get_world_size', lambda: 2)
    check_same_data(Images(3, 5), meta, 'a.pth')
    assert 'a.pth was written by 1 processes, there are 2 now' in said[0]
