"""What ``--amp`` costs on a CPU is measured and said before training, and changes nothing of the run."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmseg_acl.engine.start import cpu_precision

WANTED = Config(dict(optim_wrapper=dict(type='BFloat16OptimWrapper')))


class Network(nn.Module):
    """A network that notes in which precision it ran, and draws numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        self.seen: list[tuple] = []

    def forward(self, images: torch.Tensor, mode: str) -> torch.Tensor:
        out = self.layer(images) + torch.rand(1)
        self.seen.append((mode, tuple(images.shape), torch.is_autocast_enabled('cpu'), self.training))
        return out


def runner_of(network: nn.Module) -> SimpleNamespace:
    frames = [dict(inputs=dict(sup=torch.zeros(3, 6, 8)))]
    return SimpleNamespace(
        model=network, train_dataloader=SimpleNamespace(dataset=frames), logger=logging.getLogger('precision')
    )


def test_both_precisions_run_and_nothing_else_changes():
    network = Network().train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert cpu_precision.time_ratio(network, torch.zeros(2, 3, 6, 8)) > 0
    assert [bfloat16 for _, _, bfloat16, _ in network.seen] == [False, True] * (cpu_precision.ROUNDS + 1)
    assert {(mode, training) for mode, _, _, training in network.seen} == {('tensor', False)}
    assert network.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('ratio, level', [(2.0, 'WARNING'), (0.7, 'INFO')])
def test_the_user_hears_whether_it_pays(ratio, level, monkeypatch, caplog):
    shapes = []
    monkeypatch.setattr(cpu_precision, 'time_ratio', lambda network, images: shapes.append(images.shape) or ratio)
    with caplog.at_level('INFO'):
        cpu_precision.say_what_bfloat16_costs(runner_of(Network()), WANTED)
    (record,) = caplog.records
    assert (record.levelname, f'{ratio:.2f}' in record.message) == (level, True)
    assert ('Leave --amp out' in record.message) == (ratio > 1)
    assert shapes == [(2, 3, 6, 8)]


def test_nothing_is_measured_in_single_precision(monkeypatch):
    monkeypatch.setattr(cpu_precision, 'time_ratio', lambda *_: np.nan)
    cpu_precision.say_what_bfloat16_costs(SimpleNamespace(model=Network()), Config(dict(optim_wrapper=dict())))
