"""CAFD: its blocks, its discriminator, who learns from what, and its two optimizers."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import get_state_dict
from mmseg.registry import MODEL_WRAPPERS, MODELS
from steps import CONFIGS, SIDE, batch, build, losses
from torch import nn

from mmseg_acl.engine import load_model_weights
from mmseg_acl.engine.optim_constructor import SeparateOptimWrapperConstructor
from mmseg_acl.models.heads.discriminator import FCDiscriminator
from mmseg_acl.models.heads.focused_dispersive import DispersiveBlock, FocusedBlock, add_block
from mmseg_acl.models.segmentors.cafd import truth_maps
from mmseg_acl.models.semi.joint_pass import full_image_metas
from mmseg_acl.models.semi.pseudo_label import IGNORE, probabilities
from mmseg_acl.models.semi.rampup import sigmoid_rampup

NETWORKS = ('focused', 'dispersive')
DRY = {'segmentor.decode_head.dropout_ratio': 0}
SIGMOID = {
    'segmentor.decode_head.out_channels': 1,
    'segmentor.decode_head.threshold': 0.5,
    'segmentor.decode_head.loss_decode': [dict(type='CrossEntropyLoss', use_sigmoid=True)],
}


def optimizers(model, **changes):
    config = Config.fromfile(CONFIGS / 'cafd.py').optim_wrapper
    config.update(changes)
    return build_optim_wrapper(model, config)


def steps(model, wrappers, count, start=0, data=batch):
    history = []
    for iteration in range(start, start + count):
        model.train()
        model.before_step(iteration)
        torch.manual_seed(iteration)
        history.append(model.train_step(data(seed=iteration), wrappers))
        model.after_step()
    return [{key: float(value.detach()) for key, value in found.items()} for found in history]


def four_classes(seed: int) -> dict:
    """Discs of class 3, and bars of the classes 1 and 2 in their own brightness."""
    data = batch(seed=seed, classes=4)
    for image, sample in zip(data['inputs']['sup'], data['data_samples']['sup'], strict=True):
        image[:, :8], image[:, -8:] = 20, 250
        sample.gt_sem_seg.data[:, :8], sample.gt_sem_seg.data[:, -8:] = 1, 2
    return data


def changed(model, before) -> set[str]:
    """Names of parameters that are not what they were."""
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def snapshot(model) -> dict:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def trained(**changes):
    """A model in ``eval`` mode that has seen some steps, so that its blocks and discriminator say something."""
    model = build('cafd', **DRY, **changes)
    steps(model, optimizers(model), 5)
    return model.eval()


# ------------------------------------------------------------------ the blocks


@pytest.mark.trained
@pytest.mark.parametrize('block', [FocusedBlock, DispersiveBlock])
def test_a_block_begins_as_the_identity_and_learns(block):
    torch.manual_seed(0)
    module, feature = block(6, channels=4), torch.randn(2, 6, 9, 7)
    assert torch.equal(module(feature), feature)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):  # behind a zero layer, the others get their gradient at the second step
        optimizer.zero_grad()
        (module(feature) - feature.flip(3)).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in module.named_parameters() if 'conv.' in n)
    assert not torch.equal(module(feature), feature)


def test_the_boundary_is_where_the_region_ends():
    block = FocusedBlock(1, channels=1, norm_cfg=None)
    nn.init.constant_(block.region.weight, 20.0)
    nn.init.constant_(block.region.bias, -10.0)
    inside = torch.zeros(1, 1, 9, 9)
    inside[..., 3:6, 3:6] = 1
    region, boundary = block.attend(inside)
    for y in range(9):
        for x in range(9):
            window = inside[0, 0, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            assert region[0, 0, y, x].item() == pytest.approx(inside[0, 0, y, x].item(), abs=1e-3)
            expected = (window.max() - window.min()).item()
            assert boundary[0, 0, y, x].item() == pytest.approx(expected, abs=1e-3)


def test_the_dispersive_block_sees_further_than_the_focused_one():
    reach = {}
    for block in (FocusedBlock(2, channels=4), DispersiveBlock(2, channels=4, dilations=(1, 2, 4, 8))):
        nn.init.ones_(block.restore.weight)
        block.eval()
        if isinstance(block, DispersiveBlock):  # the mean over the image reaches everywhere
            nn.init.zeros_(block.context.conv.weight)
        feature = torch.rand(1, 2, 33, 33, requires_grad=True)
        block(feature)[0, :, 16, 16].sum().backward()
        rows = feature.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
        reach[type(block).__name__] = int(rows.max() - rows.min()) // 2
    assert reach['DispersiveBlock'] == 8 and reach['FocusedBlock'] <= 3


UNET = Config.fromfile(CONFIGS / 'tiny_model.py').to_dict()['model']
HEAD = dict(UNET['decode_head'])
OTHER = {key: value for key, value in HEAD.items() if key != 'num_convs'}
SEVERAL = dict(in_channels=[16, 8, 4], in_index=[0, 1, 2])
CASCADE = dict(
    type='CascadeEncoderDecoder',
    num_stages=2,
    decode_head=[HEAD, dict(OTHER, type='OCRHead', ocr_channels=4)],
)
NECK = dict(neck=dict(type='FPN', in_channels=[16, 8, 4], out_channels=6, num_outs=3))


@pytest.mark.parametrize(
    ('changes', 'channels', 'index'),
    [
        (dict(), 4, 2),
        (dict(decode_head=dict(OTHER, type='UPerHead', **SEVERAL, pool_scales=(1, 2))), 4, 2),
        (dict(decode_head=dict(HEAD, **SEVERAL, input_transform='resize_concat')), 4, 2),
        (CASCADE, 4, 2),
        (dict(NECK, decode_head=dict(HEAD, in_channels=6, in_index=0)), 6, 0),
    ],
    ids=['plain', 'several features', 'concatenated', 'cascade', 'neck'],
)
def test_any_segmentor_gets_a_block(changes, channels, index):
    config = deepcopy(UNET)
    config.update(deepcopy(changes))
    torch.manual_seed(0)
    segmentor = MODELS.build(config).eval()
    images = torch.randn(1, 3, SIDE, SIDE)
    before = segmentor.encode_decode(images, full_image_metas(images))
    add_block(segmentor, dict(type='DispersiveBlock', channels=2))
    assert segmentor.neck.block.reduce.conv.in_channels == channels
    segmentor.eval()
    assert torch.equal(segmentor.encode_decode(images, full_image_metas(images)), before)
    plain = (segmentor.neck.neck or nn.Identity())(segmentor.backbone(images))
    nn.init.constant_(segmentor.neck.block.restore.bias, 1.0)
    apart = [not torch.equal(a, b) for a, b in zip(segmentor.extract_feat(images), plain, strict=True)]
    assert [i for i, differs in enumerate(apart) if differs] == [index]
    assert not torch.equal(segmentor.encode_decode(images, full_image_metas(images)), before)


@pytest.mark.slow
def test_a_backbone_without_a_list_of_features_is_refused():
    bare = {
        'segmentor.backbone': dict(_delete_=True, type='MobileNetV2', widen_factor=0.1, out_indices=(6,)),
        'segmentor.decode_head.in_index': 0,
    }
    with pytest.raises(ValueError, match='MobileNetV2 gives out no list of feature maps'):
        build('cafd', **bare)


# ------------------------------------------------------------------ the discriminator


def test_the_discriminator_is_the_papers():
    model = FCDiscriminator(2)
    convs = [layer for layer in model.layers if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [64, 128, 256, 512, 1]
    assert {(conv.kernel_size, conv.stride) for conv in convs} == {((4, 4), (2, 2))}
    assert [layer.negative_slope for layer in model.layers if isinstance(layer, nn.LeakyReLU)] == [0.2] * 4
    assert model.stride == 32
    for size in ((64, 96), (50, 33)):
        assert model(torch.rand(3, 2, *size)).shape == (3, 1, *size)
    with pytest.raises(ValueError, match='maps are 31x64; 5 layers of stride 2 need at least 32x32'):
        model(torch.rand(1, 2, 31, 64))


@pytest.mark.parametrize(
    'wrong', [dict(in_channels=1), dict(in_channels=2, channels=()), dict(in_channels=2, channels=(0,))]
)
def test_a_discriminator_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match='channels is'):
        FCDiscriminator(**wrong)


@pytest.mark.parametrize('stride', [1, 8])
def test_ground_truth_maps_are_one_hot_or_smoothed_to_the_stride(stride):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(4, (2, 16, 24), generator=generator)
    truth[1, :, 3] = IGNORE
    found = truth_maps(truth, 4, stride)
    for b in range(2):
        for c in range(4):
            known = [[float(truth[b, y, x] == c) for x in range(24)] for y in range(16)]
            if stride == 1:
                assert found[b, c].tolist() == known
                continue
            coarse = [
                [
                    sum(known[8 * i + y][8 * j + x] for y in range(8) for x in range(8)) / 64
                    for j in range(3)
                ]
                for i in range(2)
            ]  # fmt: skip
            for y, x in ((0, 0), (5, 11), (15, 23), (8, 17), (12, 4)):
                v, u = (max((p + 0.5) / 8 - 0.5, 0) for p in (y, x))
                i, j = int(v), int(u)
                rows, columns = (min(i + 1, 1), min(j + 1, 2))
                top = coarse[i][j] * (1 - u + j) + coarse[i][columns] * (u - j)
                bottom = coarse[rows][j] * (1 - u + j) + coarse[rows][columns] * (u - j)
                expected = top * (1 - v + i) + bottom * (v - i)
                assert found[b, c, y, x].item() == pytest.approx(expected, abs=1e-6)


def predictions(model, images) -> dict:
    """Probabilities of either network for each image alone, in float64."""
    found = {}
    for name in NETWORKS:
        with torch.no_grad():
            logits = [
                getattr(model, name).encode_decode(image[None], full_image_metas(image[None])) for image in images
            ]
        found[name] = probabilities(torch.cat(logits)).double()
    return found


def judged(model, maps, valid):
    """The discriminator's probability of ground truth a pixel, in float64."""
    with torch.no_grad():
        return deepcopy(model.discriminator).double()(maps * valid[:, None])[:, 0].sigmoid()


