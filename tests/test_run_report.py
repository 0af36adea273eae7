"""The page that every run writes: what is on it, that nothing else is needed for it, that training stays the same."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from tool_process import run_tool

from mmseg_acl.datasets import write_synthetic
from mmseg_acl.engine import load_config
from mmseg_acl.experiments.identity import fingerprint
from mmseg_acl.visualization import Report, ReportHook
from mmseg_acl.visualization.run_report import _commit, _losses, _score, _scores

CONFIGS = Path(__file__).parent / 'configs'
FRAMES = 'default_hooks.report.frames=2'


@pytest.fixture
def data(tmp_path, monkeypatch):
    write_synthetic(tmp_path, labelled=4, unlabelled=4, test=3, size=(72, 96))
    shutil.copytree(tmp_path / 'Synthetic/test', tmp_path / 'Synthetic/validation')
    monkeypatch.setenv('MMSEG_ACL_DATA', str(tmp_path))
    return tmp_path


def run(data: Path, work_dir: str, name: str, *options: str, before: Callable[[], None] | None = None) -> str:
    """What a training says."""
    options = ('val_dataloader.dataset.folder=Synthetic/validation', 'train_cfg.val_interval=4', *options)
    command = (CONFIGS / f'{name}.py', '--work-dir', data / work_dir, '--cfg-options', *options)
    done = run_tool('train.py', *command, data=data, before=before)
    return done.stdout + done.stderr


def keep_each_page() -> None:
    """Have a copy of each page written beside it."""
    write = Report.write

    def noted(report: Report, path: Path) -> None:
        write(report, path)
        shutil.copy(path, path.with_name(f'{len(list(path.parent.glob("*_page.html")))}_page.html'))

    Report.write = noted


def fail_to_write() -> None:
    Report.write = lambda *_: 1 / 0


def pictures_of(page: str) -> list[np.ndarray]:
    found = re.findall(r'<img src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR) for text in found]


@pytest.mark.trained
@pytest.mark.slow
def test_the_page_of_a_run_and_that_training_is_the_same_without_it(data):
    said = run(data, 'with', 'mean_teacher', FRAMES, before=keep_each_page)
    assert f'the report of this run: {data / "with"}/report.html' in said
    run(data, 'without', 'mean_teacher')
    pages = [(data / f'with/{number}_page.html').read_text() for number in range(3)]
    assert 'running, iteration 4 of 8' in pages[0] and 'What to do next' not in pages[0]
    page = (data / 'with/report.html').read_text()
    assert page == pages[2]
    assert 'ended at iteration 8' in page and f'python tools/predict.py {data / "with"} FRAMES' in page
    for heading in (
        'Validation',
        'Losses',
        'Worst and best validation images',
        'Labelled images',
        'Unlabelled images',
    ):
        assert f'<h2>{heading}</h2>' in page
    assert 'best teacher/mDice' in page and '4 labelled, 4 unlabelled' in page and 'max_iters=8' in page
    assert not re.search(r'(src|href)="(?!data:)', page) and 'name="viewport"' in page
    images = pictures_of(page)
    assert page.count('class="panels"') == 2 and all(image.std() > 0 for image in images)
    thumbnails = [image for image in images if image.shape[:2] == (72, 96)]
    assert len(thumbnails) == 2 * 3 + 2 + 2  # masks and predictions of all 3, labelled, unlabelled
    assert not (data / 'without/report.html').exists()
    states = [
        torch.load(data / part / 'iter_8.pth', weights_only=False)['state_dict'] for part in ('with', 'without')
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('name', ['supervised', 'cafd'])
def test_other_methods_and_runs_without_validation(data, name):
    none = ('val_dataloader=None', 'val_cfg=None', 'val_evaluator=None') if name == 'cafd' else ()
    run(data, 'run', name, FRAMES, *none)
    page = (data / 'run/report.html').read_text()
    assert ('Unlabelled images' in page) == (name == 'cafd') and ('Worst and best' in page) == (name == 'supervised')
    assert 'ended at iteration 8' in page


@pytest.mark.trained
@pytest.mark.slow
def test_a_page_that_cannot_be_made_is_said_and_training_goes_on(data):
    said = run(data, 'run', 'supervised', FRAMES, before=fail_to_write)
    assert 'report.html could not be written (ZeroDivisionError' in said and 'training has ended' in said
    assert (data / 'run/iter_8.pth').is_file() and not (data / 'run/report.html').exists()


def test_the_page_does_not_make_another_run(data):
    config = load_config(str(CONFIGS / 'mean_teacher.py'))
    other = load_config(str(CONFIGS / 'mean_teacher.py'), options={'default_hooks.report.frames': 5})
    assert fingerprint(config) == fingerprint(other)
    other.custom_hooks = [*other.custom_hooks, dict(type='ReportHook')]
    assert fingerprint(config) == fingerprint(other)


def test_every_loss_has_a_panel_and_their_sum_none():
    curve = ([1, 2], [0.5, 0.4])
    names = ['loss', 'loss_seg', 'loss_consistency', 'time', 'teacher/mDice', 'student/mDice', 'mIoU', 'hidden/high']
    curves = dict.fromkeys(names, curve)
    assert list(_losses(curves)) == ['loss_consistency', 'loss_seg']
    assert {score: list(lines) for score, lines in _scores(curves).items()} == {
        'mDice': ['teacher', 'student'],
        'mIoU': ['network'],
    }


@pytest.mark.parametrize(
    ('truth', 'found', 'dice'),
    [
        ([[0, 0], [1, 1]], [[0, 0], [1, 1]], 100),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]], 100),
        ([[0, 0], [0, 0]], [[0, 1], [0, 0]], 0),
        ([[0, 0], [1, 1]], [[0, 0], [1, 0]], 200 / 3),
        ([[255, 0], [1, 1]], [[1, 0], [1, 1]], 100),
        ([[1, 1], [2, 2]], [[1, 1], [1, 1]], (200 / 3) / 2),
    ],
)
def test_dice_of_an_image(truth, found, dice):
    sample = SegDataSample(metainfo=dict(img_path='a.png'))
    sample.gt_sem_seg = PixelData(data=torch.tensor([truth]))
    sample.pred_sem_seg = PixelData(data=torch.tensor([found]))
    assert _score(sample, 0).dice == pytest.approx(dice)


def test_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.fullmatch(r'[0-9a-f]{7,}|unknown', _commit())


def test_a_number_of_frames_is_refused():
    with pytest.raises(ValueError, match='frames is -1'):
        ReportHook(frames=-1)
