"""Lists, polyp data sets, the semi-supervised data set and the synthetic frames."""

import hashlib
import random
import shutil
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import DATASETS

from mmseg_acl.datasets import (
    CVC300Dataset,
    CVCClinicDBDataset,
    Draw,
    KvasirSEGDataset,
    PolypDataset,
    SemiSupervisedDataset,
    default_data_root,
    draw_partitions,
    read_list,
    shipped_lists,
    write_synthetic,
)
from mmseg_acl.datasets.partitions import FRACTIONS, redraw_partition
from mmseg_acl.datasets.synthetic import draw_frame

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / '_base_' / 'datasets'


def make_set(folder: Path, names: list[str], size: tuple[int, int] = (8, 10)) -> Path:
    """Write grey images (jpg) and masks with a square in the middle (png)."""
    for kind, suffix in (('images', '.jpg'), ('masks', '.png')):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            array = np.zeros(size, np.uint8)
            array[2:-2, 2:-2] = 255
            cv2.imwrite(str(folder / kind / f'{name}{suffix}'), array)
    return folder


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return make_set(tmp_path, ['a', 'b', 'c'])


# Lists


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('kvasir/train', 900),
        ('kvasir/half', 450),
        ('kvasir/quarter', 225),
        ('kvasir/eighth', 112),
        ('kvasir/sixteenth', 56),
        ('kvasir/thirtysecond', 28),
        ('kvasir/sixtyfourth', 14),
        ('kvasir/thirtysecond_b', 28),
        ('kvasir/thirtysecond_c', 28),
        ('kvasir/dev', 100),
        ('kvasir/test', 100),
        ('kvasir/medico_train', 880),
        ('kvasir/medico_val', 120),
        ('clinicdb/train', 550),
        ('clinicdb/half', 275),
        ('clinicdb/quarter', 137),
        ('clinicdb/eighth', 68),
        ('clinicdb/sixteenth', 34),
        ('clinicdb/thirtysecond', 17),
        ('clinicdb/sixtyfourth', 8),
        ('clinicdb/dev', 60),
        ('clinicdb/test', 62),
        ('polyp/train', 1450),
        ('polyp/half', 725),
        ('polyp/quarter', 362),
        ('polyp/eighth', 181),
        ('polyp/sixteenth', 90),
        ('polyp/thirtysecond', 45),
        ('polyp/sixtyfourth', 22),
        ('polyp/dev', 100),
        ('polyp/test', 162),
        ('cvc300/test', 60),
        ('colondb/test', 380),
        ('etis/test', 196),
    ],
)
def test_shipped_lists_have_the_published_sizes(name, size):
    assert len(read_list(name)) == size
    assert name in shipped_lists()


@pytest.mark.parametrize(('group', 'num_dev'), [('kvasir', 100), ('clinicdb', 60), ('polyp', 100)])
def test_shipped_partitions_are_reproduced_and_nested(group, num_dev):
    train = read_list(f'{group}/train')
    parts = draw_partitions(train, num_dev=num_dev)
    for part, names in parts.items():
        assert names == read_list(f'{group}/{part}'), part
    nested = [set(parts[part]) for part in FRACTIONS]
    assert nested[0] < set(train) and all(inner < outer for outer, inner in pairwise(nested))
    assert not set(train) & set(read_list(f'{group}/test'))
    assert len(parts['dev']) == num_dev
    assert set(parts['dev']) < set(train) - set(parts['half'])


@pytest.mark.parametrize('draw', ['b', 'c'])
def test_further_draws_are_reproduced_and_touch_neither_dev_nor_test(draw):
    train, dev = read_list('kvasir/train'), read_list('kvasir/dev')
    names = redraw_partition(train, 'thirtysecond', draw, excluded=dev)
    assert names == read_list(f'kvasir/thirtysecond_{draw}') == [name for name in train if name in names]
    assert not set(names) & {*dev, *read_list('kvasir/test')}
    with pytest.raises(ValueError, match='half of 4 names is 2, but only 1 are not excluded'):
        redraw_partition(list('abcd'), 'half', draw, excluded=list('abc'))


