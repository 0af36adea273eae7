"""A user's own folders, by the configs of docs/own_data.md."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS
from PIL import Image
from steps import build

from mmseg_acl.datasets import SemiSupervisedDataset, SourceRatioSampler, UnlabelledFolder
from mmseg_acl.engine import build_runner, load_config
from mmseg_acl.errors import DataError
from mmseg_acl.evaluation.cross_dataset import evaluate_checkpoint, has_own_test_set

ROOT = Path(__file__).parents[1]
BLOCKS = dict(
    re.findall(r'```python\n# my/(\w+)\.py\n(.*?)```', (ROOT / 'docs' / 'own_data.md').read_text(), flags=re.DOTALL)
)
PALETTE = [0, 0, 0, 200, 60, 60, 60, 200, 60, 60, 60, 200, 220, 220, 60]


def write_pair(folder: Path, name: str, rng: np.random.Generator, suffix: str = '.png') -> None:
    """An image, its mask of 0 and 255, and its mask of five class numbers as a palette PNG, with ignored pixels."""
    height, width = rng.integers(70, 110, 2)
    labels = np.zeros((height, width), np.uint8)
    for label in range(1, 5):
        y, x = rng.integers(0, 50, 2)
        labels[y : y + 25, x : x + 25] = label
    for kind in ('images', 'masks', 'classes'):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    image = 50 * labels[..., None] + rng.integers(0, 50, (height, width, 3))
    cv2.imwrite(str(folder / 'images' / f'{name}{suffix}'), image.astype(np.uint8))
    cv2.imwrite(str(folder / 'masks' / f'{name}.png'), 255 * (labels > 0).astype(np.uint8))
    labels[:3] = 255
    coded = Image.fromarray(labels).convert('P')
    coded.putdata(labels.ravel().tolist())
    coded.putpalette(PALETTE + [0] * (768 - len(PALETTE)))  # a shorter one is stored in fewer bits, without 255
    coded.save(folder / 'classes' / f'{name}.png')


@pytest.fixture(scope='module')
def workplace(tmp_path_factory) -> Path:
    """The documentation's configs in my/, beside configs/, and the folders that it speaks of."""
    place = tmp_path_factory.mktemp('own')
    (place / 'configs').symlink_to(ROOT / 'configs', target_is_directory=True)
    (place / 'my').mkdir()
    for name, text in BLOCKS.items():
        (place / 'my' / f'{name}.py').write_text(text)
    rng = np.random.default_rng(0)
    mine = place / 'data' / 'mine'
    for folder, count in (('labelled', 5), ('more', 3), ('test', 2)):
        for i in range(count):
            write_pair(mine / folder, f'{folder}{i}', rng)
    for i in range(6):
        path = mine / 'unlabelled' / f'day{i % 2}' / f'{i}{(".png", ".JPG", ".bmp")[i % 3]}'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (90, 80, 3), np.uint8))
    for i in range(9):
        write_pair(mine, f'frame{i}', rng, suffix='.jpg')
    for i in range(2, 7):
        (mine / 'masks' / f'frame{i}.png').unlink()
    (mine / 'train.txt').write_text('labelled0\nlabelled1\nlabelled2\n')
    (mine / 'held_out.txt').write_text('labelled3\nlabelled4\n')
    (mine / 'labelled.txt').write_text('frame0\nframe1\n')
    (mine / 'test.txt').write_text('frame7\nframe8\n')
    return place


@pytest.fixture
def here(workplace, monkeypatch) -> Path:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    monkeypatch.delenv('MMSEG_ACL_DATA', raising=False)
    return workplace


def labels_of(samples) -> set[int]:
    return {int(value) for sample in samples for value in sample.gt_sem_seg.data.unique()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'sizes', 'labels'),
    [
        ('binary', [5, 6], {0, 1}),
        ('held_out', [3, 6], {0, 1}),
        ('lists', [2, 5], {0, 1}),
        ('classes', [5, 6], {0, 1, 2, 3, 4}),
        ('several', [5, 3, 6], {0, 1, 2, 3, 4}),
    ],
)
def test_the_documentations_configs_give_batches(here, name, sizes, labels):
    config = Config.fromfile(f'my/{name}.py')
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    assert loader.dataset.source_sizes == sizes
    seen = set()
    for data, _ in zip(loader, range(4), strict=False):
        assert {view: len(images) for view, images in data['inputs'].items()} == {
            'sup': 4,
            'unsup_weak': 4,
            'unsup_strong': 4,
        }
        assert not any('gt_sem_seg' in sample for sample in data['data_samples']['unsup_weak'])
        seen |= labels_of(data['data_samples']['sup'])
    assert seen - {255} == labels
    assert (
        labels_of(Runner.build_dataloader(config.test_dataloader).dataset[0]['data_samples'] for _ in 'a') - {255}
        == labels
    )
    assert has_own_test_set(config)


