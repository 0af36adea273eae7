"""DINOv2 and DINOv3 as encoders: features, published files, what is frozen, learning rates, the methods on them."""

from __future__ import annotations

import signal
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import steps
import torch
import torch.nn.functional as F
from comparing import assert_same_run
from families import dpt_on_dino
from killing import die_at
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from published_vits import dinov2_shapes, dinov3_shapes, features, random_state
from tool_process import ToolProcess, run_tool
from torch import nn

from mmseg_acl.engine.start.weights import check_weights_fit, resolve_weights
from mmseg_acl.inference.exporting import export
from mmseg_acl.models.backbones import DINOv2, DINOv3
from mmseg_acl.models.semi.feature_dropout import channel_dropout, complementary_dropout, with_dropped

transformers = pytest.importorskip('transformers')

CONFIGS = Path(__file__).parents[1] / 'configs'
DIMS, LAYERS, HEADS = 16, 4, 2
TINY = dict(arch=dict(embed_dims=DIMS, num_layers=LAYERS, num_heads=HEADS), out_indices=(0, 1, 2, 3))
# Class, arguments, the authors' names and shapes, epsilon of the norms. 37 x 37 positions come from 518 pixels.
KINDS = {
    'DINOv2': (DINOv2, {}, dinov2_shapes(DIMS, LAYERS, 37 * 37), 1e-6),
    'DINOv2 with registers': (DINOv2, dict(num_registers=4), dinov2_shapes(DIMS, LAYERS, 37 * 37, 4), 1e-6),
    'DINOv3': (DINOv3, {}, dinov3_shapes(DIMS, LAYERS, HEADS), 1e-5),
}
kinds = pytest.mark.parametrize('kind', KINDS)


def build(kind: str, **changes) -> nn.Module:
    cls, arguments, *_ = KINDS[kind]
    torch.manual_seed(0)
    return cls(**TINY, **arguments, **changes)


