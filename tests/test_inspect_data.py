"""What tools/inspect_data.py counts and draws."""

from __future__ import annotations

import logging
import os
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmseg_acl.datasets import write_synthetic
from mmseg_acl.datasets.survey import format_survey, survey_data
from mmseg_acl.engine import build_runner, load_config
from mmseg_acl.visualization.label_sheet import draw_label_sheet

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'tests' / 'configs' / 'mean_teacher.py'
LOAD_CLASSES = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
CLASSES = ('background', 'polyp', 'tool')
PALETTE = [[0, 0, 0], [255, 0, 0], [0, 0, 255]]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Six labelled frames, of which one is larger; the tool writes into this folder."""
    write_synthetic(tmp_path / 'data', labelled=6, unlabelled=4, test=2, size=(48, 64))
    for kind, flag in (('images', cv2.INTER_LINEAR), ('masks', cv2.INTER_NEAREST)):
        path = tmp_path / 'data' / 'Synthetic' / 'labelled' / kind / '0003.png'
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (128, 96), interpolation=flag))
    monkeypatch.setenv('MMSEG_ACL_DATA', str(tmp_path / 'data'))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inspect(monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, 'argv', ['inspect_data.py', *map(str, args)])
    runpy.run_path(str(ROOT / 'tools' / 'inspect_data.py'), run_name='__main__')


def class_set(folder: Path, count: int) -> dict:
    """A data set of mmseg of three classes; its last mask has ignored pixels, and none has the third class."""
    for kind in ('images', 'classes'):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        labels = np.zeros((40, 50), np.uint8)
        labels[10:20, 5 : 15 + 5 * i] = 1
        labels[:4] = 255 if i == count - 1 else 0
        Image.fromarray(labels).save(folder / 'classes' / f'{i}.png')
        Image.new('RGB', (50, 40), (90, 60, 60)).save(folder / 'images' / f'{i}.jpg')
    return dict(
        type='BaseSegDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='images', seg_map_path='classes'),
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        pipeline=LOAD_CLASSES,
    )


def numbers(text: str, name: str) -> list[float]:
    """The numbers of a table's row."""
    return [float(x) for x in re.findall(r'[\d.]+', re.search(rf'\| {name} .*', text).group().partition(name)[2])]


@pytest.mark.slow
def test_the_tool_counts_draws_and_names_the_next_command(root, monkeypatch, capsys):
    inspect(monkeypatch, CONFIG, '--frames', 3)
    said = capsys.readouterr().out
    labelled = 'training, labelled source: 6 images of 2 sizes, 64 x 48 to 128 x 96, in '
    assert labelled + str(root / 'data' / 'Synthetic' / 'labelled' / 'images') in said
    assert 'training, unlabelled source: 4 images of 64 x 48' in said and ', without labels' in said
    assert 'validation and test: 2 images of 64 x 48' in said
    masks = sorted((root / 'data' / 'Synthetic' / 'labelled' / 'masks').iterdir())
    shares = [100 * (cv2.imread(str(path), 0) > 0).mean() for path in masks]
    expected = [np.mean(shares), min(shares), np.median(shares), max(shares), 6]
    np.testing.assert_allclose(numbers(said, 'polyp'), expected, atol=0.051)
    for drawn in re.findall(r'drawn: (.*)', said):
        assert drawn.startswith('work_dirs/inspect_data/mean_teacher/')
        assert cv2.imread(drawn).shape[1] > 1000 and Path(drawn).with_suffix('.pdf').is_file()
    assert said.count('drawn: ') == 2
    assert said.rstrip().endswith(f'next: python tools/train.py {CONFIG}')


@pytest.mark.slow
def test_contours_lie_where_the_masks_end_from_the_smallest_polyp_to_the_largest(root):
    source = survey_data(load_config(str(CONFIG)))[0]
    figure = draw_label_sheet(source, 4)
    assert len(figure.axes) == 4
    names = [text.get_text().partition(',') for text in figure.texts]
    shares = [float(rest.rstrip('%')) for _, _, rest in names]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    for axes, (name, _, _) in zip(figure.axes, names, strict=True):
        mask = cv2.imread(str(root / 'data' / 'Synthetic' / 'labelled' / 'masks' / f'{name}.png'), 0) > 0
        rows, columns = np.nonzero(mask)
        lines = np.concatenate([path.vertices for drawn in axes.collections for path in drawn.get_paths()])
        scale = axes.images[0].get_array().shape[1] / mask.shape[1]
        found = (lines + 0.5) / scale  # from pixels' centres, in pixels of the mask
        expected = [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]
        np.testing.assert_allclose([found.min(axis=0), found.max(axis=0)], expected, atol=0.51)
    with pytest.raises(ValueError, match='--frames 0 must be at least 1'):
        draw_label_sheet(source, 0)


@pytest.mark.slow
def test_class_data_and_several_sources(tmp_path):
    sources = [class_set(tmp_path / 'a', 3), class_set(tmp_path / 'b', 2)]
    dataset = dict(type='SemiSupervisedDataset', labelled=sources, unlabelled=None)
    together = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=sources))
    surveys = survey_data(
        Config(dict(train_dataloader=dict(dataset=dataset), test_dataloader=dict(dataset=together)))
    )
    assert [source.name for source in surveys] == [
        'training, labelled source 1 of 2',
        'training, labelled source 2 of 2',
        'test 1 of 2',
        'test 2 of 2',
    ]
    text = format_survey(surveys[:1])
    np.testing.assert_allclose(numbers(text, 'polyp'), [7.5, 5, 7.5, 10, 3])
    np.testing.assert_allclose(numbers(text, 'tool'), [0, 0, 0, 0, 0])
    np.testing.assert_allclose(numbers(text, 'ignored'), [3.3, 0, 0, 10, 1])
    np.testing.assert_array_equal(surveys[0].shares, surveys[2].shares)
    np.testing.assert_allclose(surveys[0].foreground, [0.05, 0.075, 0.1])
    figure = draw_label_sheet(surveys[0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['polyp', 'ignored']
    assert [len(axes.collections) for axes in figure.axes] == [1, 1, 2]


def test_masks_that_are_refused_end_in_one_message(root, monkeypatch, capsys):
    path = root / 'data' / 'Synthetic' / 'labelled' / 'masks' / '0001.png'
    Image.fromarray(np.eye(48, 64, dtype=np.uint8) * 254 + 1).save(path)
    with pytest.raises(SystemExit) as stop:
        inspect(monkeypatch, CONFIG)
    assert stop.value.code == 2 and "0001.png' has the value 1 beside 255" in capsys.readouterr().err
    with pytest.raises(ValueError, match='names no data set'):
        survey_data(Config())


@pytest.mark.slow
def test_the_start_of_a_run_names_the_tool_once_with_a_config_that_it_reads(root, monkeypatch):
    said = []
    monkeypatch.setattr(logging.Logger, 'info', lambda self, text, *_: said.append(str(text)))
    options = {'train_dataloader.dataset.labelled.folder': 'Synthetic/test'}
    build_runner(load_config(str(CONFIG), work_dir=str(root / 'run'), options=options))
    named = [text.partition('tools/inspect_data.py ')[2] for text in said if 'tools/inspect_data.py' in text]
    assert len(named) == 1 and os.path.dirname(named[0]) == str(root / 'run')
    assert len(survey_data(load_config(named[0]))[0].dataset) == 2
