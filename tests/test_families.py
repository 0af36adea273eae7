"""mmseg's families of segmentors as students, each by a method's name and nothing else."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import steps
import torch
import torch.nn.functional as F
from families import FAMILIES, QUICK, config_of, fcn, fitted, on_resnet, segmentor, with_sigmoid
from mmcv.cnn.bricks import DropPath
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from mmseg_acl.engine.start.weights import check_weights_fit, resolve_weights
from mmseg_acl.models.semi.feature_tap import FeatureTap
from mmseg_acl.models.semi.head_families import HEAD_FAMILIES, HeadFamily, family_of, last_head
from mmseg_acl.models.semi.joint_pass import full_image_metas, joint_pass, sum_losses
from mmseg_acl.models.semi.student import build_segmentor

# A method's own settings, small enough for two steps. Every loss is active from the first step on.
METHODS = {
    'MeanTeacher': dict(rampup_iters=2),
    'ACLNet': dict(
        bank_min_keys=1,
        contrast=dict(bank_size=128, num_anchors=16),
        aggregation=dict(interval=1, num_clusters=3, max_keys=64),
        refinement=dict(num_iters=2),
    ),
}
families = pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
# Parameters that mmseg's own forward pass does not use either, so that they never have a gradient.
UNUSED_BY_MMSEG = ('ema_mid_conv', 'fusion_kernel')


def build(method: str, config: dict) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(type=method, segmentor=config, warmup_iters=0, **METHODS[method]))
    model.init_weights()
    return model


def batch(name: str, seed: int = 0) -> dict:
    """A batch at the family's size."""
    return fitted(steps.batch(images=FAMILIES[name].images, seed=seed), name)


def train(model: nn.Module, name: str, count: int = 2) -> list[dict]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    history = []
    for iteration in range(count):
        model.train()
        found = steps.losses(model, batch(name, seed=iteration), iteration)
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        optimizer.step()
        model.after_step()
        history.append({key: float(value.detach()) for key, value in found.items()})
    return history


def without_noise(model: nn.Module) -> nn.Module:
    """Training mode, but BatchNorm with its running statistics and no dropout: images do not see each other."""
    model.train()
    for module in model.modules():
        if isinstance(module, (_BatchNorm, _DropoutNd, DropPath)):
            module.eval()
    return model


def inputs_of(name: str, config: dict, seed: int = 0) -> tuple[torch.Tensor, list, torch.Tensor]:
    """Labelled images, their samples and unlabelled images, preprocessed."""
    preprocessor = MODELS.build(
        dict(type='MultiViewSegDataPreprocessor', data_preprocessor=config['data_preprocessor'])
    )
    data = preprocessor(batch(name, seed), training=True)
    return data['inputs']['sup'], data['data_samples']['sup'], data['inputs']['unsup_strong']


# ------------------------------------------------------------------ every family


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
@families
def test_a_family_trains_and_predicts(name, method):
    model = build(method, config_of(name))
    before = deepcopy(model.student.state_dict())
    for found in train(model, name):
        assert all(math.isfinite(value) for value in found.values()), found
        assert found['loss_seg'] > 0 and found['loss_consistency'] > 0
    idle = [key for key, p in model.student.named_parameters() if p.requires_grad and p.grad is None]
    assert not [key for key in idle if not any(part in key for part in UNUSED_BY_MMSEG)]
    after = model.student.state_dict()
    assert any(not torch.equal(after[key], value) for key, value in before.items())

    model.eval()
    side = FAMILIES[name].side
    images = torch.randn(2, 3, side, side)
    for network in model.networks:
        model.predict_on = network
        for sample in model.predict(images):
            assert sample.pred_sem_seg.shape == (side, side)
            assert sample.pred_sem_seg.data.max() <= 1 and sample.seg_logits.data.isfinite().all()


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name, family in FAMILIES.items()
        if family.sigmoid
    ],
)
def test_a_family_with_a_sigmoid_trains_and_predicts(name, method):
    model = build(method, with_sigmoid(config_of(name)))
    (found,) = train(model, name, count=1)
    assert all(math.isfinite(value) for value in found.values()) and found['loss_consistency'] > 0
    side = FAMILIES[name].side
    with torch.no_grad():
        (sample,) = model.eval().predict(torch.randn(1, 3, side, side))
    assert sample.seg_logits.shape == (side, side) and len(sample.seg_logits.data) == 1