def published(kind: str, path: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """Write a file as the authors did; what is in it."""
    state = random_state(KINDS[kind][2], seed)
    torch.save(state, path)
    return state


def from_file(kind: str, path: Path, **changes) -> nn.Module:
    found = build(kind, init_cfg=dict(type='Pretrained', checkpoint=str(path)), **changes)
    found.init_weights()
    return found


def images(encoder: nn.Module, rows: int = 3, columns: int = 5) -> torch.Tensor:
    patch = encoder.patch_size
    return torch.randn(2, 3, rows * patch, columns * patch, generator=torch.Generator().manual_seed(5))


# ------------------------------------------------------------------ features and published files


@pytest.mark.slow
@pytest.mark.parametrize(('rows', 'columns'), [(3, 5), (9, 9), (37, 37)])
@kinds
def test_a_published_file_gives_the_features_that_its_authors_describe(kind, rows, columns, tmp_path):
    state = published(kind, tmp_path / 'vit.pth')
    encoder = from_file(kind, tmp_path / 'vit.pth', output_cls_token=True).eval()
    frames = images(encoder, rows, columns)
    with torch.no_grad():
        found, expected = encoder(frames), features(state, frames, HEADS, KINDS[kind][3])
    assert len(found) == LAYERS
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[0].shape == (2, DIMS, rows, columns) and ours[1].shape == (2, DIMS)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    maps = from_file(kind, tmp_path / 'vit.pth').eval()(frames)
    assert all(torch.equal(alone, pair[0]) for alone, pair in zip(maps, found, strict=True))


@kinds
def test_a_file_of_the_model_hub_gives_the_features_of_transformers_own_model(kind, tmp_path):
    name = dict(zip(KINDS, ('Dinov2', 'Dinov2WithRegisters', 'DINOv3ViT'), strict=True))[kind]
    settings = dict(hidden_size=DIMS, num_hidden_layers=LAYERS, num_attention_heads=HEADS)
    if kind == 'DINOv3':
        settings |= dict(intermediate_size=4 * DIMS, num_register_tokens=4)
    else:
        settings |= dict(image_size=518, patch_size=14)
    torch.manual_seed(1)
    theirs = getattr(transformers, f'{name}Model')(getattr(transformers, f'{name}Config')(**settings)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # positions, biases and scales are not the same everywhere any more
            parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    encoder = from_file(kind, tmp_path / 'model.safetensors', output_cls_token=True).eval()
    frames = images(encoder)
    with torch.no_grad():
        found, expected = encoder(frames)[-1], theirs(frames).last_hidden_state
    torch.testing.assert_close(found[1], expected[:, 0], atol=1e-4, rtol=1e-4)
    patches = found[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches, expected[:, -15:], atol=1e-4, rtol=1e-4)


def test_entries_are_named_as_the_hub_has_named_them_since(tmp_path):
    """The files that lie on the hub are older than the names that ``transformers`` gives the network today."""
    state = published('DINOv2', tmp_path / 'authors.pth')
    old = {}
    for name, value in state.items():
        name = name.replace('blocks.', 'encoder.layer.').replace('.ls1.gamma', '.layer_scale1.lambda1')
        name = name.replace('.ls2.gamma', '.layer_scale2.lambda1').replace('attn.proj', 'attention.output.dense')
        name = name.replace('patch_embed.proj', 'embeddings.patch_embeddings.projection')
        name = name.replace('pos_embed', 'embeddings.position_embeddings')
        name = f'embeddings.{name}' if name in ('cls_token', 'mask_token') else name
        name = f'layernorm.{name[5:]}' if name.startswith('norm.') else name
        if 'attn.qkv' in name:
            for part, rows in zip(('query', 'key', 'value'), value.chunk(3), strict=True):
                old[name.replace('attn.qkv', f'attention.attention.{part}')] = rows.clone()
        else:
            old[name] = value
    torch.save(old, tmp_path / 'hub.pth')
    one, other = (from_file('DINOv2', tmp_path / f'{name}.pth').state_dict() for name in ('authors', 'hub'))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@kinds
def test_every_entry_of_a_file_is_used(kind, tmp_path):
    """Change one entry at a time: something of the network changes with it, the periods and masks apart."""
    state = published(kind, tmp_path / 'vit.pth')
    encoder = from_file(kind, tmp_path / 'vit.pth')
    before = deepcopy(encoder.state_dict())
    for name in state:
        if name.endswith(('periods', 'bias_mask')):
            continue
        after = encoder.fit({**state, name: state[name] + 1}, 'vit.pth')
        changed = [key for key in before if not torch.equal(before[key].flatten(), after[key].flatten())]
        assert changed, name
    at_random = build(kind).state_dict()
    assert not [key for key in before if torch.equal(before[key], at_random[key])], 'all are loaded'


@pytest.mark.slow
def test_the_published_sizes_fit():
    """The authors' files by name and shape: nothing is missing, nothing is left over."""
    for registers in (0, 4):
        shapes = dinov2_shapes(384, 12, 37 * 37, registers)
        assert len(shapes) == 175 + bool(registers)
        state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
        assert len(DINOv2('small', num_registers=registers).fit(state, 'vit.pth')) == 175 + 48 + bool(registers)
    assert DINOv3('small').fit(random_state(dinov3_shapes(384, 12, 6)), 'vit.pth')


WRONG = {
    'another size': (
        lambda state: {k: v for k, v in state.items() if '.3.' not in k},
        '18 missing, such as encoder.layer.3.*It seems to be of .*3 blocks of 16 channels, num_registers=0',
    ),
    'registers': (
        lambda state: dict(state, register_tokens=torch.zeros(1, 4, DIMS)),
        '1 unknown, such as embeddings.register_tokens.*num_registers=4',
    ),
    'an entry too many': (lambda state: dict(state, head=torch.zeros(3)), '1 unknown, such as head'),
    'an entry too few': (
        lambda state: {k: v for k, v in state.items() if k != 'mask_token'},
        '1 missing, such as embeddings.mask_token',
    ),
    'other positions': (
        lambda state: dict(state, pos_embed=torch.zeros(1, 257, DIMS)),
        r'1 of another shape, such as embeddings.position_embeddings \(\(1, 257, 16\), not \(1, 1370, 16\)\)',
    ),
    'DINOv3': (lambda state: random_state(dinov3_shapes(DIMS, LAYERS, HEADS)), r'It seems to be of DINOv3\('),
    'no ViT': (lambda state: {'conv1.weight': torch.zeros(8, 3, 7, 7)}, 'It is no file of DINOv2 or DINOv3'),
    'both formats': (
        lambda state: dict(state, **{'embeddings.cls_token': torch.zeros(1, 1, DIMS)}),
        'the file has embeddings.cls_token twice',
    ),
}


@pytest.mark.parametrize('fault', WRONG)
def test_a_wrong_file_is_one_message(fault, tmp_path):
    change, message = WRONG[fault]
    path = tmp_path / 'vit.pth'
    torch.save(change(random_state(KINDS['DINOv2'][2])), path)
    with pytest.raises(ValueError, match=rf'vit\.pth does not fit DINOv2\(.*{message}'):
        from_file('DINOv2', path)
    model = ConfigDict(dpt_on_dino('DINOv2'))
    model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    resolve_weights(model)
    with pytest.raises(ValueError, match=message):
        check_weights_fit(MODELS.build(model), str(path))


def test_what_dinov3_has_besides_is_looked_at():
    state, encoder = random_state(KINDS['DINOv3'][2]), build('DINOv3')
    encoder.fit(dict(state, **{'local_cls_norm.weight': torch.ones(DIMS)}), 'vit.pth')  # served pre-training alone
    biased = dict(state, **{'blocks.1.attn.qkv.bias_mask': torch.ones(3 * DIMS)})
    with pytest.raises(ValueError, match='the keys of its layer 1 have a bias'):
        encoder.fit(biased, 'vit.pth')
    with pytest.raises(ValueError, match='its rotary positions have the periods'):
        encoder.fit(dict(state, **{'rope_embed.periods': 2 * state['rope_embed.periods']}), 'vit.pth')


@pytest.mark.slow
def test_weights_are_found_as_those_of_other_networks(monkeypatch, tmp_path):
    """By the name of the config in the folder of weights; NaN in them is refused; ``none`` leaves them random."""
    state = published('DINOv2', tmp_path / 'dinov2_vits14_pretrain.pth')
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', str(tmp_path))
    config = Config.fromfile(CONFIGS / 'fixmatch' / 'dinov2_s_kvasir_quarter.py').model
    config.segmentor.backbone.update(TINY)
    config.segmentor.decode_head.update(in_channels=(DIMS,) * 4, embed_dims=DIMS, post_process_channels=[8] * 4)
    resolve_weights(config)
    model = MODELS.build(config)
    model.init_weights()
    check_weights_fit(model, config.segmentor.backbone.init_cfg.checkpoint)
    for network in (model.student, model.teacher):
        token = network.backbone.vit.embeddings.cls_token
        assert torch.equal(token, state['cls_token'])
    torch.save(dict(state, cls_token=torch.full((1, 1, DIMS), torch.nan)), tmp_path / 'dinov2_vits14_pretrain.pth')
    with pytest.raises(ValueError, match='vit.embeddings.cls_token has NaN'):
        check_weights_fit(model, config.segmentor.backbone.init_cfg.checkpoint)
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    resolve_weights(config)
    assert 'init_cfg' not in config.segmentor.backbone


def test_the_backbone_of_a_trained_segmentor_is_a_file_like_others(tmp_path):
    trained = MODELS.build(dpt_on_dino('DINOv2'))
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / 'segmentor.pth')
    encoder = from_file('DINOv2', tmp_path / 'segmentor.pth')
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, trained.backbone.state_dict()[key]), key


