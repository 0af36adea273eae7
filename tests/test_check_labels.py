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
    out_of_sample,
    read_probabilities,
)
from mmseg_acl.labelling.doubt import best_dice, doubt_of
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


@pytest.mark.slow
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


def slow_dice(prob: np.ndarray, mask: np.ndarray) -> float:
    """Expected Dice, pixel by pixel."""
    if not mask.any():
        return 1 - prob.max()
    inside = sum(prob[place] for place in np.ndindex(mask.shape) if mask[place])
    return 2 * inside / (prob.sum() + mask.sum())


def slow_doubt(prob: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    """The best of all masks, of all widths of the border, of all places, one by one."""
    own = slow_dice(prob, mask)
    best = max(slow_dice(prob, prob >= value) for value in [*np.unique(prob), 2.0])
    if not mask.any():
        return best - own, 0.0, 0.0
    rows, columns = np.nonzero(mask)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1

    def distance(place: tuple[int, int], others: list[tuple[int, int]]) -> float:
        return min(np.hypot(place[0] - y, place[1] - x) for y, x in others)

    # A ring around the frame is outside of the mask.
    ring = np.pad(mask, 1)
    sides = [[tuple(place) for place in np.argwhere(ring == side)] for side in (False, True)]
    outside = [(y - 1, x - 1) for y, x in sides[0]]
    inside = [(y - 1, x - 1) for y, x in sides[1]]
    depth = np.array(
        [
            [distance((y, x), outside) if mask[y, x] else -distance((y, x), inside) for x in range(mask.shape[1])]
            for y in range(mask.shape[0])
        ]
    )
    masks = [depth >= value for value in np.unique(depth)]
    resized = max(slow_dice(prob, each) for each in masks if 0.4 <= each.sum() / mask.sum() <= 2.5)
    reach = round(max(height, width) / 3)
    moved = 0.0
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            places = [(y + down, x + right) for y, x in zip(rows, columns, strict=True)]
            kept = [prob[y, x] for y, x in places if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]]
            moved = max(moved, 2 * sum(kept) / (prob.sum() + mask.sum()))
    return best - own, resized - own, moved - own


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(6))
def test_the_doubt_is_what_other_masks_would_win(seed):
    random = np.random.default_rng(seed)
    prob = cv2.GaussianBlur(random.random((15, 19)), (0, 0), 2)
    prob = (prob - prob.min()) / (prob.max() - prob.min())
    mask = cv2.GaussianBlur(random.random((15, 19)), (0, 0), 2) > (0.5, 0.52, 0.55, 2.0, 0.48, 0.0)[seed]
    expected = slow_doubt(prob, mask)
    found = doubt_of(prob, mask)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    lost, resized, moved = expected
    assert found.total == pytest.approx(max(lost, 4 * (resized + moved)), abs=1e-5)
    assert best_dice(prob) == pytest.approx(lost + slow_dice(prob, mask))


def test_a_ring_or_a_shift_that_is_sure_outweighs_a_part_that_is_missing():
    """A network that misses a third of a polyp is common; a mask that is too small all around is not."""
    prob = np.full((60, 80), 0.01)
    prob[20:40, 20:50] = 0.98
    right = prob > 0.5
    small, aside, part = (np.zeros_like(right) for _ in range(3))
    small[22:38, 23:47] = True
    aside[20:40, 28:58] = True
    part[20:40, 20:41] = True
    doubts = {name: doubt_of(prob, mask) for name, mask in dict(small=small, aside=aside, part=part).items()}
    assert doubt_of(prob, right).total < 0.02
    assert doubts['part'].lost > 0.8 * doubts['small'].lost
    assert min(doubts['small'].total, doubts['aside'].total) > 1.5 * doubts['part'].total
    assert doubts['small'].resized > 0.15 and doubts['aside'].moved > 0.2
    assert doubt_of(prob, np.zeros_like(right)) == (pytest.approx(0.93, abs=0.06), 0, 0)


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


def test_folds_of_another_division_are_refused(labelled, tmp_path):
    config = config_of(labelled)
    masks = find_masks(config)
    next(out_of_sample(config, masks, 3, 0, tmp_path, Path('train.py')))
    next(out_of_sample(config, masks, 3, 0, tmp_path, Path('train.py')))
    for folds, seed, some, differing in ((4, 0, masks, 'folds'), (3, 1, masks, 'seed'), (3, 0, masks[1:], 'frames')):
        with pytest.raises(ValueError, match=f'holds folds of other {differing}: give another --out, or remove it'):
            next(out_of_sample(config, some, folds, seed, tmp_path, Path('train.py')))