@pytest.mark.slow
@families
def test_the_last_feature_is_alike_in_student_and_teacher(name):
    """Same weights, same images: the student's feature is the teacher's, and it is what the head classifies."""
    config, family = config_of(name), FAMILIES[name]
    model = build('MeanTeacher', config)
    student_tap, teacher_tap = FeatureTap(model.student), FeatureTap(model.teacher)
    images, samples, others = inputs_of(name, config)
    without_noise(model.student)
    with student_tap:
        torch.manual_seed(1)
        logits = joint_pass(model.student, images, samples, others).logits.all
    with teacher_tap:
        torch.manual_seed(1)
        expected = model.run_teacher(torch.cat([images, others]))
    ours, theirs = student_tap.pop(), teacher_tap.pop()
    assert ours.ndim == 4 and ours.shape[:2] == (2 * family.images, student_tap.channels) and ours.requires_grad
    if name not in ('SegNeXt', 'EMANet'):  # whose bases follow each batch while training
        torch.testing.assert_close(ours, theirs)
        if name != 'PointRend':  # refines what it predicts
            torch.testing.assert_close(logits, expected)
    assert not theirs.requires_grad and student_tap.channels == teacher_tap.channels == theirs.shape[1]
    head = last_head(model.teacher)
    if hasattr(head, 'conv_seg') and name != 'PointRend' and not family.random:
        size = expected.shape[2:]
        resized = F.interpolate(head.conv_seg(theirs), size=size, mode='bilinear', align_corners=head.align_corners)
        torch.testing.assert_close(resized, expected)


@pytest.mark.slow
@families
def test_the_joint_pass_has_mmsegs_own_supervised_loss(name):
    if name == 'PointRend':
        pytest.skip('its points are drawn at random; see test_pointrend_learns_points_and_coarse_logits')
    config = config_of(name)
    model = build('MeanTeacher', config).student
    images, samples, others = inputs_of(name, config)
    without_noise(model)
    state = deepcopy(model.state_dict())
    torch.manual_seed(1)
    losses, logits, *_ = joint_pass(model, images, samples, others)
    model.load_state_dict(state)  # EMANet moves its bases with every pass
    torch.manual_seed(1)
    expected = model.loss(images, samples)
    torch.testing.assert_close(
        losses['loss_seg'], sum_losses({k: v for k, v in expected.items() if k.startswith('decode')})
    )
    auxiliary = {k: v for k, v in expected.items() if k.startswith('aux')}
    if auxiliary:
        torch.testing.assert_close(losses['loss_aux'], sum_losses(auxiliary))
    assert logits.all.shape == (2 * len(images), 2, *images.shape[2:])


# ------------------------------------------------------------------ single ones


@pytest.mark.slow
def test_pointrend_learns_points_and_coarse_logits():
    """The coarse stage's logits serve for unlabelled images, the point head learns from the labelled ones."""
    config = config_of('PointRend')
    model = build('MeanTeacher', config).student
    images, samples, others = inputs_of('PointRend', config)
    without_noise(model)
    torch.manual_seed(1)
    losses, logits, *_ = joint_pass(model, images, samples, others)
    torch.manual_seed(1)
    torch.testing.assert_close(losses['loss_seg'], sum_losses(model.loss(images, samples)))
    coarse, points = model.decode_head
    expected = F.interpolate(
        coarse(model.extract_feat(torch.cat([images, others]))), size=images.shape[2:], mode='bilinear'
    )
    torch.testing.assert_close(logits.all, expected)
    logits.unlabelled.sum().backward(retain_graph=True)
    assert all(p.grad is None for p in points.parameters())
    losses['loss_seg'].backward()
    assert all(p.grad is not None for p in points.parameters())


@pytest.mark.slow
def test_pidnet_without_edges_says_which_transform_is_missing():
    model = build('MeanTeacher', config_of('PIDNet'))
    data = batch('PIDNet')
    for sample in data['data_samples']['sup']:
        del sample.gt_edge_map
    with pytest.raises(ValueError, match="PIDHead needs the labels' edges.*GenerateEdge"):
        steps.losses(model, data, 0)


@pytest.mark.parametrize(('name', 'usable'), [('DDRNet', 'no stage'), ('DPT', '0, 1, 2, 3'), ('FCN', '0, 1, 2, 3')])
def test_a_stage_that_cannot_be_tapped_is_named(name, usable):
    with pytest.raises(ValueError, match=f'stage 7.*feature maps at {usable}'):
        FeatureTap(MODELS.build(ConfigDict(config_of(name))), 7)


@pytest.mark.trained
@pytest.mark.slow
def test_a_padding_preprocessor_pads_what_is_valid_too():
    """mmseg's configs pad to their crop size: what lies beyond a smaller view must not count."""
    config = config_of('FCN')
    config['data_preprocessor']['size'] = (80, 96)
    model = build('MeanTeacher', config)
    data = model.data_preprocessor(batch('FCN'), training=True)
    assert data['inputs']['unsup_strong'].shape == (2, 3, 80, 96)
    valid = data['data_samples']['unsup_weak'][0].valid.data
    assert valid.shape == (1, 80, 96) and valid[:, :64, :64].all() and valid.sum() == 64 * 64
    assert math.isfinite(train(model, 'FCN', count=1)[0]['loss_consistency'])


@pytest.mark.trained
@pytest.mark.slow
def test_sync_batchnorm_as_in_mmsegs_configs_trains_on_one_device():
    config = config_of('FCN')
    for part in (config['backbone'], config['decode_head'], config['auxiliary_head']):
        part['norm_cfg'] = dict(type='SyncBN', requires_grad=True)
    assert train(build('MeanTeacher', config), 'FCN', count=1)[0]['loss_seg'] > 0


