"""What the command line makes of a config, and what a user sees of an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from steps import CONFIGS

from mmseg_acl.engine import load_config, user_errors


def test_the_command_line_lies_over_the_config(tmp_path):
    config = load_config(
        str(CONFIGS / 'aclnet.py'), work_dir=str(tmp_path), options={'train_cfg.max_iters': 3}, seed=7, amp=True
    )
    assert (config.train_cfg.max_iters, config.randomness.seed, config.work_dir) == (3, 7, str(tmp_path))
    assert config.optim_wrapper.type in ('AmpOptimWrapper', 'BFloat16OptimWrapper')
    default = load_config('configs/aclnet/mbv2_kvasir_eighth.py') if Path('configs').is_dir() else None
    if default is not None:
        assert Path(default.work_dir) == Path('work_dirs/aclnet/mbv2_kvasir_eighth')
    with pytest.raises(FileNotFoundError, match='no config at absent.py'):
        load_config('absent.py')
    (tmp_path / 'mine.py').write_text('')
    with pytest.raises(FileNotFoundError, match='is a folder, and a config file is asked for: .*mine.py'):
        load_config(str(tmp_path))


def test_user_errors_are_one_message(capsys, monkeypatch):
    monkeypatch.delenv('MMSEG_ACL_DEBUG', raising=False)
    with pytest.raises(SystemExit) as stop, user_errors():
        raise FileNotFoundError('no such thing: make it')
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[0] == 'error: no such thing: make it'
    with pytest.raises(ZeroDivisionError), user_errors():
        _ = 1 / 0
