"""`--tracker`: what is written for tracking programs, read by their own readers, and which extra is named."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from mmengine.config import Config
from tool_process import run_tool

from mmseg_acl.datasets import write_synthetic
from mmseg_acl.engine.start.tracking import TRACKERS, add_tracker
from mmseg_acl.experiments.identity import fingerprint

CONFIG = Path(__file__).parent / 'configs' / 'mean_teacher.py'


def config(**changes) -> Config:
    found = Config.fromfile(CONFIG)
    found.work_dir = 'work_dirs/mean_teacher/mine'
    found.update(changes)
    return found


@pytest.mark.parametrize('name', TRACKERS)
def test_a_tracker_is_added_beside_the_files_and_only_once(name, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda *_: object())
    found = config()
    before = fingerprint(found)
    add_tracker(found, name)
    add_tracker(found, name)
    assert [backend.type for backend in found.visualizer.vis_backends] == ['LocalVisBackend', TRACKERS[name].backend]
    assert name == 'tensorboard' or 'mean_teacher/mine' in str(found.visualizer.vis_backends[1])
    assert fingerprint(found) == before


@pytest.mark.parametrize('name', TRACKERS)
def test_the_extra_of_a_missing_library_is_named(name, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda *_: None)
    with pytest.raises(ImportError, match=rf'--tracker {name} needs the library .*"mmseg_acl\[{name}\]"'):
        add_tracker(config(), name)


def test_what_cannot_be_tracked_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda *_: object())
    with pytest.raises(ValueError, match='has no visualizer'):
        add_tracker(config(visualizer=None), 'mlflow')
    with pytest.raises(ValueError, match='--tracker tensorbord is unknown; there are tensorboard, wandb, mlflow'):
        add_tracker(config(), 'tensorbord')


@pytest.mark.slow
@pytest.mark.trained
def test_tensorboard_reads_scalars_and_pictures(tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    write_synthetic(tmp_path, labelled=4, unlabelled=4, test=3, size=(72, 96))
    options = ('--work-dir', tmp_path / 'run', '--cfg-options', 'default_hooks.report.frames=2')
    run_tool('train.py', CONFIG, '--tracker', 'tensorboard', *options, data=tmp_path)
    (events,) = (tmp_path / 'run').glob('*/vis_data/events.out.tfevents.*')
    found = accumulator.EventAccumulator(str(events))
    found.Reload()
    assert {'loss_seg', 'teacher/mDice', 'student/mDice'} <= set(found.Tags()['scalars'])
    assert len(found.Scalars('loss_seg')) == 8 and 0 < found.Scalars('loss_seg')[0].value < 10
    assert {'unlabelled_0', 'unlabelled_1', 'worst_0'} <= set(found.Tags()['images'])
    (image, *_) = found.Images('unlabelled_0')
    assert (image.height, image.width) == (72, 96)