def bce(values, valid, target: int) -> float:
    total = count = 0
    for p, counts in zip(values.flatten().tolist(), valid.flatten().tolist(), strict=True):
        if counts:
            total -= math.log(p if target else 1 - p)
            count += 1
    return total / count


@pytest.mark.trained
@pytest.mark.slow
def test_the_discriminator_learns_labels_from_predictions_and_the_networks_to_pass_for_labels():
    """In the warm-up: labelled images alone, ignored pixels left out."""
    model = trained()
    data = batch(seed=9)
    data['data_samples']['sup'][1].gt_sem_seg.data[:, :20] = IGNORE
    found = losses(model, data, iteration=1)
    assert set(found) == {'loss_seg', 'acc_seg', 'loss_dis', 'loss_adv'}
    maps = predictions(model, model.data_preprocessor(data, training=True)['inputs']['sup'])
    truth = torch.cat([sample.gt_sem_seg.data for sample in data['data_samples']['sup']])
    valid = truth != IGNORE
    one_hot = torch.stack([(truth == c).double() for c in range(2)], dim=1)
    real = bce(judged(model, one_hot, valid), valid, 1)
    both, twice = torch.cat([maps[name] for name in NETWORKS]), torch.cat([valid, valid])
    fake = judged(model, both, twice)
    assert found['loss_dis'].item() == pytest.approx((real + bce(fake, twice, 0)) / 2, rel=1e-4)
    assert found['loss_adv'].item() == pytest.approx(0.1 * bce(fake, twice, 1), rel=1e-4)