@pytest.mark.slow
def test_the_same_network_without_unlabelled_images(here):
    config = Config.fromfile('my/supervised.py')
    assert config.model == Config.fromfile('my/binary.py').model.segmentor
    alone = Runner.build_dataloader(config.train_dataloader, seed=0)
    assert alone.dataset.source_sizes == [5]
    both = Runner.build_dataloader(Config.fromfile('my/binary.py').train_dataloader, seed=0)
    for ours, theirs, _ in zip(alone, both, range(2), strict=False):
        assert torch.equal(torch.stack(ours['inputs']), torch.stack(theirs['inputs']['sup']))


@pytest.mark.slow
def test_a_fair_rival_and_a_run_without_scores(here):
    strong = Config.fromfile('my/strong.py')
    loader = Runner.build_dataloader(strong.train_dataloader, seed=0)
    assert loader.dataset.source_sizes == [5, 5] and len(next(iter(loader))['inputs']['sup']) == 8
    assert strong.model.segmentor == Config.fromfile('my/binary.py').model.segmentor
    config = load_config('my/no_scores.py', work_dir=str(here / 'run' / 'no_scores'))
    assert build_runner(config).val_loop is None


@pytest.mark.slow
def test_five_classes_are_learnt_by_acl_net(here):
    (here / 'my' / 'five.py').write_text(BLOCKS['classes'].replace('mean_teacher_128', 'aclnet_128'))
    model = MODELS.build(Config.fromfile('my/five.py').model)
    assert len(model.acl_head.bank.sizes) == model.student.num_classes == 5


@pytest.mark.slow
def test_a_ratio_over_three_sources_holds_in_every_batch(here):
    loader = Runner.build_dataloader(Config.fromfile('my/several.py').train_dataloader, seed=0)
    drawn = Counter()
    for data, _ in zip(loader, range(6), strict=False):
        folders = [Path(s.img_path).parents[1].name for s in data['data_samples']['sup']]
        assert folders == ['labelled'] * 2 + ['more'] * 2
        drawn.update(s.img_path for s in data['data_samples']['sup'])
    assert {drawn[path] for path in drawn if '/more' in path} == {4}, 'three images, twelve draws'


TINY = {
    'train_cfg.max_iters': 2,
    'train_cfg.val_interval': 2,
    'default_hooks.checkpoint.interval': 2,
    'train_dataloader.batch_size': 4,
    'model.warmup_iters': 1,
    'model.segmentor.decode_head.channels': 16,
}


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize(('name', 'metric'), [('binary', 'image'), ('classes', 'own metric')])
def test_a_folder_of_ones_own_trains_validates_and_is_tested(here, name, metric):
    ratio = dict(TINY, **{'train_dataloader.sampler.ratio': (2, 2)})
    config = load_config(f'my/{name}.py', work_dir=str(here / 'run' / name), options=ratio)
    runner = build_runner(config)
    runner.train()
    key = 'mDice' if name == 'binary' else 'mIoU'
    found = runner.message_hub.log_scalars
    assert {f'val/student/{key}', f'val/teacher/{key}'} <= set(found)

    config = load_config(f'my/{name}.py', options=ratio)
    evaluate_checkpoint(config, str(here / 'run' / name / 'iter_2.pth'), str(here / 'scores' / name))
    results = json.loads((here / 'scores' / name / 'results.json').read_text())
    assert list(results) == ['own'] and list(results['own']) == ['student', 'teacher']
    validated = found[f'val/teacher/{key}'].current()
    assert results['own']['teacher'][metric][key] == pytest.approx(validated, abs=0.01)


# ------------------------------------------------------------------ mmseg's own data sets


@pytest.mark.slow
def test_lists_as_in_voc_and_folders_as_in_ade(here, tmp_path):
    pipelines = Config.fromfile('my/classes.py')
    rng = np.random.default_rng(1)
    for i in range(3):
        write_pair(tmp_path / 'voc', f'v{i}', rng, suffix='.jpg')
        write_pair(tmp_path / 'ade', f'a{i}', rng, suffix='.jpg')
    (tmp_path / 'voc' / 'train.txt').write_text('v0\nv2\n')
    voc = dict(
        type='PascalVOCDataset',
        data_root=str(tmp_path / 'voc'),
        ann_file='train.txt',
        data_prefix=dict(img_path='images', seg_map_path='classes'),
        pipeline=pipelines.sup_pipeline,
    )
    ade = dict(
        type='ADE20KDataset',
        data_root=str(tmp_path / 'ade'),
        data_prefix=dict(img_path='images', seg_map_path='classes'),
        pipeline=pipelines.sup_pipeline,
    )
    folder = dict(type='UnlabelledFolder', folder='data/mine/unlabelled', pipeline=pipelines.unsup_pipeline)
    dataset = SemiSupervisedDataset(voc, folder)
    assert dataset.source_sizes == [2, 6] and len(dataset.metainfo['classes']) == 21
    assert labels_of(dataset[i]['data_samples']['sup'] for i in range(2)) <= {0, 1, 2, 3, 4, 255}
    dataset = SemiSupervisedDataset(ade, folder)
    assert dataset.source_sizes == [3, 6]
    assert labels_of(dataset[i]['data_samples']['sup'] for i in range(3)) <= {0, 1, 2, 3, 255}, 'reduce_zero_label'
    with pytest.raises(ValueError, match='the labelled source 2 of 2 has the classes .*the first has'):
        SemiSupervisedDataset([voc, ade], folder)