def test_partitions_depend_on_the_seed_and_keep_the_order():
    names = [f'n{i:02d}' for i in range(40)]
    first, second = draw_partitions(names, seed=1), draw_partitions(names, seed=2)
    assert first['half'] != second['half']
    assert first['half'] == sorted(first['half'])
    with pytest.raises(ValueError, match='num_dev=21'):
        draw_partitions(names, num_dev=21)


def test_read_list_of_a_user(tmp_path):
    path = tmp_path / 'mine.txt'
    path.write_bytes('\ufefffirst\r\n\r\n sub/second.PNG \n1.5mm\n'.encode())
    assert read_list(path) == ['first', 'sub/second', '1.5mm']


def test_read_list_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no list 'kvasir/third'.*kvasir/quarter"):
        read_list('kvasir/third')
    (tmp_path / 'empty.txt').write_text('\n\n')
    with pytest.raises(ValueError, match='empty.txt.*is empty'):
        read_list(tmp_path / 'empty.txt')
    (tmp_path / 'twice.txt').write_text('a\nb\na\n')
    with pytest.raises(ValueError, match=r'repeats 1 entries \(a\)'):
        read_list(tmp_path / 'twice.txt')


# Polyp data sets


def test_whole_folder(three):
    dataset = PolypDataset(data_root=str(three))
    assert [dataset.get_data_info(i)['name'] for i in range(3)] == ['a', 'b', 'c']
    info = dataset.get_data_info(1)
    assert info['img_path'] == str(three / 'images' / 'b.jpg')
    assert info['seg_map_path'] == str(three / 'masks' / 'b.png')
    assert 'hidden_map_path' not in info
    assert info['seg_fields'] == [] and info['reduce_zero_label'] is False
    assert dataset.metainfo['classes'] == ('background', 'polyp')


def test_list_order_exclude_and_subfolders(tmp_path):
    make_set(tmp_path / 'One', ['a', 'b'])
    make_set(tmp_path / 'Two', ['a'])
    (tmp_path / 'all.txt').write_text('Two/a\nOne/b\nOne/a\n')
    (tmp_path / 'out.txt').write_text('One/b\n')
    dataset = PolypDataset(str(tmp_path / 'all.txt'), data_root=str(tmp_path), exclude=[str(tmp_path / 'out.txt')])
    assert [dataset.get_data_info(i)['name'] for i in range(len(dataset))] == ['Two/a', 'One/a']
    assert dataset.get_data_info(0)['img_path'] == str(tmp_path / 'Two' / 'images' / 'a.jpg')
    with pytest.raises(TypeError, match="write \\['kvasir/half'\\]"):
        PolypDataset(data_root=str(tmp_path), exclude='kvasir/half')


def test_data_root_from_the_environment(tmp_path, monkeypatch):
    make_set(tmp_path / 'CVC-300', ['149'])
    monkeypatch.setenv('MMSEG_ACL_DATA', str(tmp_path))
    assert len(CVC300Dataset()) == 1
    monkeypatch.setenv('MMSEG_ACL_DATA', '')
    assert default_data_root() == Path('data')


def test_missing_folder_is_one_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Kvasir-SEG/images' does not exist.*MMSEG_ACL_DATA"):
        KvasirSEGDataset('kvasir/test', data_root=str(tmp_path))


def damage_no_mask(root):
    (root / 'masks' / 'b.png').unlink()


def damage_empty_image(root):
    (root / 'images' / 'b.jpg').write_bytes(b'')


def damage_empty_mask(root):
    (root / 'masks' / 'b.png').write_bytes(b'')


def damage_not_an_image(root):
    (root / 'images' / 'b.jpg').write_text('no image')


def damage_two_images(root):
    shutil.copy(root / 'masks' / 'b.png', root / 'images' / 'b.png')


def damage_size(root):
    cv2.imwrite(str(root / 'masks' / 'b.png'), np.zeros((10, 8), np.uint8))