# ------------------------------------------------------------------ learning from each other


@pytest.mark.trained
@pytest.mark.slow
def test_each_network_learns_what_the_discriminator_trusts_in_the_other():
    model = trained()
    data = batch(seed=9)
    data['data_samples']['unsup_weak'][1].valid.data[:, :20] = False
    views = model.data_preprocessor(data, training=True)['inputs']
    valid = torch.cat([sample.valid.data for sample in data['data_samples']['unsup_weak']])
    weak, strong = predictions(model, views['unsup_weak']), predictions(model, views['unsup_strong'])
    trust = {name: judged(model, weak[name], valid) for name in NETWORKS}
    model.confidence = torch.cat([t[valid] for t in trust.values()]).median().item()
    found = losses(model, data, iteration=5)

    con = label = kept = 0.0
    for name, other in zip(NETWORKS, reversed(NETWORKS), strict=True):
        total = weights = entropy = count = 0.0
        overlap, size = [0.0] * 3, [0.0] * 3
        for b in range(3):
            for y in range(SIDE):
                for x in range(SIDE):
                    if not valid[b, y, x]:
                        continue
                    p, q = strong[name][b, :, y, x].tolist(), weak[other][b, :, y, x].tolist()
                    w = trust[other][b, y, x].item()
                    total += w * ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) / 2
                    weights += w
                    if w > model.confidence:
                        entropy -= math.log(p[q.index(max(q))])
                        overlap[b] += p[1] * q[1]
                        size[b] += p[1] ** 2 + q[1] ** 2
                        count += 1
        dice = sum(1 - (2 * o + 1) / (s + 1) for o, s in zip(overlap, size, strict=True)) / 3
        con += total / weights
        label += entropy / count + dice
        kept += count
    assert 0 < kept < 2 * valid.sum()
    assert found['loss_consistency'].item() == pytest.approx(10 * sigmoid_rampup(5 - 2, 4) * con, rel=1e-3)
    assert found['loss_label'].item() == pytest.approx(0.5 * label, rel=1e-3)
    assert found['kept_share'].item() == pytest.approx(kept / (2 * valid.sum().item()), abs=1e-3)
    mean = torch.cat([t[valid] for t in trust.values()]).mean().item()
    assert found['confidence'].item() == pytest.approx(mean, rel=1e-4)
    passing = torch.cat([judged(model, strong[name], valid) for name in NETWORKS])
    labelled = torch.cat(list(predictions(model, views['sup']).values()))
    ones = torch.ones(6, SIDE, SIDE, dtype=torch.bool)
    expected = 0.1 * bce(judged(model, labelled, ones), ones, 1) + 0.001 * bce(passing, valid.repeat(2, 1, 1), 1)
    assert found['loss_adv'].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.trained