# ------------------------------------------------------------------ settings


SETTINGS = [
    (dict(arch='tiny'), "arch is 'tiny'; allowed are 'small', 'base', 'large'"),
    (dict(arch=dict(embed_dims=16)), 'and a dict of .*embed_dims.*num_layers.*num_heads'),
    (dict(TINY, out_indices=(0, 1, 2)), r'out_indices is \(0, 1, 2\).*of the 4 blocks of this DINOv2, 3'),
    (dict(TINY, out_indices=(3, 3)), 'it must rise'),
    (dict(TINY, out_indices=(-1, 3)), 'the first block is 0'),
    (dict(TINY, out_indices=()), r'out_indices is \(\)'),
    (dict(TINY, init_cfg=dict(type='Kaiming')), "allowed are dict.type='Pretrained', checkpoint=FILE. and None"),
]


@pytest.mark.parametrize(('settings', 'message'), SETTINGS)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DINOv2(**settings)


@kinds
def test_sides_are_multiples_of_the_patch(kind):
    encoder = build(kind)
    patch = encoder.patch_size
    message = f'are {2 * patch + 1} x {3 * patch} pixels.*such as {2 * patch}, {3 * patch}: resize'
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(1, 3, 2 * patch + 1, 3 * patch))
    with pytest.raises(ValueError, match=f'multiples of {patch}, such as {patch}:'):
        encoder(torch.zeros(1, 3, patch, 1))