@pytest.mark.slow
def test_weights_of_a_backbone_inside_a_backbone_are_resolved(monkeypatch, tmp_path):
    """STDC, BiSeNet and ICNet name their pre-trained weights one floor below."""
    config = ConfigDict(model=dict(type='MeanTeacher', segmentor=config_of('STDC')))
    nested = config.model.segmentor.backbone.backbone_cfg
    nested.init_cfg = ConfigDict(type='Pretrained', checkpoint='somewhere/stdc.pth')
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', str(tmp_path))
    torch.manual_seed(3)
    inner = MODELS.build(ConfigDict(config_of('STDC'))).backbone.backbone
    torch.save(inner.state_dict(), tmp_path / 'stdc.pth')
    resolve_weights(config.model)
    assert nested.init_cfg.checkpoint == str(tmp_path / 'stdc.pth')
    model = build('MeanTeacher', config.model.segmentor)
    check_weights_fit(model, nested.init_cfg.checkpoint)
    for key, value in inner.state_dict().items():
        assert torch.equal(model.student.backbone.backbone.state_dict()[key], value), key
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    resolve_weights(config.model)
    assert 'init_cfg' not in nested


# ------------------------------------------------------------------ what does not work says so when it is built


@pytest.mark.parametrize('kind', ['CCHead', 'PSAHead', 'PointHead'])
def test_missing_operators_are_an_error_with_the_reason(kind, monkeypatch):
    module = {'CCHead': 'cc_head', 'PSAHead': 'psa_head', 'PointHead': 'point_head'}[kind]
    operator = {'CCHead': 'CrissCrossAttention', 'PSAHead': 'PSAMask', 'PointHead': 'point_sample'}[kind]
    monkeypatch.setattr(f'mmseg.models.decode_heads.{module}.{operator}', None)
    extra = dict(PSAHead=dict(mask_size=(9, 9))).get(kind, {})
    config = segmentor(dict(fcn(), **extra, type=kind))
    if kind == 'PointHead':
        config = segmentor([fcn(), dict(fcn([32], [2]), type=kind)])
    for part in (config['decode_head'],) if isinstance(config['decode_head'], dict) else config['decode_head'][1:]:
        for key in ('num_convs', 'concat_input'):
            part.pop(key)
    with pytest.raises(ImportError, match='compiled operators.*CCNet, PSANet and PointRend need them'):
        build('MeanTeacher', config)


@pytest.mark.parametrize('part', ['decode_head', 'auxiliary_head'])
def test_class_weights_of_another_data_set_are_an_error(part):
    config = on_resnet('FCNHead')
    config[part]['loss_decode'] = dict(type='CrossEntropyLoss', class_weight=[1.0] * 19)
    with pytest.raises(ValueError, match='CrossEntropyLoss of FCNHead has 19 class weights.*gives out 2 channels'):
        build('MeanTeacher', config)
    config[part]['loss_decode'] = dict(type='CrossEntropyLoss', class_weight=[0.5, 1.5])
    assert build_segmentor(config).num_classes == 2


@pytest.mark.parametrize('name', [name for name, family in FAMILIES.items() if not family.sigmoid])
def test_a_head_that_cannot_have_one_channel_says_so(name):
    with pytest.raises(ValueError, match='out_channels=1 with num_classes=2: in mmseg .* does not work'):
        build('MeanTeacher', with_sigmoid(config_of(name)))


def test_a_sampler_of_hard_pixels_and_one_channel_is_an_error():
    config = with_sigmoid(on_resnet('FCNHead'))
    config['decode_head']['sampler'] = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)
    with pytest.raises(ValueError, match='the OHEMPixelSampler of FCNHead does not work with one channel'):
        build('MeanTeacher', config)


class QueryHead(nn.Module):
    """As Mask2Former's: no logits a pixel."""

    num_classes, out_channels, align_corners = 2, 2, False


def test_segmentors_without_logits_a_pixel_are_refused():
    if 'QueryHead' not in MODELS:
        MODELS.register_module(name='QueryHead', module=QueryHead)
    with pytest.raises(TypeError, match='QueryHead does not give out one logit a class and pixel'):
        build('MeanTeacher', segmentor(dict(type='QueryHead')))
    inner = on_resnet('FCNHead')
    with pytest.raises(TypeError, match='the segmentor is a MeanTeacher; a student is an EncoderDecoder'):
        build('MeanTeacher', dict(type='MeanTeacher', segmentor=inner, data_preprocessor=inner['data_preprocessor']))


def test_every_row_of_the_table_is_a_head_of_mmseg_and_serves_its_heirs():
    for name, family in HEAD_FAMILIES.items():
        cls = MODELS.get(name)
        assert cls is not None and family != HeadFamily(), name
        heir = type('Heir', (cls,), {})
        assert family_of(heir.__new__(heir)) is family
    assert family_of(torch.nn.Identity()) == HeadFamily()


@pytest.mark.slow
def test_an_unknown_head_has_no_tap():
    model = MODELS.build(ConfigDict(config_of('FCN')))
    del model.decode_head.conv_seg
    with pytest.raises(ValueError, match='FCNHead has no conv_seg.*feature_source'):
        FeatureTap(model)
    assert full_image_metas(torch.zeros(1, 3, 4, 6))[0]['img_shape'] == (4, 6)