@pytest.mark.slow
def test_phases_begin_when_they_are_to():
    model = build('cafd')
    history = steps(model, optimizers(model), 6)
    first = {'loss', 'loss_seg', 'acc_seg', 'loss_adv', 'loss_dis'}
    assert [set(found) for found in history[:2]] == [first] * 2
    assert [set(found) - first for found in history[2:4]] == [{'loss_consistency', 'confidence'}] * 2
    assert [set(found) - first for found in history[4:]] == [
        {'loss_consistency', 'confidence', 'loss_label', 'kept_share'}
    ] * 2


@pytest.mark.trained
@pytest.mark.slow
def test_no_loss_gives_a_gradient_where_it_should_not():
    model = trained().train()
    found = losses(model, batch(seed=9), iteration=6)
    judgement = found.pop('loss_dis')
    model.zero_grad()
    model.parse_losses(found)[0].backward()
    assert all(p.grad is None for p in model.discriminator.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.focused.parameters() if p.ndim > 1)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.dispersive.parameters() if p.ndim > 1)
    model.zero_grad()
    judgement.backward()
    assert all(p.grad is None for p in model.segmentors.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.discriminator.parameters())


@pytest.mark.trained
@pytest.mark.slow
def test_a_network_gets_no_gradient_from_teaching_the_other():
    model = trained(adversarial_weights=(0.0, 0.0)).train()
    found = losses(model, batch(seed=9), iteration=6)
    for name, other in zip(NETWORKS, reversed(NETWORKS), strict=True):
        images = torch.rand(2, 3, SIDE, SIDE)
        lesson = model.predict_weak(other, images)
        assert not lesson.requires_grad and getattr(model, name).training
    gradients = torch.autograd.grad(found['loss_consistency'], list(model.segmentors.parameters()), allow_unused=True)
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.trained
@pytest.mark.slow
def test_targets_leave_no_trace_in_the_statistics():
    model = trained().train()
    before = deepcopy(model.state_dict())
    model.predict_weak('focused', torch.rand(2, 3, SIDE, SIDE))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'data'),
    [
        (dict(), batch),
        ({'segmentor.decode_head.num_classes': 4}, four_classes),
        (SIGMOID, batch),
        (dict(truth_stride=8), batch),
    ],
    ids=['two classes', 'four classes', 'sigmoid', 'smoothed'],
)
def test_every_loss_is_at_work_and_finite(changes, data):
    model = build('cafd', **changes)
    history = steps(model, optimizers(model), 8, data=data)
    for found in history[4:]:
        assert {k for k in found if 'loss_' in k} == {
            'loss_seg',
            'loss_adv',
            'loss_dis',
            'loss_consistency',
            'loss_label',
        }
        assert all(0 < value < 100 for key, value in found.items() if 'loss' in key), found
        assert 0 < found['confidence'] < 1 and 0 <= found['kept_share'] <= 1


