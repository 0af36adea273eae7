"""tools/check_labels.py and tools/spoil_labels.py: masks that are probably wrong."""

from __future__ import annotations

import csv
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import DATASETS
from tool_process import run_tool

from mmseg_acl.datasets import write_synthetic
from mmseg_acl.datasets.polyp_masks import read_polyp_mask
from mmseg_acl.labelling.checking import (
    Mask,
    check_masks,
    draw_folds,
    find_masks,
    fold_config,
    label_score,
    read_probabilities,
)
from mmseg_acl.labelling.spoiling import shift, shrink, spoil_labels

CONFIGS = Path(__file__).parent / 'configs'


@pytest.fixture(scope='module')
def labelled(tmp_path_factory) -> Path:
    """Twelve labelled frames."""
    root = tmp_path_factory.mktemp('data')
    write_synthetic(root, labelled=12, unlabelled=1, test=1, size=(64, 80), seed=0)
    return root / 'Synthetic' / 'labelled'


def config_of(folder: Path, method: str = 'supervised_strong') -> Config:
    """A config that trains on a folder."""
    config = Config.fromfile(CONFIGS / f'{method}.py')
    given = config.train_dataloader.dataset.labelled
    for source in given if isinstance(given, list) else [given]:
        source.update(data_root=str(folder), folder='')
    return config


def write_maps(folder: Path, masks: Path, names: list[str]) -> None:
    """Probabilities of a model that is right and not too sure."""
    folder.mkdir(parents=True)
    for name in names:
        prob = cv2.GaussianBlur(read_polyp_mask(str(masks / f'{name}.png')).astype(np.float32), (0, 0), 2)
        cv2.imwrite(str(folder / f'{name}.png'), np.round(65535 * (0.05 + 0.9 * prob)).astype(np.uint16))


# ------------------------------------------------------------------ spoiling


def test_twenty_masks_are_spoilt_and_the_others_stay(tmp_path):
    write_synthetic(tmp_path, labelled=24, unlabelled=1, test=1, size=(64, 80), seed=1)
    source, out = tmp_path / 'Synthetic' / 'labelled', tmp_path / 'spoilt'
    done = run_tool('spoil_labels.py', source, '--out', out, '--seed', 3, data=Path('nowhere'))
    assert '5 shifted, 5 shrunk, 5 swapped, 5 emptied' in done.stdout
    ways = {row['frame']: row['way'] for row in csv.DictReader(open(out / 'spoilt.csv'))}
    masks = {
        kind: {path.stem: read_polyp_mask(str(path)) for path in (kind / 'masks').iterdir()} for kind in (source, out)
    }
    before, after = masks[source], masks[out]
    assert before.keys() == after.keys() and len(ways) == 20
    assert {name for name in before if (before[name] != after[name]).any()} == set(ways)
    swapped = [name for name, way in ways.items() if way == 'swapped']
    for name, way in ways.items():
        areas = before[name].sum(), after[name].sum()
        if way == 'emptied':
            assert areas[1] == 0
        elif way == 'shrunk':
            assert areas[1] == round(0.6 * areas[0]) and not (after[name] > before[name]).any()
        elif way == 'swapped':
            assert any((after[name] == before[other]).all() for other in swapped if other != name)
    for path in (source / 'images').iterdir():
        assert (out / 'images' / path.name).read_bytes() == path.read_bytes()
    assert (
        spoil_labels(source, tmp_path / 'again', seed=3) == ways != spoil_labels(source, tmp_path / 'other', seed=4)
    )


def test_a_mask_is_shifted_by_a_quarter_of_its_width_and_shrinks_from_its_border():
    mask = np.zeros((60, 90), np.uint8)
    mask[20:40, 30:70] = 1
    np.testing.assert_array_equal(shift(mask, 0.0), np.roll(mask, 10, axis=1))
    np.testing.assert_array_equal(shift(mask, -np.pi / 2), np.roll(mask, -10, axis=0))
    shrunk = shrink(mask)
    assert shrunk.sum() == 480 and not (shrunk & (mask - cv2.erode(mask, np.ones((3, 3))))).any()


