"""Checkpoints are read without executing anything, and fit their model or are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmseg.registry import MODELS
from steps import CONFIGS

from mmseg_acl.engine import load_model_weights, read_checkpoint


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, 'executed')


def test_a_crafted_pickle_does_not_execute(tmp_path):
    target = tmp_path / 'proof'
    torch.save({'state_dict': {}, 'extra': Bomb(target)}, tmp_path / 'bomb.pth')
    with pytest.raises(ValueError, match='bomb.pth cannot be read as a checkpoint'):
        read_checkpoint(tmp_path / 'bomb.pth')
    assert not target.exists()
    with open(tmp_path / 'bomb.pth', 'wb') as file:
        pickle.dump({'state_dict': Bomb(target)}, file)
    with pytest.raises(ValueError):
        read_checkpoint(tmp_path / 'bomb.pth')
    assert not target.exists()


def test_what_mmengine_stores_can_be_read(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save({'state_dict': {}, 'message_hub': {'log_scalars': {'train/loss': buffer}}}, tmp_path / 'a.pth')
    found = read_checkpoint(tmp_path / 'a.pth')['message_hub']['log_scalars']['train/loss']
    assert found.data[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize('content', [b'', b'no checkpoint', None])
def test_broken_checkpoints_are_named(tmp_path, content):
    path = tmp_path / 'broken.pth'
    if content is None:
        torch.save({'state_dict': {'a': torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:-500])
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match='broken.pth cannot be read'):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        read_checkpoint(tmp_path / 'absent.pth')


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    mean_teacher = MODELS.build(Config.fromfile(CONFIGS / 'mean_teacher.py').model)
    acl = MODELS.build(Config.fromfile(CONFIGS / 'aclnet.py').model)
    torch.save({'state_dict': mean_teacher.state_dict()}, tmp_path / 'mt.pth')
    with pytest.raises(
        ValueError, match=r"not made by this model \(ACLNet.* missing, such as 'acl_head.bank.cursor'"
    ):
        load_model_weights(acl, tmp_path / 'mt.pth')
    torch.save({'state_dict': mean_teacher.student.state_dict()}, tmp_path / 'plain.pth')
    load_model_weights(acl, tmp_path / 'plain.pth')
    for key, value in mean_teacher.student.state_dict().items():
        assert torch.equal(acl.teacher.state_dict()[key], value)