@pytest.mark.trained
@pytest.mark.slow
def test_nothing_that_is_trusted_and_nothing_but_padding_are_finite():
    model = trained()
    model.confidence = 1 - 1e-9
    found = losses(model, batch(seed=9), iteration=6)
    assert found['kept_share'] == 0 and found['loss_label'] == 0
    data = batch(seed=9)
    for sample in data['data_samples']['unsup_weak']:
        sample.valid.data[:] = False
    found = losses(model, data, iteration=6)
    assert found['loss_consistency'] == found['loss_label'] == found['confidence'] == 0
    model.parse_losses(found)[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.trained
@pytest.mark.slow
def test_what_lies_under_padding_says_nothing():
    model = trained()
    truth = batch(seed=9)['data_samples']['sup'][0].gt_sem_seg.data
    truth[:, :, 40:] = IGNORE
    maps = torch.rand(2, 2, SIDE, SIDE).softmax(dim=1)
    other = maps.clone()
    other[..., 40:] = torch.rand(2, 2, SIDE, SIDE - 40)
    valid = torch.cat([truth, truth]) != IGNORE
    for found in (
        lambda m: model.discriminator_loss(m, truth),
        lambda m: model.adversarial_loss(m, valid),
        lambda m: model.confidence_map(m, valid),
    ):
        assert torch.equal(found(maps), found(other))


# ------------------------------------------------------------------ two optimizers


@pytest.mark.slow
def test_each_optimizer_has_its_own_parameters():
    model = build('cafd')
    wrappers = optimizers(model, paramwise_cfg=dict(custom_keys={'neck.block': dict(lr_mult=10.0)}))
    assert type(wrappers['segmentor'].optimizer).__name__ == 'SGD'
    assert type(wrappers['discriminator'].optimizer).__name__ == 'Adam'
    for name, part in (('segmentor', model.segmentors), ('discriminator', model.discriminator)):
        held = {id(p) for group in wrappers[name].optimizer.param_groups for p in group['params']}
        assert held == {id(p) for p in part.parameters()}
    lr = {id(group['params'][0]): group['lr'] for group in wrappers['segmentor'].optimizer.param_groups}
    base = wrappers['segmentor'].optimizer.defaults['lr']
    assert lr[id(model.focused.neck.block.region.weight)] == pytest.approx(10 * base)
    assert lr[id(model.focused.decode_head.conv_seg.weight)] == pytest.approx(base)


@pytest.mark.parametrize(
    'separate', [None, {}, dict(critic=dict()), dict(discriminator=dict(), segmentors=dict()), dict(segmentor=dict())]
)
def test_parts_that_cannot_be_separate_are_named(separate):
    with pytest.raises(ValueError, match='optim_wrapper.separate'):
        config = dict(optimizer=dict(type='SGD', lr=0.1), separate=separate)
        SeparateOptimWrapperConstructor(config)(build('cafd'))


def test_a_single_optimizer_is_refused():
    model = build('cafd')
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TypeError, match='SeparateOptimWrapperConstructor'):
        steps(model, wrapper, 1)


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('kind', ['OptimWrapper', 'BFloat16OptimWrapper'])
def test_accumulation_and_mixed_precision_hold_for_both(kind):
    model = build('cafd')
    wrappers = optimizers(model, type=kind, accumulative_counts=2)
    assert {type(wrapper).__name__ for wrapper in wrappers.values()} == {kind}
    wrappers.initialize_count_status(model, 0, 8)
    before = snapshot(model)
    (found,) = steps(model, wrappers, 1, start=4)
    assert changed(model, before) == set()
    steps(model, wrappers, 1, start=5)
    moved = changed(model, before)
    assert {name.split('.')[0] for name in moved} == {'segmentors', 'discriminator'}
    assert all(value.dtype == torch.float32 for value in model.state_dict().values() if value.is_floating_point())
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.trained
@pytest.mark.slow
def test_a_resumed_run_knows_its_place_in_a_cycle_of_accumulation():
    model = build('cafd')
    wrappers = optimizers(model, accumulative_counts=3)
    wrappers.initialize_count_status(model, 5, 7)  # the sixth step ends a cycle, the seventh is what remains
    for iteration in (5, 6):
        before = snapshot(model)
        steps(model, wrappers, 1, start=iteration)
        assert {name.split('.')[0] for name in changed(model, before)} == {'segmentors', 'discriminator'}


