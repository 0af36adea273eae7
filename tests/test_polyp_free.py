"""tools/cut_polyp_free.py: crops keep away from polyps, and count false alarms."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_acl.datasets.polyp_free import DARK, MAX_DARK, cut_crops, find_crop

ROOT = Path(__file__).parents[1]


def slow_crop(image: np.ndarray, mask: np.ndarray, margin: float, min_side: float) -> tuple[int, int, int] | None:
    """Every square of every side, from the largest on, held against every pixel of the polyp."""
    height, width = mask.shape
    shorter = min(height, width)
    reach = round(margin * shorter)
    ys, xs = np.nonzero(mask)
    for side in range(shorter, round(min_side * shorter) - 1, -1):
        for y in range(height - side + 1):
            for x in range(width - side + 1):
                near = (ys >= y - reach) & (ys < y + side + reach) & (xs >= x - reach) & (xs < x + side + reach)
                dark = (image[y : y + side, x : x + side].max(axis=2) < DARK).mean()
                if not near.any() and dark <= MAX_DARK:
                    return x, y, side
    return None


@pytest.mark.parametrize('seed', range(6))
def test_the_crop_is_the_largest_square_away_from_polyps_and_black(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 200, (36, 44, 3), np.uint8)
    image[:, : rng.integers(0, 12)] = 0
    mask = cv2.circle(np.zeros((36, 44), np.uint8), tuple(map(int, rng.integers(5, 36, 2))), 5, 255, -1)
    margin, min_side = 0.06, 0.3
    found = find_crop(image, mask, margin, min_side)
    assert (found and (found.x, found.y, found.side)) == slow_crop(image, mask, margin, min_side)


def test_a_frame_full_of_polyp_or_black_has_no_crop():
    image, mask = np.full((40, 40, 3), 120, np.uint8), np.zeros((40, 40), np.uint8)
    assert find_crop(image, mask).side == 40
    assert find_crop(np.zeros_like(image), mask) is None
    mask[12:28, 12:28] = 1
    assert find_crop(image, mask) is None


@pytest.fixture
def frames(tmp_path) -> Path:
    """Two frames of Kvasir by name: one with room, one without."""
    folder = tmp_path / 'Kvasir-SEG'
    for kind in ('images', 'masks'):
        (folder / kind).mkdir(parents=True)
    for name, size in (('room', 10), ('none', 60)):
        cv2.imwrite(str(folder / 'images' / f'{name}.png'), np.full((64, 80, 3), 130, np.uint8))
        mask = np.zeros((64, 80), np.uint8)
        mask[:size, :size] = 255
        cv2.imwrite(str(folder / 'masks' / f'{name}.png'), mask)
    return folder


def cut(folder: Path, *names: str, out: Path, **how: float) -> list:
    return list(cut_crops(folder / 'images', folder / 'masks', list(names), out, **how))


def test_what_is_written_says_where_it_was_cut(frames, tmp_path):
    first, second = cut(frames, 'room', 'none', out=tmp_path / 'out')
    assert second is None
    with (tmp_path / 'out' / 'crops.csv').open() as file:
        assert list(csv.DictReader(file)) == [{key: str(value) for key, value in vars(first).items()}]
    image, mask = (cv2.imread(str(tmp_path / 'out' / kind / 'room.png'), -1) for kind in ('images', 'masks'))
    assert image.shape == (first.side, first.side, 3) and mask.shape == image.shape[:2] and not mask.any()


def test_wrong_input_is_said(frames, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no image 'other'"):
        cut(frames, 'other', out=tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    with pytest.raises(ValueError, match='margin is 2 and min_side 0.4; they are shares'):
        cut(frames, 'room', out=tmp_path / 'out', margin=2)
    with pytest.raises(ValueError, match='none of the 1 frames has a polyp-free square of 0.4'):
        cut(frames, 'none', out=tmp_path / 'out')
    with pytest.raises(FileExistsError, match='holds something already'):
        cut(frames, 'room', out=tmp_path / 'out')


def test_the_tool_says_how_many_and_what_is_next(frames, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(tmp_path))
    monkeypatch.setattr(sys, 'argv', ['cut_polyp_free.py', 'kvasir'])
    monkeypatch.setattr('mmseg_acl.datasets.partitions.read_list', lambda name: ['room', 'none'])
    runpy.run_path(str(ROOT / 'tools' / 'cut_polyp_free.py'), run_name='__main__')
    said = capsys.readouterr().out
    assert f'{tmp_path / "PolypFreeCrops" / "Kvasir-SEG"}: 1 crops of 2 frames' in said
    assert said.rstrip().endswith('next: python tools/test.py CONFIG CHECKPOINT --datasets kvasir_crops')