@pytest.mark.slow
def test_sources_are_checked(here):
    config = Config.fromfile('my/several.py').train_dataloader.dataset
    labelled, folder = config.labelled, config.unlabelled
    with pytest.raises(ValueError, match=r'labelled=\[\] has no source'):
        SemiSupervisedDataset([], folder)
    with pytest.raises(ValueError, match="partition='kvasir/half' divides one data set"):
        SemiSupervisedDataset(labelled, folder, 'kvasir/half')
    with pytest.raises(ValueError, match='3 images are both labelled and unlabelled, the first is .*more0'):
        SemiSupervisedDataset(labelled, [folder, dict(folder, folder='data/mine/more/images')])
    dataset = SemiSupervisedDataset(labelled, folder)
    with pytest.raises(ValueError, match=r'ratio=\(4, 4\) must be 3 positive numbers'):
        SourceRatioSampler(dataset, ratio=(4, 4), seed=0)


# ------------------------------------------------------------------ a folder of images


@pytest.mark.slow
def test_a_folder_is_read_with_its_subfolders_and_any_suffix(here, tmp_path):
    dataset = UnlabelledFolder('data/mine/unlabelled')
    names = [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))]
    assert names == ['0.png', '2.bmp', '4.JPG', '1.JPG', '3.png', '5.bmp']
    (tmp_path / 'known.txt').write_text('day0/0\nday1/5.bmp\n')
    assert len(UnlabelledFolder('data/mine/unlabelled', exclude=[str(tmp_path / 'known.txt')])) == 4
    assert 'seg_map_path' not in dataset.get_data_info(0)


def test_a_folder_that_cannot_be_used_says_why(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere' of unlabelled images does not exist"):
        UnlabelledFolder(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='has no image: it should hold files with one of the suffixes .jpg'):
        UnlabelledFolder(tmp_path)
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / 'b.jpg').write_bytes(b'')
    with pytest.raises(DataError, match='(?s)1 of the 2 images in .*b.jpg: the file is empty'):
        UnlabelledFolder(tmp_path)
    (tmp_path / 'b.jpg').unlink()
    (tmp_path / 'all.txt').write_text('a\n')
    with pytest.raises(ValueError, match='has no image after leaving out'):
        UnlabelledFolder(tmp_path, exclude=[str(tmp_path / 'all.txt')])
    with pytest.raises(TypeError, match='must be a list of lists'):
        UnlabelledFolder(tmp_path, exclude='all.txt')


# ------------------------------------------------------------------ labels that do not fit


def test_another_ignore_index_is_refused_when_the_model_is_built():
    with pytest.raises(ValueError, match='FCNHead has ignore_index=0; padding .* are 255 here'):
        build('mean_teacher', **{'segmentor.decode_head.ignore_index': 0})


# ------------------------------------------------------------------ which test set is the user's own


@pytest.mark.parametrize(
    ('dataset', 'own'),
    [
        (dict(type='PolypDataset'), False),
        (dict(type='KvasirSEGDataset', ann_file='kvasir/test'), False),
        (dict(type='KvasirSEGDataset'), False),
        (dict(type='KvasirSEGDataset', ann_file='kvasir/dev'), True),
        (dict(type='CVCClinicDBDataset', ann_file='clinicdb_seq/test'), True),
        (dict(type='PolypDataset', ann_file='polyp/test'), False),
        (dict(type='PolypDataset', ann_file='polyp/half'), True),
        (dict(type='PolypDataset', folder='Synthetic/test'), False),
        (dict(type='PolypDataset', folder='Mine'), True),
        (dict(type='PolypDataset', data_root='data/mine/test'), True),
        (dict(type='BaseSegDataset'), True),
        (dict(type='ConcatDataset'), True),
    ],
)
def test_which_test_set_is_ones_own(here, dataset, own):
    assert DATASETS.get(dataset['type'])
    assert has_own_test_set(Config(dict(test_dataloader=dict(dataset=dataset)))) is own