def distributed(rank: int, folder: str) -> None:
    """Two steps in each of two processes, on images of their own."""
    import mmseg_acl  # noqa: F401

    init_default_scope('mmseg')
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    config = Config.fromfile(CONFIGS / 'cafd.py')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    names = set(model.state_dict())
    wrapped = MODEL_WRAPPERS.build(dict(config.model_wrapper_cfg, module=model))
    weight = model.focused.decode_head.conv_seg.weight
    before = weight.detach().clone()
    model.init_weights()
    assert not torch.equal(weight, before), 'wrapped parts are initialised too'
    for value in model.state_dict().values():
        torch.distributed.broadcast(value, 0)
    assert set(get_state_dict(wrapped)) == names
    before = snapshot(model)
    wrappers = build_optim_wrapper(wrapped, config.optim_wrapper)
    for iteration in (1, 4, 5):
        wrapped.train()
        model.before_step(iteration)
        wrapped.train_step(batch(seed=10 * iteration + rank), wrappers)
    assert {name.split('.')[0] for name in changed(model, before)} == {'segmentors', 'discriminator'}
    for value in model.parameters():
        other = value.detach().clone()
        torch.distributed.broadcast(other, 0)
        assert torch.equal(value, other), 'the ranks have moved apart'
    assert model.predict(torch.rand(1, 3, SIDE, SIDE))[0].seg_logits.data.shape == (2, SIDE, SIDE)
    torch.distributed.destroy_process_group()
    Path(folder, f'rank{rank}').touch()


@pytest.mark.slow
def test_two_processes_stay_together(tmp_path):
    mp.spawn(distributed, args=(str(tmp_path),), nprocs=2)
    assert sorted(p.name for p in tmp_path.glob('rank*')) == ['rank0', 'rank1']


# ------------------------------------------------------------------ as a model


@pytest.mark.trained
@pytest.mark.slow
def test_the_networks_differ_from_the_start_and_either_predicts():
    model = build('cafd')
    assert model.networks == NETWORKS and model.predict_on == 'focused'
    steps(model, optimizers(model), 3)
    model.eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    outputs = {}
    for model.predict_on in NETWORKS:
        outputs[model.predict_on] = model.predict(images)[0].seg_logits.data
        expected = getattr(model, model.predict_on).predict(images)[0].seg_logits.data
        assert torch.equal(outputs[model.predict_on], expected)
    assert not torch.equal(*outputs.values())


@pytest.mark.slow
def test_a_plain_mmseg_checkpoint_fills_both_networks(tmp_path):
    plain, model = build('supervised'), build('cafd')
    for value in plain.state_dict().values():
        if value.is_floating_point():
            value.add_(1)
    model.load_state_dict(plain.state_dict(), strict=False)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.focused.state_dict()[name], value)
        assert torch.equal(model.dispersive.state_dict()[name], value)
    own, other = tmp_path / 'own.pth', build('cafd')
    torch.save(dict(state_dict=model.state_dict()), own)
    load_model_weights(other, own)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(confidence=1.0), r'confidence is 1.0; .* in \[0, 1\)'),
        (dict(truth_stride=0), 'truth_stride is 0; it must be at least 1'),
        (dict(predict_on='teacher'), "predict_on is 'teacher'; CAFD has focused, dispersive"),
        ({'dispersive.dilations': (0,)}, 'dilations is'),
        (dict(focussed={}), 'focussed'),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build('cafd', **wrong)
