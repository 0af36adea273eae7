"""Every method with every family of segmentors as its student."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from families import FAMILIES, QUICK, config_of, fitted
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmseg.registry import MODELS

from mmseg_acl.methods import METHODS

CONFIGS = Path(__file__).parent / 'configs'
# Heads of other shapes: one that gives logits, one that gives a list of them, a cascade.
SHAPES = ('FCN', 'K-Net', 'OCRNet')
# These stand on the same pieces, so that what one of them needs of a student, the others need as well.
NEWER = ('fixmatch', 'unimatch', 'unimatch_v2', 'corrmatch', 'cps', 'bcp')


# What cannot be, and says why, by method and family.
OTHER_FEATURES = 'reads other features in training than in eval mode'
NO_MAPS = 'gives out no list of feature maps'
CELLS = r'not whole cells of .*: set TwoCrops\(stride=...\) to a multiple'
REFUSED = {
    ('cac', 'Segmenter'): CELLS,
    ('cac', 'DPT + DINOv2'): CELLS,
    ('cac', 'UPerNet + DINOv2'): CELLS,
    ('cafd', 'PIDNet'): NO_MAPS,
    ('cafd', 'DDRNet'): NO_MAPS,
    ('psmt', 'PIDNet'): OTHER_FEATURES,
    ('psmt', 'DDRNet'): OTHER_FEATURES,
}


def pairs():
    """Every method with every family; `make test-families` alone runs those that stand for no other."""
    for method in METHODS:
        for name in FAMILIES if method.type != 'EncoderDecoder' else ():
            if (method.folder, name) not in REFUSED:
                chosen = name in (QUICK if method.folder in NEWER else SHAPES)
                marks = [] if chosen else [pytest.mark.families]
                yield pytest.param(method, name, marks=marks, id=f'{method.folder}-{name}')


def train(method, name):
    """Two steps; gives the model, its state before them, and the losses of each."""
    config = Config.fromfile(CONFIGS / f'{method.folder}.py')
    config.model.segmentor = config_of(name)
    for key in ('feature_source', 'feature_stride'):  # of the tests' own backbone
        config.model.pop(key, None)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    batches = iter(Runner.build_dataloader(config.train_dataloader, seed=0))
    before, history = deepcopy(model.state_dict()), []
    for iteration in (6, 7):  # of eight: the warm-up of every method is over
        model.train()
        model.before_step(iteration)
        history.append(model.train_step(fitted(next(batches), name), optimizer))
        model.after_step()
    return model, before, history


@pytest.fixture(autouse=True)
def data(synthetic_root, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize(('method', 'name'), pairs())
def test_two_steps_and_a_prediction(method, name):
    model, before, history = train(method, name)
    for found in history:
        assert {'loss', 'loss_seg'} <= found.keys()
        of_its_own = [key for key in found if key.startswith(('loss_consistency', 'loss_contrast'))]
        assert bool(of_its_own) == method.unlabelled
        assert all(torch.as_tensor(value).isfinite().all() for value in found.values()), found
    model.eval()
    side = FAMILIES[name].side
    for network in model.networks:
        path = model.network_path(network)
        after = {key: value for key, value in model.state_dict().items() if key.startswith(path)}
        assert after and any(not torch.equal(before[key], value) for key, value in after.items())
        model.predict_on = network
        (sample,) = model.predict(torch.randn(1, 3, side, side))
        assert sample.pred_sem_seg.shape == (side, side)
        assert sample.seg_logits.data.isfinite().all()


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize(('folder', 'name'), REFUSED)
def test_a_family_that_a_method_cannot_train_is_refused(folder, name):
    method = next(method for method in METHODS if method.folder == folder)
    with pytest.raises(ValueError, match=REFUSED[folder, name]):
        train(method, name)
