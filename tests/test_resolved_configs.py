"""Every config of 1a6be0e trains today what it trained then: same models, data, schedules and learning rates.

Five differences are meant. The FCN auxiliary head of the ResNet-50 and Swin networks has gone, for all methods alike
(docs/methods.md): it is taken out of what is stored, here and nowhere else. And ``configs/aclnet`` has the paper's
settings now, and clips gradients: its own keys are not compared here, but with docs/aclnet.md
(test_aclnet_settings.py), and its clipping is looked at in test_stability.py. Settings of AEL, PSMT and U2PL were
mended. Runs validate on development parts, keep the checkpoint that is best there, and write a report. And the
paper's track makes its views by quicker steps (test_geometry.py), compared here as the plain steps they stand for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from building import without_start_weights
from resolved_configs import BUILT, Store, config_files, parameter_settings, plain_steps, read_keys

from mmseg_acl.engine import load_config
from mmseg_acl.engine.start.config_checks import DISSOLVED_HOOKS
from mmseg_acl.engine.start.weights import resolve_weights
from mmseg_acl.renamed import with_new_names

pytestmark = pytest.mark.usefixtures('bases')
CONFIGS = Path(__file__).parents[1] / 'configs'
STORED = json.loads((Path(__file__).parent / 'data' / 'configs_1a6be0e.json').read_text())
# Which the command line sets.
NOT_IN_THE_FILE = ('launcher', 'work_dir')
# What was mended since (docs/methods.md), by the folder of the method.
MENDED = {
    'ael': dict(min_keep=0.2),
    'psmt': dict(noise=dict(epsilon=0.1)),
    'u2pl': dict(cutmix=dict(prob=0.5, area=[0.5, 0.5])),
}


def stored(name: str) -> dict[str, Any]:
    """The keys of a config of 1a6be0e, in today's words."""
    keys = {key: value for key, value in STORED['configs'][name].items() if key != 'parameters'}
    config = with_new_names({key: Store(STORED['values']).get(value) for key, value in keys.items()})
    config['custom_hooks'] = [hook for hook in config['custom_hooks'] if hook['type'] not in DISSOLVED_HOOKS]
    network = config['model'].get('segmentor', config['model'])
    head = network.pop('auxiliary_head')
    assert head is None or head['type'] == 'FCNHead'
    validation = config['val_dataloader']['dataset']
    if 'ann_file' in validation:
        validation['ann_file'] = validation['ann_file'].replace('/test', '/dev')
    config['default_hooks']['checkpoint']['save_best'] = 'auto'
    config['default_hooks']['report'] = dict(type='ReportHook')
    config['model'].update(MENDED.get(name.split('/')[0], {}))
    return config


def today(name: str) -> dict[str, Any]:
    """The keys of today's config."""
    keys = read_keys(load_config(str(CONFIGS / name)))
    keys['train_dataloader'] = json.loads(json.dumps(plain_steps(keys['train_dataloader'])))
    return {key: value for key, value in keys.items() if key not in NOT_IN_THE_FILE}


def test_no_config_has_gone():
    files = {file.relative_to(CONFIGS).as_posix() for file in config_files(CONFIGS)}
    assert STORED['configs'].keys() <= files


@pytest.mark.parametrize('name', STORED['configs'])
def test_a_config_resolves_to_the_same(name):
    before, now = stored(name), today(name)
    for config in (before, now):  # how the rates are written; which they are is compared below
        config['optim_wrapper'].pop('paramwise_cfg')
        config['optim_wrapper']['optimizer'].pop('lr')
        if config['model']['type'] == 'ACLNet':
            config['model'] = config['model']['segmentor']
            config['optim_wrapper'].pop('clip_grad', None)
    assert now == before


def distinct() -> dict[int, str]:
    """The first config of each distinct pair of model and optimizer."""
    found: dict[int, str] = {}
    for name, config in STORED['configs'].items():
        found.setdefault(config['parameters'], name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'name'), distinct().items(), ids=distinct().values())
def test_every_parameter_has_the_same_learning_rate_and_decay(number, name, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    config = load_config(str(CONFIGS / name))
    resolve_weights(config.model)
    before = STORED['parameters'][number]
    with without_start_weights():
        found = parameter_settings(config)
    assert found == {key: value for key, value in before.items() if 'auxiliary_head' not in key}


@pytest.mark.slow
def test_each_pair_of_model_and_optimizer_is_listed_once():
    pairs = {json.dumps([stored(name)[key] for key in BUILT], sort_keys=True) for name in STORED['configs']}
    assert len(pairs) == len(STORED['parameters'])