# ------------------------------------------------------------------ scores and folds


def test_the_score_is_a_softmin():
    confidence = np.random.default_rng(0).random(50)
    weights = [np.exp((1 - value) / 0.1) for value in confidence]
    expected = sum(value * weight for value, weight in zip(confidence, weights, strict=True)) / sum(weights)
    assert label_score(confidence) == pytest.approx(expected)
    assert label_score(np.ones(9)) == 1 == label_score(np.zeros(0)) and label_score(np.zeros(9)) == 0
    # One wrong pixel of a hundred weighs more than in a mean.
    assert label_score(np.array([0.0] + 99 * [1.0])) < 0.01


def test_folds_are_even_and_a_mask_is_in_one():
    folds = draw_folds(11, 4, seed=0)
    assert sorted(np.bincount(folds)) == [2, 3, 3, 3]
    assert (folds == draw_folds(11, 4, seed=0)).all() and (folds != draw_folds(11, 4, seed=1)).any()
    for wrong in (1, 12):
        with pytest.raises(ValueError, match=f'folds is {wrong}; it must lie in 2 to 11'):
            draw_folds(11, wrong, seed=0)


@pytest.mark.parametrize('method', ['supervised', 'supervised_strong', 'mean_teacher'])
def test_a_fold_trains_on_the_other_masks(method, labelled, synthetic_root, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))  # for the unlabelled images
    config = config_of(labelled, method)
    masks = find_masks(config)
    assert len(masks) == 12 and len({mask.entry for mask in masks}) == 12
    held = {str(mask.path) for mask in masks[3:6]}
    part = fold_config(config, {str(mask.path): str(mask.path) not in held for mask in masks}, Path('x'))
    dataset = DATASETS.build(part.train_dataloader.dataset)
    for source in dataset.sources[: dataset.num_labelled]:
        paths = {source.get_data_info(index)['img_path'] for index in range(len(source))}
        assert len(paths) == 9 and not paths & held
    assert part.val_dataloader is None and config.val_dataloader is not None
    np.testing.assert_array_equal(masks[2].read(), read_polyp_mask(str(masks[2].path).replace('images', 'masks')))


def test_spoilt_masks_are_the_worst_of_all(labelled, tmp_path):
    ways = spoil_labels(labelled, tmp_path / 'spoilt', count=2)
    masks = find_masks(config_of(tmp_path / 'spoilt'))
    write_maps(tmp_path / 'maps', labelled / 'masks', [mask.entry for mask in masks])
    checked = check_masks(masks, tmp_path / 'maps')
    assert {found.mask.entry for found in checked[:8]} == set(ways)
    assert [found.score for found in checked] == sorted(found.score for found in checked)
    for found in checked:
        prob = read_probabilities(tmp_path / 'maps', found.mask.entry)
        given, predicted = found.mask.read() > 0, prob[1] > 0.5
        assert found.missing == pytest.approx((given & ~predicted).mean())
        assert found.extra == pytest.approx((predicted & ~given).mean())


def test_ignored_pixels_and_several_classes_are_scored(tmp_path):
    labels = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
    prob = np.random.default_rng(1).dirichlet(np.ones(3), size=(2, 3)).transpose(2, 0, 1)
    for label in (1, 2):
        cv2.imwrite(str(tmp_path / f'a_{label}.png'), np.round(65535 * prob[label]).astype(np.uint16))
    mask = Mask('a', Path('a.png'), 0, 0, lambda: labels)
    own = [prob[labels[y, x], y, x] for y in range(2) for x in range(3) if labels[y, x] != 255]
    (found,) = check_masks([mask], tmp_path)
    assert found.score == pytest.approx(label_score(np.array(own)), abs=1e-3)
    wide = mask._replace(read=lambda: labels[:, :2])
    with pytest.raises(ValueError, match='a: its mask is 2 x 2, its probabilities 3 x 2'):
        check_masks([wide], tmp_path)
    with pytest.raises(ValueError, match='a has the label 7, but there are 3 classes'):
        check_masks([mask._replace(read=lambda: labels * 0 + 7)], tmp_path)