@pytest.mark.slow
def test_spoilt_masks_are_the_worst_of_all(labelled, tmp_path):
    ways = spoil_labels(labelled, tmp_path / 'spoilt', count=2)
    masks = find_masks(config_of(tmp_path / 'spoilt'))
    write_maps(tmp_path / 'maps', labelled / 'masks', [mask.entry for mask in masks])
    checked = check_masks(masks, tmp_path / 'maps')
    assert {found.mask.entry for found in checked[:8]} == set(ways)
    totals = [found.doubt.total for found in checked]
    assert totals == sorted(totals, reverse=True) and totals[7] > 3 * totals[8]
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
    known = prob * (labels != 255)
    expected = [doubt_of(known[label], labels == label) for label in (1, 2)]
    (found,) = check_masks([mask], tmp_path)
    assert found.doubt.total == pytest.approx(max(each.total for each in expected), abs=1e-3)
    # What is predicted where labels are ignored speaks against nothing.
    cv2.imwrite(str(tmp_path / 'a_1.png'), np.round(65535 * np.where(labels == 255, 0, prob[1])).astype(np.uint16))
    (without,) = check_masks([mask], tmp_path)
    assert without.doubt == found.doubt
    wide = mask._replace(read=lambda: labels[:, :2])
    with pytest.raises(ValueError, match='a: its mask is 2 x 2, its probabilities 3 x 2'):
        check_masks([wide], tmp_path)
    with pytest.raises(ValueError, match='a has the label 7, but there are 3 classes'):
        check_masks([mask._replace(read=lambda: labels * 0 + 7)], tmp_path)


# ------------------------------------------------------------------ the tool


@pytest.mark.slow
def test_probabilities_that_are_there_need_no_training(labelled, tmp_path):
    config_of(labelled).dump(tmp_path / 'config.py')
    names = [path.stem for path in (labelled / 'masks').iterdir()]
    write_maps(tmp_path / 'maps', labelled / 'masks', names)
    options = ('--probabilities', tmp_path / 'maps', '--out', tmp_path / 'out', '--sheet', 5)
    done = run_tool('check_labels.py', tmp_path / 'config.py', *options, data=Path('nowhere'))
    assert '12 masks, the most doubtful first' in done.stdout and 'fold' not in done.stdout
    rows = list(csv.DictReader(open(tmp_path / 'out' / 'labels.csv')))
    assert sorted(row['frame'] for row in rows) == sorted(names)
    assert (cv2.imread(str(tmp_path / 'out' / 'labels_1.png')) < 200).mean() > 0.1
    (tmp_path / 'maps' / f'{names[0]}.png').unlink()
    done = run_tool('check_labels.py', tmp_path / 'config.py', *options, data=Path('nowhere'), check=False)
    assert done.returncode == 2 and f'has no probabilities of {names[0]}' in done.stderr


def doubts_of(out: Path) -> dict[str, float]:
    """The doubt of each frame in the list of a check."""
    with (out / 'labels.csv').open(newline='') as file:
        return {row['frame']: float(row['doubt']) for row in csv.DictReader(file)}


@pytest.mark.slow
def test_folds_are_trained_once_and_go_on(labelled, synthetic_root, tmp_path):
    config_of(labelled).dump(tmp_path / 'config.py')
    options = ('--folds', 2, '--iters', 2, '--out', tmp_path / 'out')
    done = run_tool('check_labels.py', tmp_path / 'config.py', *options, data=synthetic_root)
    assert 'fold 2 of 2: 6 masks to train on, 6 to predict' in done.stdout
    maps = sorted((tmp_path / 'out' / 'probabilities').iterdir())
    doubts = doubts_of(tmp_path / 'out')
    assert len(maps) == 12 == len(doubts)
    # A fold that lacks a map is predicted again, by the checkpoint that is there; a fold that lacks none is left.
    maps[0].unlink()
    times = {path: path.stat().st_mtime_ns for path in maps[1:]}
    logs = [path.stat().st_mtime_ns for path in sorted((tmp_path / 'out' / 'folds').glob('*/train.out'))]
    done = run_tool('check_labels.py', tmp_path / 'config.py', *options, data=synthetic_root)
    assert done.stdout.count('is there') == 1
    assert doubts_of(tmp_path / 'out') == pytest.approx(doubts, abs=1e-3)  # a map may round to another step
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