@pytest.mark.parametrize(
    ('damage', 'error', 'message'),
    [
        (damage_no_mask, FileNotFoundError, 'masks/b: no file'),
        (damage_empty_image, ValueError, 'images/b.jpg: the file is empty'),
        (damage_empty_mask, ValueError, 'masks/b.png: the file is empty'),
        (damage_not_an_image, ValueError, 'images/b.jpg: not a readable image'),
        (damage_two_images, ValueError, 'images/b: ambiguous, b.jpg and b.png'),
        (damage_size, ValueError, 'b.jpg is 10 x 8, its mask .*b.png is 8 x 10'),
    ],
)
def test_bad_files_are_named_before_training(three, damage, error, message):
    damage(three)
    with pytest.raises(error, match=message) as raised:
        PolypDataset(data_root=str(three))
    assert '1 of the 3 images' in str(raised.value)


def test_all_problems_are_in_one_error(tmp_path):
    make_set(tmp_path, ['there'])
    names = ['there', *(f'gone{i}' for i in range(7))]
    (tmp_path / 'list.txt').write_text('\n'.join(names))
    with pytest.raises(FileNotFoundError) as raised:
        PolypDataset(str(tmp_path / 'list.txt'), data_root=str(tmp_path))
    text = str(raised.value)
    assert '7 of the 8 images' in text and 'images/gone4:' in text and 'and 2 more' in text
    assert 'gone5' not in text


def test_nothing_left(three):
    (three / 'all.txt').write_text('a\nb\nc\n')
    with pytest.raises(ValueError, match='has no image after leaving out'):
        PolypDataset(data_root=str(three), exclude=[str(three / 'all.txt')])


def test_unlabelled_images_need_no_mask(three):
    (three / 'masks' / 'a.png').unlink()
    damage_size(three)
    dataset = PolypDataset(data_root=str(three), labelled=False)
    infos = [dataset.get_data_info(i) for i in range(3)]
    assert all('seg_map_path' not in info for info in infos)
    assert [info.get('hidden_map_path') for info in infos] == [
        None,
        None,
        str(three / 'masks' / 'c.png'),
    ]
    shutil.rmtree(three / 'masks')
    assert len(PolypDataset(data_root=str(three), labelled=False)) == 3


# The semi-supervised data set


class Draws:
    """A pipeline that returns one number of each generator beside the sample's name."""

    def __call__(self, results):
        numbers = random.random(), np.random.rand(), torch.rand(()).item()
        return results['name'], *numbers


def source(root: Path, part: str) -> dict:
    return dict(
        type='PolypDataset',
        data_root=str(root),
        folder=f'Synthetic/{part}',
        labelled=part == 'labelled',
        pipeline=[Draws()],
    )


@pytest.fixture
def semi(synthetic_root) -> SemiSupervisedDataset:
    return SemiSupervisedDataset(source(synthetic_root, 'labelled'), source(synthetic_root, 'unlabelled'))


def test_sources_lie_one_after_the_other(semi):
    assert semi.source_sizes == [5, 7] and len(semi) == 12
    paths = [Path(semi.get_data_info(i)['img_path']) for i in range(12)]
    assert [path.parts[-3] for path in paths] == ['labelled'] * 5 + ['unlabelled'] * 7
    assert semi[5][0] == '0000' and semi[11][0] == '0006'
    assert semi.metainfo['classes'] == ('background', 'polyp')
    with pytest.raises(IndexError, match='index 12'):
        semi[12]


def test_a_draw_decides_its_random_numbers(semi):
    first = semi[Draw(2, number=40, seed=7)]
    semi[0]
    assert semi[Draw(2, number=40, seed=7)] == first
    others = [
        semi[Draw(2, number=41, seed=7)],
        semi[Draw(2, number=40, seed=8)],
        semi[Draw(7, number=40, seed=7)],
    ]
    for other in others:
        assert all(a != b for a, b in zip(first[1:], other[1:], strict=True))


def test_a_draw_leaves_the_generators_alone(semi):
    def numbers():
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = [numbers(), numbers()]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    found = [numbers()]
    semi[Draw(2, number=0, seed=0)]
    found.append(numbers())
    assert found == expected