def test_other_sizes_are_padded_where_they_are_predicted():
    """With a divisor of the tests' images in the data preprocessor; the masks have the images' own size."""
    config = dpt_on_dino('DINOv2')
    config['data_preprocessor']['test_cfg'] = dict(size_divisor=14)
    model = MODELS.build(ConfigDict(type='MeanTeacher', segmentor=config)).eval()
    batch = dict(inputs=[torch.zeros(3, 50, 61, dtype=torch.uint8)], data_samples=[sample(50, 61)])
    (found,) = model.test_step(batch)
    assert found.pred_sem_seg.shape == (50, 61)


def sample(height: int, width: int):
    shape = (height, width)
    return SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0)))


def test_a_sliding_window_predicts_frames_of_any_size():
    config = dpt_on_dino('DINOv3')
    config['test_cfg'] = dict(mode='slide', crop_size=(32, 32), stride=(20, 20))
    model = MODELS.build(ConfigDict(config)).eval()
    batch = dict(inputs=[torch.zeros(3, 50, 61, dtype=torch.uint8)], data_samples=[sample(50, 61)])
    (found,) = model.test_step(batch)
    assert found.pred_sem_seg.shape == (50, 61)


def test_a_missing_library_is_named_with_what_mends_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    for cls in (DINOv2, DINOv3):
        with pytest.raises(ImportError, match=r'needs the library transformers.*pip install "mmseg_acl\[dino\]"'):
            cls(**TINY)


# ------------------------------------------------------------------ learning


def batch_of(side: int, classes: int = 2, seed: int = 0, images: int = 2, strong: int = 1) -> dict:
    data = steps.batch(images=images, seed=seed, classes=classes)

    def resized(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x[None].float(), size=(side, side))[0].to(x)

    data['inputs'] = {view: [resized(x) for x in frames] for view, frames in data['inputs'].items()}
    for number in range(2, strong + 1):
        data['inputs'][f'unsup_strong{number}'] = [x.flip(0) for x in data['inputs']['unsup_strong']]
        data['data_samples'][f'unsup_strong{number}'] = deepcopy(data['data_samples']['unsup_strong'])
    for found in (found for view in data['data_samples'].values() for found in view):
        found.set_metainfo(dict(img_shape=(side, side), ori_shape=(side, side), pad_shape=(side, side)))
        for key in found.keys():
            found.set_data({key: PixelData(data=resized(found.get(key).data))})
    return data


METHODS = {
    'supervised_strong': 'SupervisedEMA',
    'fixmatch': 'FixMatch',
    'unimatch_v2': 'UniMatchV2',
    'aclnet_plus': 'ACLNet',
}


