"""What is said of a config before anything is built of it; refusals are in tests/test_bad_input.py."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config

from mmseg_acl.engine import build_runner, load_config
from mmseg_acl.experiments.identity import fingerprint

CONFIG = Path(__file__).parents[2] / 'configs' / 'supervised.py'


def test_a_config_with_the_hook_that_the_runner_made_needless_is_the_same_run(synthetic_root, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    said = []
    monkeypatch.setattr('mmseg_acl.engine.start.config_checks.print_log', lambda text, **_: said.append(text))
    config = load_config(str(CONFIG), work_dir=str(tmp_path))
    older = Config(dict(config.to_dict(), custom_hooks=[dict(type='ChannelsLastHook'), *config.custom_hooks]))
    assert fingerprint(older) == fingerprint(config)
    runner = build_runner(older)
    assert 'ChannelsLastHook, which is not needed any more: every run' in said[0]
    weights = [weight for weight in runner.model.parameters() if weight.ndim == 4]
    assert weights and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert runner.cfg.custom_hooks == config.custom_hooks
