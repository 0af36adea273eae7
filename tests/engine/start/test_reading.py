"""How often the start of a run reads each file."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from steps import CONFIGS
from tool_process import run_tool

from mmseg_acl.engine import checkpoint
from mmseg_acl.engine.start.reading import CheckpointReader


def count_reads(log: Path) -> None:
    """Have this process note the name of each checkpoint that it reads."""
    load = torch.load

    def note(path: Path, *args, **kwargs) -> dict:
        with log.open('a') as file:
            file.write(f'{Path(path).name}\n')
        return load(path, *args, **kwargs)

    checkpoint.torch.load = note


@pytest.mark.slow
def test_a_resume_reads_its_checkpoint_and_its_weights_at_most_twice(synthetic_root, tmp_path):
    backbone = MODELS.build(Config.fromfile(CONFIGS / 'mean_teacher.py').model.segmentor.backbone)
    weights, log = tmp_path / 'backbone.pth', tmp_path / 'reads'
    torch.save({'state_dict': backbone.state_dict()}, weights)
    arguments = ['train.py', CONFIGS / 'mean_teacher.py', '--work-dir', tmp_path / 'run', '--resume', '--cfg-options']
    arguments += ['train_cfg.val_begin=99', 'default_hooks.checkpoint.interval=2', 'model.warmup_iters=0']
    arguments += [f'model.segmentor.backbone.init_cfg.{key}' for key in ('type=Pretrained', f'checkpoint={weights}')]
    options = dict(data=synthetic_root, weights=str(tmp_path))
    run_tool(*arguments, 'train_cfg.max_iters=2', 'param_scheduler.0.end=4', **options)
    resumed = run_tool(
        *arguments, 'train_cfg.max_iters=4', 'param_scheduler.0.end=4', before=partial(count_reads, log), **options
    )
    assert 'resumed epoch' in resumed.stdout and (tmp_path / 'run' / 'iter_4.pth').is_file()
    reads = Counter(log.read_text().split())
    assert reads.keys() == {'iter_2.pth', 'backbone.pth'}
    assert max(reads.values()) <= 2, reads


def test_a_file_is_read_once_and_a_broken_one_anew(tmp_path, monkeypatch):
    torch.save({'state_dict': {'a': torch.ones(2)}}, tmp_path / 'a.pth')
    (tmp_path / 'b.pth').write_bytes(b'')
    (tmp_path / 'link.pth').symlink_to('a.pth')
    log = tmp_path / 'reads'
    monkeypatch.setattr(torch, 'load', torch.load)  # put back afterwards
    count_reads(log)
    read = CheckpointReader()
    assert read(tmp_path / 'a.pth') is read(str(tmp_path / 'a.pth')) is read(tmp_path / 'link.pth')
    for _ in range(2):
        with pytest.raises(ValueError, match='b.pth cannot be read'):
            read(tmp_path / 'b.pth')
    assert log.read_text().split() == ['a.pth', 'b.pth', 'b.pth']