def method_model(method: str, classes: int, **backbone) -> nn.Module:
    """The shipped config on a ViT of four blocks."""
    config = Config.fromfile(CONFIGS / method / 'dinov2_s_kvasir_quarter.py').model
    assert config.type == METHODS[method]
    config.segmentor.backbone.pop('init_cfg')
    config.segmentor.backbone.update(TINY, **backbone)
    head = config.segmentor.decode_head
    head.update(in_channels=(DIMS,) * 4, embed_dims=DIMS, post_process_channels=[8, 8, 16, 16], channels=8)
    head.update(num_classes=classes, loss_decode=dict(type='CrossEntropyLoss'))
    config.warmup_iters = 0
    if method == 'aclnet_plus':
        config.update(bank_min_keys=1, contrast=dict(bank_size=128, num_anchors=16))
        config.aggregation = dict(interval=1, num_clusters=3, max_keys=64)
        config.refinement.update(num_iters=2)
    elif method != 'supervised_strong':
        config.update(threshold=0.0, criterion='cross_entropy')
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    return model


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('classes', [2, 4])
@pytest.mark.parametrize('method', METHODS)
def test_a_method_trains_it(method, classes):
    model = method_model(method, classes)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = deepcopy(model.state_dict())
    for iteration in range(2):
        model.train()
        strong = 2 if method == 'unimatch_v2' else 1
        found = steps.losses(model, batch_of(126, classes, iteration, strong=strong), iteration)
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        optimizer.step()
        model.after_step()
        assert all(value.isfinite().all() for value in found.values()), found
        assert all(value > 0 for key, value in found.items() if 'loss' in key), found
    after = model.state_dict()
    still = [key for key in before if key.startswith('student.') and torch.equal(before[key], after[key])]
    assert [key for key in still if 'mask_token' not in key] == []
    assert any('teacher' in key and not torch.equal(before[key], after[key]) for key in before)
    with torch.no_grad():
        (found,) = model.eval().predict(torch.randn(1, 3, 42, 56))
    assert found.pred_sem_seg.shape == (42, 56) and len(found.seg_logits.data) == classes


@pytest.mark.trained
@pytest.mark.slow
def test_a_frozen_encoder_stays_as_it_is():
    model = method_model('fixmatch', 2, frozen=True, drop_path_rate=0.5)
    before = deepcopy(model.student.state_dict())
    learning = [name for name, p in model.student.named_parameters() if p.requires_grad]
    assert learning and all(name.startswith('decode_head.') for name in learning)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    vit = model.student.backbone.vit
    assert model.student.training and not any(part.training for part in vit.modules())
    model.parse_losses(steps.losses(model, batch_of(56), 0))[0].backward()
    optimizer.step()
    model.after_step()
    assert all(p.grad is None for p in vit.parameters())
    for network in (model.student, model.teacher):
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]) == name.startswith('backbone.'), name


@pytest.mark.slow
def test_the_encoder_learns_slower_the_deeper_a_layer_is():
    """UniMatch V2's rates, and with a decay of a half those of each layer in powers of it."""
    schedule = Config.fromfile(CONFIGS / '_base_' / 'schedules' / '80e_dino.py').optim_wrapper
    model = method_model('fixmatch', 2)
    names = {id(p): name for name, p in model.student.named_parameters()}

    def rates(decay: float) -> dict[str, float]:
        wrapper = deepcopy(schedule)
        wrapper.paramwise_cfg.layer_decay = decay
        groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
        assert {group['weight_decay'] for group in groups} == {0.01}
        return {names[id(p)]: group['lr'] for group in groups for p in group['params']}

    plain = rates(1.0)
    learning = {name for name, p in model.student.named_parameters() if p.requires_grad}
    assert plain.keys() == learning and not any('mask_token' in name for name in plain)
    assert {rate for name, rate in plain.items() if name.startswith('backbone.')} == {2e-4 / 40}
    assert {rate for name, rate in plain.items() if not name.startswith('backbone.')} == {2e-4}

    depth = {'embeddings.': 0, 'layer.0.': 1, 'layer.1.': 2, 'layer.2.': 3, 'layer.3.': 4, 'layernorm.': 5}
    for name, rate in rates(0.5).items():
        if name.startswith('backbone.'):
            (layer,) = {layer for part, layer in depth.items() if f'.{part}' in name}
            assert rate == pytest.approx(5e-6 * 0.5 ** (5 - layer)), name
        else:
            assert rate == 2e-4


@pytest.mark.parametrize('decay', [None, 0, 1.5, -0.1, True, '0.9'])
def test_a_decay_that_cannot_be_is_named(decay):
    wrapper = dict(constructor='LayerDecayOptimWrapperConstructor', optimizer=dict(type='AdamW', lr=1e-3))
    with pytest.raises(ValueError, match=f'layer_decay is {decay!r}; it must be above 0 and at most 1'):
        build_optim_wrapper(nn.Linear(1, 1), dict(wrapper, paramwise_cfg=dict(layer_decay=decay)))


