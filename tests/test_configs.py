"""Every config that is shipped can be read, names lists that exist, and builds its model."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from building import without_start_weights
from mmengine.config import Config
from mmseg.registry import MODELS
from resolved_configs import plain_steps

from mmseg_acl.datasets import write_synthetic
from mmseg_acl.datasets.partitions import shipped_lists
from mmseg_acl.engine import build_runner, load_config, train
from mmseg_acl.engine.start.weights import resolve_weights
from mmseg_acl.methods import BY_FOLDER, METHODS

pytestmark = pytest.mark.usefixtures('bases')
ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
EXPERIMENTS = sorted(
    p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob('[!_]*/**/*.py') if 'demo' not in p.parts
)
DATA, PARTITIONS = ('kvasir', 'clinicdb', 'polyp'), ('half', 'quarter', 'eighth')
# Networks that a method has configs for at every data set and partition: the first part of their names.
BACKBONES = {
    method.folder: {path.stem.split('_')[0] for path in (CONFIGS / method.folder).glob('[!d]*.py')}
    for method in METHODS
}
# Those with a ViT of DINOv2 or DINOv3, with a quarter of the labels.
ON_DINOV2 = ('supervised_strong', 'fixmatch', 'unimatch_v2', 'aclnet_plus')
DINO = [*(f'{method}/dinov2_s_kvasir_quarter.py' for method in ON_DINOV2), 'unimatch_v2/dinov3_s_kvasir_quarter.py']
SIDES = dict(mbv2=128, dinov2_s=378)
# Configs that there is an ablation of (Table 1).
ABLATED = ('r50_kvasir_quarter', 'swin_kvasir_quarter', 'mbv2_kvasir_eighth')


def test_the_grid_is_complete():
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert folders - {'_base_', 'demo', 'experiments'} == BY_FOLDER.keys(), 'a method is a row of the table'
    for method, backbones in BACKBONES.items():
        assert {'r50', 'mbv2'} <= backbones <= {path.stem for path in (CONFIGS / '_base_' / 'networks').iterdir()}
        for backbone, data, partition in product(backbones, DATA, PARTITIONS):
            assert f'{method}/{backbone}_{data}_{partition}.py' in EXPERIMENTS
    assert sorted(DINO) == [name for name in EXPERIMENTS if 'dino' in name]
    for base, row in product(ABLATED, ('1', '2', '3', '4a', '4b', '5')):
        assert f'aclnet/ablation/{base}_row{row}.py' in EXPERIMENTS


def test_the_documentation_has_a_row_for_every_method():
    rows = [line.split('|') for line in (ROOT / 'docs' / 'methods.md').read_text().splitlines()]
    folders = {row[-2].strip().strip('`'): row[1].split('(', maxsplit=1)[0].strip() for row in rows if len(row) == 7}
    names = {method.folder: method.name.split('(')[0].strip() for method in METHODS}
    assert {folder: name for folder, name in folders.items() if folder in names} == names


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_a_config_means_what_its_name_says(name):
    config = Config.fromfile(CONFIGS / name)
    backbone, data, partition = re.match(r'(dinov\d_s|[^_]+)_([^_]+)_([^_]+)', Path(name).stem).groups()
    dataset = config.train_dataloader.dataset
    # With unlabelled images of several sets each source names its list.
    named = dataset.partition or dataset.labelled.ann_file
    assert named == f'{data}/{partition}' and named in shipped_lists()
    method = BY_FOLDER[name.split('/')[0]]
    assert (dataset.unlabelled is not None) == method.unlabelled and config.model.type == method.type
    assert config.val_dataloader.dataset.ann_file == f'{data}/dev'
    assert config.test_dataloader.dataset.ann_file == f'{data}/test'
    segmentor = config.model.get('segmentor', config.model)
    types = dict(r50='ResNetV1c', swin='SwinTransformer', mbv2='MobileNetV2', dinov2_s='DINOv2', dinov3_s='DINOv3')
    assert segmentor.backbone.type == types[backbone] and segmentor.backbone.init_cfg.type == 'Pretrained'
    side = SIDES.get(backbone, 384)
    labelled = dataset.labelled if isinstance(dataset.labelled, list) else [dataset.labelled]
    steps = [step for source in labelled for step in source.pipeline]
    assert {tuple(step.crop_size) for step in steps if 'crop_size' in step} == {(side, side)}


def leaves(value: Any, path: tuple = ()) -> dict[tuple, Any]:
    """The values in nested dicts and lists, by their paths."""
    if not isinstance(value, (dict, list)):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {inner: leaf for key, part in items for inner, leaf in leaves(part, (*path, key)).items()}


@pytest.mark.parametrize('data', ['semi', 'classes', *DATA])
def test_the_two_tracks_differ_in_size_scales_and_workers_alone(data):
    large = data if data in DATA else f'{data}_384'
    configs = [Config.fromfile(f'{CONFIGS}/_base_/datasets/{name}.py').to_dict() for name in (f'{data}_128', large)]
    for config in configs:
        config.pop('geometry')  # a part of the pipelines, which are compared as the plain steps they stand for
    small, large = (leaves(plain_steps(config)) for config in configs)
    assert small.keys() == large.keys()
    differing = {
        next(key for key in reversed(path) if isinstance(key, str)) for path in small if small[path] != large[path]
    }
    assert differing == {'scale', 'size', 'crop_size', 'ratio_range', 'num_workers', 'persistent_workers'}
    sizes = {
        side
        for path in small
        if small[path] != large[path] and path[-1] in ('scale', 'size', 'crop_size')
        for side in (small[path], large[path])
    }
    assert sizes == {(128, 128), (384, 384)}


@pytest.mark.slow
def test_every_distinct_model_builds(monkeypatch):
    """The model of a method and backbone is the same for all data; each is built once."""
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    models = {}
    for name in EXPERIMENTS:
        config = Config.fromfile(CONFIGS / name).model
        models.setdefault(json.dumps(config.to_dict(), sort_keys=True, default=str), (name, config))
    # Row V of an ablation is the method itself.
    expected = sum(map(len, BACKBONES.values())) + 5 * len(ABLATED) + len(DINO)
    assert len(models) == expected, [name for name, _ in models.values()]
    with without_start_weights():
        for _, config in models.values():
            resolve_weights(config)
            MODELS.build(config)


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('method', BACKBONES)
def test_two_steps_of_each_method(method, tmp_path, monkeypatch):
    """The laptop track's config as it is shipped, but for its frames and its length."""
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    monkeypatch.setenv('MMSEG_ACL_DATA', str(tmp_path))
    write_synthetic(tmp_path, labelled=5, unlabelled=5, test=1, size=(96, 112))
    options = {}
    for loader in ('val_dataloader', 'test_dataloader'):
        options |= {f'{loader}.dataset.ann_file': '', f'{loader}.dataset.folder': 'Synthetic/test'}
    sources = 'train_dataloader.dataset'
    path = str(CONFIGS / method / 'mbv2_kvasir_eighth.py')
    labelled = load_config(path).train_dataloader.dataset.labelled
    places = [f'labelled.{i}' for i in range(len(labelled))] if isinstance(labelled, list) else ['labelled']
    options |= {f'{sources}.{place}.folder': 'Synthetic/labelled' for place in places}
    options |= {f'{sources}.partition': None}
    if BY_FOLDER[method].unlabelled:
        options |= {f'{sources}.unlabelled.folder': 'Synthetic/unlabelled', 'model.warmup_iters': 1}
    options |= {'train_cfg.max_iters': 2, 'train_cfg.val_begin': 99, 'default_hooks.logger.interval': 1}
    runner = build_runner(load_config(path, str(tmp_path / 'run'), options))
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    train(runner)
    assert runner.iter == 2 and (tmp_path / 'run' / 'iter_2.pth').is_file()
    after = runner.model.state_dict()
    assert all(value.isfinite().all() for value in after.values() if value.is_floating_point())
    heads = [name for name in after if 'decode_head' in name and name.endswith('weight')]
    assert all(not after[name].equal(before[name]) for name in heads), 'every network of the method has moved'
    losses, _ = runner.message_hub.get_scalar('train/loss').data
    assert len(losses) == 2 and (losses > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize('base', ABLATED)
@pytest.mark.parametrize(
    ('row', 'contrast', 'aggregation', 'low', 'high'),
    [
        ('1', False, False, False, False),
        ('2', True, False, False, False),
        ('3', True, False, True, True),
        ('4a', True, True, True, False),
        ('4b', True, True, False, True),
        ('5', True, True, True, True),
    ],
)
def test_rows_of_the_ablation_differ_in_their_components_alone(
    base, row, contrast, aggregation, low, high, monkeypatch
):
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    path = CONFIGS / 'aclnet' / 'ablation' / f'{base}_row{row}.py'
    config, whole = (Config.fromfile(p).model for p in (path, CONFIGS / 'aclnet' / f'{base}.py'))
    resolve_weights(config)
    with without_start_weights():
        model = MODELS.build(config)
    assert (model.acl_head is not None, model.use_aggregation) == (contrast, aggregation)
    assert (model.refiner.low, model.refiner.high) == (low, high)
    switches = ('use_contrast', 'use_aggregation')
    for key in switches:
        config.pop(key, None)
    for key in ('low', 'high'):
        config.refinement.pop(key, None)
    resolve_weights(whole)
    assert config == whole
