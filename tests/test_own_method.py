"""The method of docs/own_method.md, as it stands there: the rule that it says, and a training by the tool."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmseg.registry import MODELS
from steps import batch, build, losses
from test_fixmatch_family import make_undecided

ROOT = Path(__file__).parents[1]
BLOCKS = dict(
    re.findall(r'```python\n# (\w+)\.py\n(.*?)```', (ROOT / 'docs' / 'own_method.md').read_text(), re.DOTALL)
)


@pytest.fixture(scope='module')
def my_method(tmp_path_factory):
    """The page's class, registered for as long as the module's tests run."""
    path = tmp_path_factory.mktemp('page') / 'my_method.py'
    path.write_text(BLOCKS['my_method'])
    spec = importlib.util.spec_from_file_location('my_method', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.MyFixMatch
    MODELS.module_dict.pop('MyFixMatch')


@pytest.mark.slow
def test_it_is_fixmatch_without_boxes(my_method):
    plain = {'segmentor.decode_head.dropout_ratio': 0}
    theirs = build('fixmatch', **plain, threshold=0.6, cutmix=dict(prob=0.0))
    make_undecided(theirs.teacher, batch()['inputs']['unsup_weak'])
    config = dict(type='MyFixMatch', sure=0.6, teacher_momentum=0.9, warmup_iters=2)
    ours = MODELS.build(dict(config, segmentor=segmentor_config()))
    ours.load_state_dict(theirs.state_dict())
    for model in (theirs, ours):
        model.train()
    expected, found = losses(theirs, batch(), 5), losses(ours, batch(), 5)
    assert expected.keys() == found.keys() and 0 < found['kept_share'] < 1
    for key, value in expected.items():
        assert float(found[key]) == pytest.approx(float(value), rel=1e-5), key
    assert 'loss_consistency' not in losses(ours, batch(), 1), 'the warm-up'


def segmentor_config() -> dict:
    model = Config.fromfile(ROOT / 'tests' / 'configs' / 'fixmatch.py').model
    model.segmentor.decode_head.dropout_ratio = 0
    return model.segmentor


@pytest.mark.slow
def test_the_tool_trains_it(tmp_path, synthetic_root):
    (tmp_path / 'configs').symlink_to(ROOT / 'configs', target_is_directory=True)
    for name, text in BLOCKS.items():
        text = text.replace('kvasir_128.py', 'synthetic.py')
        (tmp_path / f'{name}.py').write_text(text)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = dict(os.environ, PYTHONPATH=paths, MMSEG_ACL_WEIGHTS='none', MMSEG_ACL_DATA=str(synthetic_root))
    options = 'train_cfg.max_iters=3', 'train_cfg.val_interval=3', 'default_hooks.logger.interval=1'
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), 'my_config.py', '--cfg-options', *options]
    command += ['model.warmup_iters=1', 'model.sure=0.5', '--work-dir', str(tmp_path / 'run')]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'loss_consistency' in done.stdout + done.stderr
    assert (tmp_path / 'run' / 'iter_3.pth').is_file()