def test_a_decay_needs_an_encoder_that_knows_its_layers():
    wrapper = dict(constructor='LayerDecayOptimWrapperConstructor', optimizer=dict(type='AdamW', lr=1e-3))
    with pytest.raises(ValueError, match='no encoder of the model says which layer a parameter is of'):
        build_optim_wrapper(nn.Linear(1, 1), dict(wrapper, paramwise_cfg=dict(layer_decay=0.9)))


def test_dropped_channels_are_those_of_the_map_and_its_class_token():
    torch.manual_seed(0)
    levels = [[torch.rand(6, 8, 3, 3) + 1, torch.rand(6, 8) + 1] for _ in range(2)]
    for dropped in (channel_dropout(levels, 0.5), complementary_dropout(levels)):
        for (feature, token), (before, token_before) in zip(dropped, levels, strict=True):
            ratio = (feature / before).flatten(2)
            torch.testing.assert_close(ratio.amin(2), ratio.amax(2))
            torch.testing.assert_close(ratio.amax(2), token / token_before)
            assert (ratio == 0).any() and (ratio == 2).any()
    both = with_dropped(levels, 4, 0.5)
    assert [tuple(part.shape) for part in both[0]] == [(10, 8, 3, 3), (10, 8)]
    assert all(torch.equal(part[:6], before) for part, before in zip(both[0], levels[0], strict=True))


# ------------------------------------------------------------------ through the tools


@pytest.fixture
def tiny_run(tmp_path) -> Path:
    """A config of UniMatch V2 on a ViT of four blocks, with the optimizer of the shipped ones."""
    file = tmp_path / 'tiny.py'
    file.write_text(
        f"""
_base_ = '{Path(__file__).parent / 'configs' / 'unimatch_v2.py'}'
model = dict(segmentor=dict(_delete_=True, **{dpt_on_dino('DINOv3')!r}))
optim_wrapper = dict(
    _delete_=True,
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01),
    paramwise_cfg=dict(layer_decay=0.9, custom_keys=dict(backbone=dict(lr_mult=1 / 40))),
)
"""
    )
    return file


@pytest.mark.trained
@pytest.mark.slow
def test_a_run_is_trained_resumed_predicted_with_and_exported(tiny_run, synthetic_root, tmp_path):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    run_tool('train.py', tiny_run, '--work-dir', whole, data=synthetic_root)
    arguments = ['train.py', tiny_run, '--work-dir', parts, '--resume', '--cfg-options']
    arguments += ['default_hooks.checkpoint.interval=2', 'default_hooks.checkpoint.max_keep_ckpts=1']
    killed = ToolProcess(*arguments, data=synthetic_root, before=partial(die_at, 'in a step', '5')).wait()
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_tool(*arguments, 'train_dataloader.num_workers=1', data=synthetic_root)
    assert 'resumed epoch' in resumed.stdout
    assert_same_run(whole / 'iter_8.pth', parts / 'iter_8.pth')

    frames = tmp_path / 'frames'
    frames.mkdir()
    cv2.imwrite(str(frames / 'a.png'), np.random.default_rng(0).integers(0, 255, (50, 61, 3), np.uint8))
    run_tool('predict.py', whole, frames, '--out', tmp_path / 'masks', data=synthetic_root)
    (mask,) = (tmp_path / 'masks').rglob('a.png')
    assert cv2.imread(str(mask), cv2.IMREAD_UNCHANGED).shape == (50, 61)

    pytest.importorskip('onnxruntime')
    said: list[str] = []
    export([str(whole)], ('onnx', 'torchscript'), tmp_path / 'export', say=said.append)
    assert len(said) == 2 and all('0.0000 % of the pixels flip' in line for line in said), said
    with pytest.raises(ValueError, match='backbone is DINOv3 of mmseg_acl, which plain mmseg does not have'):
        export([str(whole)], ('mmseg',), tmp_path / 'plain')