# ------------------------------------------------------------------ the tool


def test_probabilities_that_are_there_need_no_training(labelled, tmp_path):
    config_of(labelled).dump(tmp_path / 'config.py')
    names = [path.stem for path in (labelled / 'masks').iterdir()]
    write_maps(tmp_path / 'maps', labelled / 'masks', names)
    options = ('--probabilities', tmp_path / 'maps', '--out', tmp_path / 'out', '--sheet', 5)
    done = run_tool('check_labels.py', tmp_path / 'config.py', *options, data=Path('nowhere'))
    assert '12 masks, the least likely first' in done.stdout and 'fold' not in done.stdout
    rows = list(csv.DictReader(open(tmp_path / 'out' / 'labels.csv')))
    assert sorted(row['frame'] for row in rows) == sorted(names)
    assert (cv2.imread(str(tmp_path / 'out' / 'labels_1.png')) < 200).mean() > 0.1
    (tmp_path / 'maps' / f'{names[0]}.png').unlink()
    done = run_tool('check_labels.py', tmp_path / 'config.py', *options, data=Path('nowhere'), check=False)
    assert done.returncode == 2 and f'has no probabilities of {names[0]}' in done.stderr


@pytest.mark.slow
def test_folds_are_trained_once_and_go_on(labelled, synthetic_root, tmp_path):
    config_of(labelled).dump(tmp_path / 'config.py')
    options = ('--folds', 2, '--iters', 2, '--out', tmp_path / 'out')
    done = run_tool('check_labels.py', tmp_path / 'config.py', *options, data=synthetic_root)
    assert 'fold 2 of 2: 6 masks to train on, 6 to predict' in done.stdout
    maps = sorted((tmp_path / 'out' / 'probabilities').iterdir())
    table = (tmp_path / 'out' / 'labels.csv').read_bytes()
    assert len(maps) == 12 == table.count(b'\n') - 1
    # A fold that lacks a map is predicted again, by the checkpoint that is there; a fold that lacks none is left.
    maps[0].unlink()
    times = {path: path.stat().st_mtime_ns for path in maps[1:]}
    logs = [path.stat().st_mtime_ns for path in sorted((tmp_path / 'out' / 'folds').glob('*/train.out'))]
    done = run_tool('check_labels.py', tmp_path / 'config.py', *options, data=synthetic_root)
    assert done.stdout.count('is there') == 1 and (tmp_path / 'out' / 'labels.csv').read_bytes() == table
    assert sum(path.stat().st_mtime_ns == time for path, time in times.items()) == 6
    assert logs == [path.stat().st_mtime_ns for path in sorted((tmp_path / 'out' / 'folds').glob('*/train.out'))]


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('check_labels.py', ('none.py',), 'no config at none.py'),
        ('check_labels.py', ('{config}', '--folds', '1'), 'folds is 1; it must lie in 2 to 12'),
        ('check_labels.py', ('{config}', '--sheet', '0'), '--sheet 0'),
        ('spoil_labels.py', ('{labelled}', '--count', '1'), 'count is 1'),
        ('spoil_labels.py', ('{labelled}', '--count', '9'), 'has 12 frames with polyps, fewer than the 36'),
        ('spoil_labels.py', ('{labelled}/images',), "folder '.*images/images' does not exist"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(tool, arguments, message, labelled, tmp_path, capsys, monkeypatch):
    config_of(labelled).dump(tmp_path / 'config.py')
    words = [word.format(labelled=labelled, config=tmp_path / 'config.py') for word in arguments]
    monkeypatch.setattr(sys, 'argv', [tool, *words, '--out', str(tmp_path / 'out')])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(Path(__file__).parents[1] / 'tools' / tool), run_name='__main__')
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / 'out').exists()
