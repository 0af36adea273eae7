"""`make gpu-check`: what can be wrong on a GPU alone. Without one all of it is skipped.

``MMSEG_ACL_CHECK_DEVICE=cpu`` runs what a CPU can do of it, to see that the checks themselves work.
"""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial

import numpy as np
import pytest
import torch
from comparing import assert_same_run
from killing import die_at
from test_predict import write_run
from tool_process import ROOT, ToolProcess, run_tool

from mmseg_acl.benchmarks.methods import NAMES, Step
from mmseg_acl.engine import read_checkpoint
from mmseg_acl.inference import Predictor
from mmseg_acl.inference.exporting import export, random_frames

DEVICE = os.environ.get('MMSEG_ACL_CHECK_DEVICE', 'cuda')
GPUS = torch.cuda.device_count() if DEVICE == 'cuda' else 0
pytestmark = pytest.mark.skipif(DEVICE == 'cuda' and not GPUS, reason='there is no GPU that torch sees')
CONFIGS = ROOT / 'tests' / 'configs'


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('method', NAMES)
def test_every_method_learns_in_half_precision(method, synthetic_root):
    """A step late in the run, when all losses have begun: finite, and the weights move."""
    step = Step(method, str(synthetic_root), device=DEVICE, amp=True)
    before = {name: value.detach().clone() for name, value in step.model.named_parameters() if value.requires_grad}
    for _ in range(3):  # fp16's first steps may be left out, until the scale of the loss fits
        losses = step()
    assert all(torch.as_tensor(value).isfinite().all() for value in losses.values()), losses
    after = dict(step.model.named_parameters())
    assert all(after[name].isfinite().all() for name in before)
    assert any(not torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('method', ['aclnet_plus', 'cafd'])
def test_a_run_goes_on_where_it_ended(method, synthetic_root, tmp_path):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    common = [CONFIGS / f'{method}.py', '--resume', '--cfg-options', 'randomness.deterministic=True']
    run_tool('train.py', '--work-dir', whole, *common, data=synthetic_root)
    arguments = ['train.py', '--work-dir', parts, *common]
    killed = ToolProcess(*arguments, data=synthetic_root, before=partial(die_at, 'in a step', '6')).wait()
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run_tool(*arguments, data=synthetic_root)
    assert_same_run(whole / 'iter_8.pth', parts / 'iter_8.pth')


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_processes_talk_over_nccl_and_share_batch_statistics(processes, synthetic_root, tmp_path):
    if GPUS < processes:
        pytest.skip(f'needs {processes} GPUs, there are {GPUS}')
    environment = dict(os.environ, MMSEG_ACL_DATA=str(synthetic_root), PYTHONPATH=str(ROOT))
    launcher = [ROOT / 'tools' / 'dist_train.sh', CONFIGS / 'aclnet_plus.py', processes]
    command = [*launcher, '--work-dir', tmp_path / 'run', '--amp', '--cfg-options', 'sync_bn=torch']
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    state = read_checkpoint(tmp_path / 'run' / 'iter_8.pth')['state_dict']
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.slow
def test_masks_are_those_of_the_cpu(tmp_path):
    run = write_run(tmp_path / 'run')
    frames = random_frames()
    (one, other) = (
        [found.labels for found in Predictor(str(run), device=device)(frames)] for device in ('cpu', DEVICE)
    )
    differing = np.mean([np.mean(a != b) for a, b in zip(one, other, strict=True)])
    assert differing <= 1e-3


@pytest.mark.slow
def test_onnx_runtime_predicts_on_it(tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime', reason='the extra [export] is not installed')
    if DEVICE == 'cuda' and 'CUDAExecutionProvider' not in onnxruntime.get_available_providers():
        pytest.skip('this ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu in place of onnxruntime')
    run = write_run(tmp_path / 'run')
    export([str(run)], ('onnx',), tmp_path / 'exported')
    (graph,) = (tmp_path / 'exported').glob('*.onnx')
    frames = random_frames()
    one = [found.labels for found in Predictor(str(run), device=DEVICE)(frames)]
    other = [found.labels for found in Predictor(str(graph), device=DEVICE)(frames)]
    assert np.mean([np.mean(a != b) for a, b in zip(one, other, strict=True)]) <= 1e-3