@pytest.mark.slow
def test_partition_sets_the_lists(tmp_path):
    make_set(tmp_path / 'Kvasir-SEG', read_list('kvasir/train'))
    config = dict(type='KvasirSEGDataset', data_root=str(tmp_path))
    dataset = SemiSupervisedDataset(config, dict(config, labelled=False), 'kvasir/quarter')
    assert dataset.source_sizes == [225, 675]
    assert 'ann_file' not in config  # the caller's config is left as it was
    for few in ('kvasir/thirtysecond', 'kvasir/thirtysecond_b'):
        assert SemiSupervisedDataset(config, dict(config, labelled=False), few).source_sizes == [28, 872]
    labelled = SemiSupervisedDataset(config, partition='kvasir/eighth')
    assert labelled.source_sizes == [112]
    assert [labelled.get_data_info(i)['name'] for i in range(112)] == read_list('kvasir/eighth')

    with pytest.raises(FileNotFoundError, match="no list 'clinicdb/thirtysecond_b'"):
        SemiSupervisedDataset(config, partition='clinicdb/thirtysecond_b')
    with pytest.raises(
        ValueError, match='must end in one of half, quarter, eighth, sixteenth, thirtysecond, sixtyfourth, train'
    ):
        SemiSupervisedDataset(config, partition='kvasir/test')
    with pytest.raises(FileNotFoundError, match='no list .nothing/half'):
        SemiSupervisedDataset(config, partition='nothing/half')
    with pytest.raises(ValueError, match='both name a list'):
        SemiSupervisedDataset(dict(config, ann_file='kvasir/half'), partition='kvasir/half')
    with pytest.raises(ValueError, match='has no image after leaving out'):
        SemiSupervisedDataset(config, dict(config, labelled=False), 'kvasir/train')


def test_sources_must_not_share_an_image(synthetic_root):
    config = source(synthetic_root, 'labelled')
    with pytest.raises(ValueError, match='5 images are both labelled and unlabelled.*0000.png'):
        SemiSupervisedDataset(config, config)


def test_an_empty_source_is_an_error(synthetic_root):
    config = source(synthetic_root, 'labelled')
    empty = dict(source(synthetic_root, 'unlabelled'), indices=[], serialize_data=False)
    with pytest.raises(ValueError, match='the unlabelled source has no image'):
        SemiSupervisedDataset(config, empty)
    with pytest.raises(ValueError, match='the labelled source has no image'):
        SemiSupervisedDataset(dict(config, indices=[], serialize_data=False))


@pytest.mark.slow
def test_any_mmseg_dataset_is_a_source(three, synthetic_root):
    plain = dict(
        type='BaseSegDataset',
        metainfo=dict(classes=('wall', 'polyp'), palette=[[0, 0, 0], [1, 1, 1]]),
        data_prefix=dict(img_path=str(three / 'images'), seg_map_path=str(three / 'masks')),
    )
    dataset = SemiSupervisedDataset(plain, source(synthetic_root, 'unlabelled'))
    assert dataset.source_sizes == [3, 7]
    assert dataset.metainfo['classes'] == ('wall', 'polyp')


# Synthetic frames


def test_synthetic_frames(synthetic_root):
    for part, count in (('labelled', 5), ('unlabelled', 7), ('test', 3)):
        folder = synthetic_root / 'Synthetic' / part
        dataset = PolypDataset(data_root=str(synthetic_root), folder=f'Synthetic/{part}')
        assert len(dataset) == count
        for path in (folder / 'masks').iterdir():
            mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert mask.shape == (72, 96) and set(np.unique(mask)) == {0, 255}
            assert 0.005 < (mask > 0).mean() < 0.6
        for path in (folder / 'images').iterdir():
            image = cv2.imread(str(path))
            assert image.shape == (72, 96, 3)
            assert image[0, 0].max() == 0  # black corner of the scope
            assert image[..., 2].mean() > image[..., 1].mean()  # tissue is red


def digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob('*.png')
    }


def test_synthetic_frames_follow_from_seed_part_and_number(tmp_path):
    sizes = dict(size=(40, 48))
    write_synthetic(tmp_path / 'a', labelled=2, unlabelled=2, test=1, **sizes)
    write_synthetic(tmp_path / 'b', labelled=3, unlabelled=2, test=1, **sizes)
    write_synthetic(tmp_path / 'c', labelled=2, unlabelled=2, test=1, seed=1, **sizes)
    a, b, c = (digest(tmp_path / name) for name in 'abc')
    assert len(set(a.values())) == len(a) == 10
    assert a.items() < b.items()
    assert not set(a.values()) & set(c.values())
    with pytest.raises(ValueError, match='size=\\(40, 31\\)'):
        write_synthetic(tmp_path, size=(40, 31))


