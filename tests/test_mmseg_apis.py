"""mmseg's own functions and tools on configs and checkpoints of this package."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.visualization import Visualizer
from mmseg.apis import MMSegInferencer, inference_model, init_model
from mmseg.registry import MODELS
from mmseg.visualization import SegLocalVisualizer
from steps import CONFIGS, build

from mmseg_acl.engine import build_runner, load_config
from mmseg_acl.models.networks import predicting

TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'


@pytest.fixture
def run(tmp_path, synthetic_root, monkeypatch) -> tuple[Path, Path, Path]:
    """What a run leaves, its config and a checkpoint whose networks differ, and a frame."""
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    runner = build_runner(load_config(str(CONFIGS / 'aclnet.py'), work_dir=str(tmp_path / 'run')))
    torch.manual_seed(1)
    for value in runner.model.parameters():
        value.data.add_(0.2 * torch.randn_like(value))
    meta = dict(dataset_meta=dict(runner.val_loop.evaluator.dataset_meta))
    torch.save(dict(state_dict=runner.model.state_dict(), meta=meta), tmp_path / 'run' / 'iter_1.pth')
    frame = next((synthetic_root / 'Synthetic' / 'test' / 'images').iterdir())
    return tmp_path / 'run' / 'aclnet.py', tmp_path / 'run' / 'iter_1.pth', frame


@pytest.mark.slow
def test_inference_of_mmseg_predicts_what_the_teacher_predicts(run):
    config, checkpoint, frame = map(str, run)
    model = init_model(config, checkpoint, device='cpu')
    found = inference_model(model, frame).pred_sem_seg.data[0].numpy()
    again = inference_model(model, cv2.imread(frame)).pred_sem_seg.data[0].numpy()
    inferred = MMSegInferencer(model=config, weights=checkpoint, device='cpu')(frame, show=False)['predictions']
    assert found.shape == cv2.imread(frame).shape[:2] and 0 < found.mean() < 1
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(found, inferred)
    with predicting(model, 'student'):
        student = inference_model(model, cv2.imread(frame)).pred_sem_seg.data[0].numpy()
        assert model.decode_head is model.student.decode_head
    assert (student != found).any()
    assert model.decode_head is model.teacher.decode_head and model.out_channels == model.num_classes == 2


@pytest.mark.slow
def test_flips_of_mmsegs_test_time_augmentation(run):
    config, checkpoint, frame = run
    model = init_model(str(config), str(checkpoint), device='cpu')
    augmented = MODELS.build(dict(type='SegTTAModel', module=model))
    image = torch.from_numpy(cv2.resize(cv2.imread(str(frame)), (64, 64))).permute(2, 0, 1)
    samples = [inference_model(model, str(frame))]
    for sample in samples:
        sample.set_metainfo(dict(img_path=str(frame), ori_shape=(64, 64), flip=False))
    batch = dict(inputs=[[image], [image]], data_samples=[samples, deepcopy(samples)])
    (found,) = augmented.test_step(batch)
    (alone,) = model.test_step(dict(inputs=[image], data_samples=samples))
    assert torch.equal(found.pred_sem_seg.data[0], alone.seg_logits.data.argmax(0))


@pytest.mark.slow
def test_pictures_of_student_and_teacher_are_kept_apart(tmp_path, synthetic_root, monkeypatch):
    for kind in (Visualizer, SegLocalVisualizer):  # else that of an earlier test, with its folder, would draw
        monkeypatch.setattr(kind, '_instance_dict', OrderedDict())
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    hook = {'default_hooks.visualization': dict(type='SegVisualizationHook', draw=True, interval=1)}
    runner = build_runner(load_config(str(CONFIGS / 'mean_teacher.py'), work_dir=str(tmp_path / 'run'), options=hook))
    runner.call_hook('before_train')
    runner.val_loop.run()
    names = sorted(path.name for path in (tmp_path / 'run').rglob('vis_image/*.png'))
    frames = len(runner.val_loop.dataloader)
    for network in ('student', 'teacher'):
        assert len([name for name in names if name.startswith(f'{network}_val_')]) == frames


@pytest.mark.slow
@pytest.mark.parametrize('name', ['aclnet', 'cps', 'supervised_plus'])
def test_a_segmentor_with_pretrained_is_built_as_often_as_one_likes(name, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    config = Config.fromfile(CONFIGS / f'{name}.py')
    config.model.segmentor.pretrained = str(tmp_path / 'backbone.pth')
    before = deepcopy(config.model)
    models = [MODELS.build(config.model), MODELS.build(config.model)]
    assert config.model == before
    torch.save(models[0].network.backbone.state_dict(), config.model.segmentor.pretrained)
    for model in models:
        model.init_weights()
    states = [model.network.backbone.state_dict() for model in models]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.slow
def test_arguments_of_segmentors_may_be_none_and_nothing_else():
    build('aclnet', pretrained=None, train_cfg=None, test_cfg=None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'train_cfg'"):
        build('aclnet', train_cfg=dict(a=1))


@pytest.mark.trained
@pytest.mark.slow
def test_mmsegs_own_tools_train_and_test(tmp_path, synthetic_root, monkeypatch):
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    config, out = CONFIGS / 'aclnet.py', tmp_path / 'run'
    for tool, *arguments in (
        ('train.py', config, '--work-dir', out),
        ('test.py', out / 'aclnet.py', out / 'iter_8.pth', '--work-dir', tmp_path / 'test'),
    ):
        command = [sys.executable, TOOLS / tool, *arguments]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    assert 'mDice' in done.stdout + done.stderr
