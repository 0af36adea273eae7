"""Losses and weights that are no numbers; what a whole run leaves behind is in ../test_interruption.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from steps import batch
from torch import nn

from mmseg_acl.engine import read_checkpoint
from mmseg_acl.engine.hooks import FiniteLossHook
from mmseg_acl.errors import NonFiniteError


class Model(nn.Module):
    """Returns the losses that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, losses: dict, mode: str = 'loss') -> dict:
        return losses


@pytest.fixture
def run(tmp_path):
    runner = SimpleNamespace(
        model=Model(), iter=6, seed=1, work_dir=tmp_path, optim_wrapper=SimpleNamespace(state_dict=dict)
    )
    runner.hook = FiniteLossHook()
    runner.hook.before_train(runner)
    runner.hook.before_train_iter(runner, 0, batch())
    return runner


def test_a_loss_that_is_no_number_ends_the_run_with_its_name_and_its_batch(run, tmp_path):
    losses = dict(loss_a=torch.tensor(2.0), loss_b=torch.tensor(float('nan')), share=torch.tensor(float('inf')))
    with pytest.raises(NonFiniteError, match=r'at iteration 7: loss_b = nan \(finite: loss_a = 2\)'):
        run.model(losses, mode='loss')
    state = read_checkpoint(tmp_path / 'non_finite_iter_7.pth')
    assert state['iter'] == 6 and set(state['batch']) == {'sup', 'unsup_weak', 'unsup_strong'}
    assert state['state_dict']['weight'].tolist() == [1, 1, 1]


def test_finite_losses_and_other_passes_go_on(run, tmp_path):
    run.model(dict(loss_a=torch.tensor(2.0), share=torch.tensor(float('nan'))), mode='loss')
    run.model(dict(loss_a=torch.tensor(float('nan'))), mode='tensor')
    run.hook.after_train(run)
    run.model(dict(loss_a=torch.tensor(float('nan'))), mode='loss')
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_not_saved(run):
    checkpoint = dict(state_dict=run.model.state_dict())
    run.hook.before_save_checkpoint(run, checkpoint)
    run.model.weight.data[1] = float('inf')
    with pytest.raises(NonFiniteError, match='1 of the 1 weights are NaN or infinite before iteration 7 ends'):
        run.hook.before_save_checkpoint(run, checkpoint)
