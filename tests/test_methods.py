"""Every method with heads of other shapes: one that gives logits, one that gives a list of them, a cascade."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmseg.registry import MODELS

from mmseg_acl.methods import METHODS

CONFIGS = Path(__file__).parent / 'configs'
SEGMENTORS = [method for method in METHODS if method.type != 'EncoderDecoder']


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('head', ['FCN', 'K-Net', 'OCRNet'])
@pytest.mark.parametrize('method', SEGMENTORS, ids=lambda method: method.folder)
def test_two_steps_and_a_prediction(method, head, synthetic_root, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    config = Config.fromfile(CONFIGS / f'{method.folder}.py')
    config.model.segmentor = deepcopy(FAMILIES[head].config)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    batches = iter(Runner.build_dataloader(config.train_dataloader, seed=0))
    before = deepcopy(model.state_dict())
    for iteration in (6, 7):  # of eight: the warm-up of every method is over
        model.train()
        model.before_step(iteration)
        found = model.train_step(next(batches), optimizer)
        model.after_step()
        assert {'loss', 'loss_seg'} <= found.keys()
        of_its_own = [key for key in found if key.startswith(('loss_consistency', 'loss_contrast'))]
        assert bool(of_its_own) == method.unlabelled
        assert all(torch.as_tensor(value).isfinite().all() for value in found.values()), found
    model.eval()
    for network in model.networks:
        path = model.network_path(network)
        after = {key: value for key, value in model.state_dict().items() if key.startswith(path)}
        assert after and any(not torch.equal(before[key], value) for key, value in after.items())
        model.predict_on = network
        (sample,) = model.predict(torch.randn(1, 3, 64, 64))
        assert sample.pred_sem_seg.shape == (64, 64)
        assert sample.seg_logits.data.isfinite().all()
