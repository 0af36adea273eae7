"""What a run keeps of a config, and how often it is formatted."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from building import LAY_OUT
from mmengine.config import Config
from yapf.yapflib import yapf_api

from mmseg_acl.engine import build_runner, load_config, train
from mmseg_acl.engine.start.run_config import RunConfig

CONFIG = Path(__file__).parents[2] / 'configs' / 'supervised.py'


@pytest.fixture
def formatted(monkeypatch) -> list[str]:
    """The texts that are formatted from now on."""
    texts, original = [], LAY_OUT

    def note(text: str, *args, **kwargs):
        texts.append(text)
        return original(text, *args, **kwargs)

    monkeypatch.setattr(yapf_api, 'FormatCode', note)
    monkeypatch.setattr(RunConfig, '_formatted', ('', ''))
    return texts


@pytest.mark.trained
@pytest.mark.slow
def test_a_run_formats_its_config_once_and_leaves_no_variable_in_it(formatted, synthetic_root, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    options = {'train_cfg.max_iters': 2, 'train_cfg.val_begin': 9, 'default_hooks.checkpoint.interval': 1}
    config = load_config(str(CONFIG), work_dir=str(tmp_path), options=options)
    assert 'supervised_dataloader' in config, 'a variable, which the data loader was made of'
    train(build_runner(config))
    assert len(formatted) == 1 and len(list(tmp_path.glob('iter_*.pth'))) == 2
    assert 'supervised_dataloader' not in formatted[0] and 'train_dataloader' in formatted[0]
    written = Config.fromfile(tmp_path / CONFIG.name)
    read = {key: value for key, value in config.to_dict().items() if key in written}
    assert written.to_dict() == read and written.keys() >= {'model', 'train_dataloader', 'val_dataloader', 'work_dir'}


def test_what_has_changed_is_formatted_anew(formatted):
    config = RunConfig.of(Config(dict(model=dict(type='A'), tta_model=dict(type='B'), own=1)))
    assert config.pretty_text == Config(dict(model=dict(type='A'), tta_model=dict(type='B'))).pretty_text
    other = copy.deepcopy(config)
    assert other.pretty_text == config.pretty_text and len(formatted) == 2
    other.model.type = 'C'
    assert "model = dict(type='C')" in other.pretty_text and "model = dict(type='A')" in config.pretty_text
