"""Heads with one channel: one threshold in masks, scores, validation and exports."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from steps import CONFIGS, build

from mmseg_acl.engine import load_config
from mmseg_acl.engine.export import export_student
from mmseg_acl.evaluation import PolypMetric
from mmseg_acl.models.networks import networks_of, predicting
from mmseg_acl.models.one_channel import with_threshold

LOSS = [dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='PolypDiceLoss')]
HEAD = dict(out_channels=1, loss_decode=LOSS)


def one_channel(folder: Path, name: str, **head: object) -> Path:
    """A config of the tests with one channel."""
    part = 'decode_head' if name == 'supervised' else 'segmentor.decode_head'
    config = Config.fromfile(CONFIGS / f'{name}.py')
    config.merge_from_dict({f'model.{part}.{key}': value for key, value in dict(HEAD, **head).items()})
    config.dump(folder / f'{name}.py')
    return folder / f'{name}.py'


def outputs(model: torch.nn.Module, network: str) -> list[SegDataSample]:
    """Predictions for noise, whose probabilities lie on both sides of 0.3 and 0.5."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    samples = [
        SegDataSample(metainfo=dict(ori_shape=(40, 48), img_shape=(32, 32), padding_size=[0] * 4)) for _ in images
    ]
    with torch.no_grad(), predicting(model, network):
        return model.eval().predict(images, samples)


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights of each network that give logits of mean 0 and deviation 1 for the noise of :func:`outputs`."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, network in networks_of(model).items():
            lasts = [part.conv_seg for part in network.modules() if hasattr(part, 'conv_seg')]
            for last in lasts:
                last.weight.normal_(std=0.1)
            logits = torch.cat([sample.seg_logits.data.double().logit() for sample in outputs(model, name)])
            for last in lasts:
                last.weight.div_(logits.std())
                last.bias.sub_(logits.mean() / logits.std())
    return model


@pytest.mark.slow
@pytest.mark.parametrize('name', ['supervised', 'mean_teacher', 'aclnet', 'psmt'])
def test_masks_are_where_scores_are_counted(tmp_path, name):
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='threshold is not defined')
        model = spread(MODELS.build(load_config(str(one_channel(tmp_path, name))).model))
    for network in networks_of(model):
        metric = PolypMetric('dataset')
        for sample in outputs(model, network):
            probability = sample.seg_logits.data[0]
            assert ((probability > 0.3) & (probability < 0.5)).any()
            torch.testing.assert_close(sample.pred_sem_seg.data[0] == 1, probability >= 0.5)
            sample.gt_sem_seg = sample.pred_sem_seg
            metric.process({}, [sample.to_dict()])
        assert metric.evaluate(2)['dataset/Dice'] == 100


@pytest.mark.slow
def test_an_exported_head_has_the_threshold_too(tmp_path):
    config = Config.fromfile(one_channel(tmp_path, 'mean_teacher'))
    assert 'threshold' not in config.model.segmentor.decode_head
    model = spread(MODELS.build(config.model))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'last.pth')
    path, weights = export_student(config, tmp_path / 'last.pth', tmp_path / 'out', 'teacher')
    plain = MODELS.build(Config.fromfile(path).model)
    plain.load_state_dict(torch.load(weights, weights_only=True)['state_dict'])
    for ours, theirs in zip(outputs(model, 'teacher'), outputs(plain, 'student'), strict=True):
        torch.testing.assert_close(ours.seg_logits.data, theirs.seg_logits.data)
        assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['supervised', 'mean_teacher'])
def test_another_threshold_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match='decode_head.threshold is 0.3; a head with one channel is cut at 0.5 here'):
        load_config(str(one_channel(tmp_path, name, threshold=0.3)))


def test_a_method_built_by_mmseg_itself_refuses_it_too():
    with pytest.raises(ValueError, match='threshold is 0.4'):
        build('mean_teacher', **{'segmentor.decode_head.out_channels': 1, 'segmentor.decode_head.threshold': 0.4})


def test_other_heads_are_left_alone():
    head = dict(type='FCNHead', num_classes=2, in_channels=4)
    assert with_threshold(head) == head
    several = dict(decode_head=[head, dict(head, out_channels=1)], neck=dict(type='FPN', out_channels=1))
    assert with_threshold(several)['decode_head'] == [head, dict(head, out_channels=1, threshold=0.5)]
    assert with_threshold(several)['neck'] == several['neck']
    assert with_threshold(dict(type='FCNHead', num_classes=1))['threshold'] == 0.5