def test_synthetic_polyps_are_not_told_by_brightness_alone():
    """No threshold on a colour channel, chosen with the masks, finds the polyps well."""
    frames = [draw_frame(np.random.default_rng(i), (64, 80)) for i in range(24)]
    images = np.stack([image for image, _ in frames]).reshape(-1, 3)
    masks = np.stack([mask for _, mask in frames]).ravel() > 0
    for channel in images.T:
        for threshold in range(20, 240, 10):
            for found in (channel > threshold, channel < threshold):
                dice = 2 * (found & masks).sum() / (found.sum() + masks.sum())
                assert dice < 0.5


# Configs and real data


@pytest.mark.parametrize('name', sorted(path.stem for path in CONFIGS.glob('*.py')))
def test_dataset_configs_load(name):
    config = Config.fromfile(CONFIGS / f'{name}.py')
    assert config.train_dataloader.batch_size == sum(config.train_dataloader.sampler.ratio)
    test, validation = config.test_dataloader.dataset, config.val_dataloader.dataset
    if name.split('_')[0] in ('kvasir', 'clinicdb', 'polyp'):
        group = name.split('_')[0]
        assert (test.pop('ann_file'), validation.pop('ann_file')) == (f'{group}/test', f'{group}/dev')
    assert test == validation
    assert config.test_evaluator.type == ('IoUMetric' if name.startswith('classes') else 'PolypMetric')


def test_synthetic_config_runs(synthetic_root, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    config = Config.fromfile(CONFIGS / 'synthetic.py')
    batch = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
    for view in ('sup', 'unsup_weak', 'unsup_strong'):
        assert [tuple(x.shape) for x in batch['inputs'][view]] == [(3, 128, 128)] * 4
        assert len(batch['data_samples'][view]) == 4
    test = next(iter(Runner.build_dataloader(config.test_dataloader, seed=0)))
    assert test['inputs'][0].shape == (3, 128, 128)
    assert test['data_samples'][0].gt_sem_seg.shape == (72, 96)  # not resized


def test_supervised_variant_of_a_config(synthetic_root, monkeypatch, tmp_path):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    child = tmp_path / 'child.py'
    child.write_text(
        f"_base_ = '{(CONFIGS / 'synthetic.py').as_posix()}'\ntrain_dataloader = _base_.supervised_dataloader\n"
    )
    config = Config.fromfile(child)
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    assert loader.dataset.source_sizes == [5]
    semi = Runner.build_dataloader(Config.fromfile(CONFIGS / 'synthetic.py').train_dataloader, seed=0)
    for ours, theirs, _ in zip(loader, semi, range(3), strict=False):
        assert torch.equal(torch.stack(ours['inputs']), torch.stack(theirs['inputs']['sup']))
        for a, b in zip(ours['data_samples'], theirs['data_samples']['sup'], strict=True):
            assert torch.equal(a.gt_sem_seg.data, b.gt_sem_seg.data)


@pytest.mark.slow
def test_real_sets_load_whole(real_data):
    root = str(real_data)
    assert len(KvasirSEGDataset(data_root=root)) == 1000
    assert len(CVCClinicDBDataset(data_root=root)) == 612
    assert len(CVC300Dataset('cvc300/test', data_root=root)) == 60
    medico = read_list('kvasir/medico_train') + read_list('kvasir/medico_val')
    pranet = read_list('kvasir/train') + read_list('kvasir/test')
    assert set(medico) == set(pranet)


@pytest.mark.slow
def test_real_quarter(real_data, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(real_data))
    for name, sizes in (('kvasir', [225, 675]), ('clinicdb', [137, 413]), ('polyp', [362, 1088])):
        config = Config.fromfile(CONFIGS / f'{name}.py')
        assert DATASETS.build(config.train_dataloader.dataset).source_sizes == sizes
        assert len(DATASETS.build(config.test_dataloader.dataset)) == len(read_list(f'{name}/test'))
