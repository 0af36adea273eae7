"""`--tracker`: what is written for tracking programs, read by their own readers, and which extra is named."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image
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


@pytest.mark.trained
@pytest.mark.slow
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


@pytest.mark.trained
@pytest.mark.slow
def test_mlflow_reads_scalars_and_pictures(tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    write_synthetic(tmp_path, labelled=4, unlabelled=4, test=3, size=(72, 96))
    options = ('--work-dir', tmp_path / 'run', '--cfg-options', 'default_hooks.report.frames=2')
    run_tool('train.py', CONFIG, '--tracker', 'mlflow', *options, data=tmp_path)
    assert (tmp_path / 'run/report.html').is_file()
    client = mlflow.MlflowClient(f'sqlite:///{tmp_path}/run/mlflow.db')
    experiment = client.get_experiment_by_name('mmseg_acl')
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name.endswith('/run')
    assert {'loss_seg', 'teacher/mDice', 'student/mDice'} <= set(run.data.metrics)
    history = client.get_metric_history(run.info.run_id, 'loss_seg')
    assert [entry.step for entry in history] == list(range(1, 9)) and 0 < history[0].value < 10
    pictures = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {'unlabelled_0_8.png', 'unlabelled_1_8.png', 'worst_0_8.png', 'config.py'} <= pictures
    assert Image.open(client.download_artifacts(run.info.run_id, 'unlabelled_0_8.png')).size == (96, 72)


@pytest.mark.trained
@pytest.mark.slow
def test_weights_and_biases_writes_scalars_and_pictures_offline(tmp_path):
    pytest.importorskip('wandb')
    write_synthetic(tmp_path, labelled=4, unlabelled=4, test=3, size=(72, 96))
    options = ('--work-dir', tmp_path / 'run', '--cfg-options', 'default_hooks.report.frames=2')
    run_tool('train.py', CONFIG, '--tracker', 'wandb', *options, data=tmp_path, before=go_offline)
    (folder,) = (tmp_path / 'run').glob('*/vis_data/wandb/offline-run-*')
    (stored,) = folder.glob('run-*.wandb')
    content = stored.read_bytes()
    assert all(name in content for name in (b'loss_seg', b'teacher/mDice', b'student/mDice'))
    names = {path.name.rpartition('_')[0].rpartition('_')[0] for path in folder.glob('files/media/images/*.png')}
    assert {'unlabelled_0', 'unlabelled_1', 'worst_0'} <= names


def go_offline() -> None:
    os.environ['WANDB_MODE'] = 'offline'
