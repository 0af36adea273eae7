"""Two processes on one machine: equal networks on both, and the result of one process with the double batch."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import run
from mmengine.config import Config
from steps import CONFIGS, batch, build, half_size, losses
from tool_process import ROOT, tool_environment

from mmseg_acl.engine import build_runner, distributed, load_config, read_checkpoint
from mmseg_acl.engine.checkpoint import load_model_weights
from mmseg_acl.engine.distributed import prepare_cpus
from mmseg_acl.methods import METHODS
from mmseg_acl.models.semi import statistics
from mmseg_acl.models.semi.statistics import average_statistics

FOLDERS = [method.folder for method in METHODS if method.type != 'EncoderDecoder']
# Buffers that must have been filled, by the end of their names.
BANKS = {
    'aclnet': ('acl_head.bank.fill', 'caa_head.has_clusters'),
    'cac': ('bank.fill', 'newest'),
    'u2pl': ('bank.fill',),
    'ael': ('bank.updates', 'bank.confidence'),
}
SHORT = {'train_cfg.val_begin': 99, 'default_hooks.checkpoint.interval': 8}
# Eight iterations do not teach a network to see polyps; one that starts with opinions has scores above 0.
OPINIONS = dict(type='Normal', std=1.0, override=dict(name='conv_seg'))
# Frozen statistics, no dropout, views without padding: every loss is a mean over equally many pixels and no image
# sees another, so that two processes must do what one does with both their batches.
PER_IMAGE = {
    **SHORT,
    'model.segmentor.backbone.norm_eval': True,
    'model.segmentor.decode_head.dropout_ratio': 0.0,
    'train_dataloader.sampler.ratio': (2, 2),
    'train_dataloader.dataset.labelled.pipeline.3.ratio_range': (1.5, 2.0),
    'train_dataloader.dataset.unlabelled.pipeline.3.ratio_range': (1.5, 2.0),
}


def environment(data: Path, *modules: Path, **more: str) -> dict:
    settings = dict(tool_environment(data), GLOO_SOCKET_IFNAME='lo', PYTHON=sys.executable, **more)
    settings['PYTHONPATH'] = os.pathsep.join(map(str, [ROOT, *modules]))
    for name in ('NNODES', 'PORT'):
        settings.pop(name, None)
    return settings


def call(command: list, settings: dict) -> subprocess.CompletedProcess:
    command = list(map(str, command))
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=900)


@pytest.fixture(scope='module')
def two_processes(synthetic_root, tmp_path_factory):
    """What two processes saw of all trainings of this file: to start them takes longer than eight tiny steps."""
    cases = {method: (method, {**SHORT, **half_size(method)}) for method in FOLDERS}
    cases['aclnet'] = 'aclnet', {**SHORT, 'model.segmentor.decode_head.init_cfg': OPINIONS}
    cases['per image'] = 'mean_teacher', {**PER_IMAGE, 'train_dataloader.batch_size': 4}
    accumulated = {'optim_wrapper.accumulative_counts': 2, 'optim_wrapper.clip_grad': dict(max_norm=1.0)}
    cases['accumulated'] = 'aclnet', {**SHORT, **accumulated}
    out = tmp_path_factory.mktemp('two')
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2]
    worker = ROOT / 'tests' / 'distributed_worker.py'
    done = call([*launcher, worker, out, json.dumps(cases)], environment(synthetic_root))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = {name: [torch.load(out / f'{name}_{i}.pth', weights_only=True) for i in (0, 1)] for name in cases}
    return out, found


def both(two_processes: tuple[Path, dict], name: str) -> list[dict]:
    """What both processes saw of a training that went well, and alike."""
    ranks = two_processes[1][name]
    for rank in ranks:
        assert 'error' not in rank, rank['error']
        assert all(math.isfinite(value) for losses in rank['losses'] for value in losses.values())
    first, second = (rank['state'] for rank in ranks)
    assert first.keys() == second.keys()
    differing = [key for key in first if not torch.equal(first[key], second[key])]
    assert not differing, f'{len(differing)} of {len(first)} entries differ, such as {differing[:3]}'
    assert all(value.isfinite().all() for value in first.values())
    return ranks


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('method', FOLDERS)
def test_every_method_trains_in_two_processes(method, two_processes):
    ranks = both(two_processes, method)
    state = ranks[0]['state']
    assert [len(rank['losses']) for rank in ranks] == [8, 8]
    assert ranks[0]['losses'] != ranks[1]['losses'], 'each has images of its own'
    assert ranks[0]['wrapper'] == f'MM{"Separate" if method == "cafd" else ""}DistributedDataParallel'
    for name in BANKS.get(method, ()):
        (bank,) = [value for key, value in state.items() if key.endswith(name)]
        assert (bank > 0).all(), name
    means = [value for key, value in state.items() if key.endswith('running_mean')]
    assert means and all(mean.any() for mean in means)

    # One process can go on from what two have saved: every name finds its place.
    path = two_processes[0] / method / 'iter_8.pth'
    saved = read_checkpoint(path)['state_dict']
    assert saved.keys() == state.keys() and all(torch.equal(saved[name], state[name]) for name in state)
    model = build(method)
    load_model_weights(model, path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.trained
@pytest.mark.slow
def test_every_image_comes_up_once_in_a_pass(two_processes):
    ranks = both(two_processes, 'mean_teacher')
    drawn = [path for images in zip(*(rank['images'] for rank in ranks), strict=True) for path in sum(images, [])]
    for source, size in (('labelled', 5), ('unlabelled', 7)):
        stream = [path for path in drawn if f'/{source}/' in path]
        assert len(stream) == 8 * 2 * 4
        passes = [stream[i : i + size] for i in range(0, len(stream) - size + 1, size)]
        assert all(len(set(images)) == size for images in passes)


@pytest.mark.trained
@pytest.mark.slow
def test_two_processes_do_what_one_does_with_the_double_batch(two_processes, synthetic_root, tmp_path, monkeypatch):
    ranks = both(two_processes, 'per image')
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    alone = run('mean_teacher', {**PER_IMAGE, 'train_dataloader.batch_size': 8}, tmp_path)

    for step, images in enumerate(alone['images']):
        assert sorted(images) == sorted(ranks[0]['images'][step] + ranks[1]['images'][step])
        for name, value in alone['losses'][step].items():
            mean = (ranks[0]['losses'][step][name] + ranks[1]['losses'][step][name]) / 2
            assert mean == pytest.approx(value, rel=1e-4, abs=1e-8), (step, name)
    gap, way = (farthest(alone['state'], other) for other in (ranks[0]['state'], alone['start']))
    print(f'largest difference of a weight {gap:.1e}; the largest way of one {way:.1e}')
    assert way > 0.01 and gap < 5e-5 * way


def farthest(one: dict, other: dict) -> float:
    return max(float((value - other[name]).abs().max()) for name, value in one.items() if value.is_floating_point())


@pytest.mark.trained
@pytest.mark.slow
def test_accumulated_and_clipped_gradients(two_processes, synthetic_root, tmp_path, monkeypatch):
    both(two_processes, 'accumulated')
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    # In the warm-up nothing but the student's gradients depends on the number of iterations.
    plain = {**PER_IMAGE, 'model.warmup_iters': 99, 'param_scheduler': []}
    four = {**plain, 'train_cfg.max_iters': 4, 'train_dataloader.batch_size': 8}
    twice_four = {**plain, 'optim_wrapper.accumulative_counts': 2, 'train_dataloader.batch_size': 4}
    whole, parts = (run('mean_teacher', case, tmp_path / name) for case, name in ((four, 'a'), (twice_four, 'b')))
    gap, way = (farthest(whole['state'], other) for other in (parts['state'], whole['start']))
    assert way > 0.01 and gap < 5e-5 * way

    options = {'train_cfg.max_iters': 1, 'optim_wrapper.clip_grad': dict(max_norm=1e-3), 'param_scheduler': []}
    options.update({'optim_wrapper.optimizer.momentum': 0.0, 'optim_wrapper.optimizer.weight_decay': 0.0})
    clipped = run('aclnet', {**SHORT, **options}, tmp_path / 'c')
    start, state = clipped['start'], clipped['state']
    moved = [state[key] - start[key] for key in state if key.endswith('weight') and key.startswith('student.')]
    assert 0 < torch.cat([step.flatten() for step in moved]).norm() <= 0.01 * 1e-3 * 1.001


MORTAL = """
import os, signal
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

@HOOKS.register_module()
class MortalHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 6 and get_rank() == 1 and os.environ.get('MORTAL'):
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.trained
@pytest.mark.slow
def test_a_lost_process_of_two_networks_that_compete_ends_the_other(synthetic_root, tmp_path):
    """CAFD's two optimizers talk to the other process more often than one does."""
    done, work_dir = lose_a_process('cafd', '', synthetic_root, tmp_path, MORTAL='yes')
    assert done.returncode != 0
    assert 'Signal 9 (SIGKILL)' in done.stderr and 'rank      : 1' in done.stderr
    assert [path.name for path in work_dir.glob('*.pth')] == ['iter_4.pth']
    assert processes_with(work_dir) == []


def lose_a_process(
    method: str, more: str, data: Path, folder: Path, *options: str, **settings: str
) -> tuple[subprocess.CompletedProcess, Path]:
    """Train in two processes, of which the second is killed at iteration 6 if ``MORTAL`` is set."""
    (folder / 'mortal.py').write_text(MORTAL)
    config, work_dir = folder / 'config.py', folder / 'run'
    config.write_text(
        f"_base_ = '{CONFIGS / f'{method}.py'}'\n{more}"
        "custom_imports = dict(imports=['mmseg_acl', 'mortal'])\n"
        "custom_hooks = [*_base_.custom_hooks, dict(type='MortalHook')]\n"
    )
    command = [ROOT / 'tools' / 'dist_train.sh', config, 2, '--work-dir', work_dir, *options]
    return call(command, environment(data, folder, **settings)), work_dir


def processes_with(work_dir: Path) -> list[str]:
    """Command lines of running processes that name a work dir."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            command = path.read_bytes().decode(errors='replace')
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        if str(work_dir) in command:
            found.append(command.replace('\0', ' '))
    return found


@pytest.mark.trained
@pytest.mark.slow
def test_a_lost_process_ends_the_job_and_its_run_is_resumed(two_processes, synthetic_root, tmp_path, monkeypatch):
    opinions = f'model = dict(segmentor=dict(decode_head=dict(init_cfg={OPINIONS})))\n'
    done, work_dir = lose_a_process('aclnet', opinions, synthetic_root, tmp_path, MORTAL='yes')
    assert done.returncode != 0
    assert 'Signal 9 (SIGKILL)' in done.stderr and 'rank      : 1' in done.stderr
    assert [path.name for path in work_dir.glob('*.pth')] == ['iter_4.pth']
    assert processes_with(work_dir) == []

    done, _ = lose_a_process('aclnet', opinions, synthetic_root, tmp_path, '--resume')
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    unbroken = both(two_processes, 'aclnet')[0]['state']
    resumed = read_checkpoint(work_dir / 'iter_8.pth')['state_dict']
    assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())

    # Three images to validate on two processes count as three.
    last = max(work_dir.glob('*/vis_data/scalars.json'))
    scores = json.loads(last.read_text().splitlines()[-1])
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    runner = build_runner(load_config(str(CONFIGS / 'aclnet.py'), work_dir=str(tmp_path / 'one')))
    load_model_weights(runner.model, work_dir / 'iter_8.pth')
    runner.model.eval()
    for network in runner.model.networks:
        runner.model.predict_on = network
        for images in runner.val_loop.dataloader:
            runner.val_loop.evaluator.process(runner.model.val_step(images), images)
        for name, value in runner.val_loop.evaluator.evaluate(3).items():
            assert scores[f'{network}/{name}'] == pytest.approx(value) and value > 0, (network, name)


# ------------------------------------------------------------------ quick


def test_statistics_of_layers_in_training_are_averaged_in_one_message(monkeypatch):
    model = build('mean_teacher').train()
    seen = []
    monkeypatch.setattr(statistics, 'all_reduce_params', lambda buffers, op: seen.append((buffers, op)))
    average_statistics(model)
    assert not seen, 'one process has nobody to ask'
    monkeypatch.setattr(statistics, 'get_world_size', lambda: 2)
    average_statistics(model)
    ((buffers, op),) = seen
    expected = {id(b) for name, b in model.student.named_buffers() if 'running_' in name}
    assert op == 'mean' and {id(buffer) for buffer in buffers} == expected, "the student's alone, no counters"


@pytest.mark.parametrize(('method', 'iteration'), [*((method, 0) for method in FOLDERS), ('eln', 2), ('eln', 4)])
def test_what_learns_later_has_a_zero_gradient_till_then(method, iteration):
    """DDP waits for the gradient of every parameter; these are the steps at which some part is not active."""
    model = build(method)
    found = losses(model.train(), batch(2), iteration)
    sum(value for name, value in found.items() if 'loss' in name).backward()
    learning = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in learning.items() if gradient is None]
    moved = {name.split('.')[0] for name, gradient in learning.items() if gradient.any()}
    if iteration == 0:
        taught = dict.fromkeys(('aclnet_plus', 'supervised_plus'), {'student', 'affinity_head'})
        others = {'cafd': {'segmentors', 'discriminator'}, 'cps': {'segmentors'}, **taught}
        assert moved == others.get(method, {'student'})


def test_processes_on_cpus_are_for_torchrun(monkeypatch):
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match='--launcher slurm needs a GPU for each process.*tools/dist_train.sh'):
        prepare_cpus(Config(dict(launcher='slurm')))
    config = Config(dict(launcher='none'))
    prepare_cpus(config)
    assert 'model_wrapper_cfg' not in config

    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    config = Config(dict(launcher='pytorch'))
    prepare_cpus(config)
    assert 'model_wrapper_cfg' not in config


@pytest.mark.parametrize(
    ('tool', 'arguments', 'status', 'message'),
    [
        ('dist_train.sh', ['--help'], 0, 'usage: tools/dist_train.sh CONFIG PROCESSES'),
        ('dist_train.sh', ['a.py'], 2, 'usage: tools/dist_train.sh CONFIG PROCESSES'),
        ('dist_train.sh', ['a.py', '--resume'], 2, "PROCESSES is '--resume'"),
        ('dist_train.sh', ['a.py', '0'], 2, "PROCESSES is '0'"),
        ('slurm_train.sh', ['-h'], 0, 'tools/slurm_train.sh PARTITION JOB_NAME CONFIG'),
        ('slurm_train.sh', ['gpu', 'job'], 2, 'tools/slurm_train.sh PARTITION JOB_NAME CONFIG'),
        ('slurm_train.sh', ['gpu', 'job', 'a.py'], 2, 'no srun here'),
    ],
)
def test_launchers_say_how_they_are_called(tool, arguments, status, message, tmp_path):
    for name in ('bash', 'env', 'cat', 'dirname'):  # and no srun, wherever this machine may have one
        (tmp_path / name).symlink_to(shutil.which(name))
    done = call([ROOT / 'tools' / tool, *arguments], dict(environment(tmp_path), PATH=str(tmp_path)))
    assert done.returncode == status and message in done.stdout + done.stderr


def test_slurm_gets_a_process_a_gpu(tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    settings = environment(tmp_path, GPUS='4', GPUS_PER_NODE='2', SRUN_ARGS='--time=1 --signal=TERM@120')
    settings['PATH'] = f'{tmp_path}:/usr/bin:/bin'
    said = call([ROOT / 'tools' / 'slurm_train.sh', 'gpu', 'a job', 'a config.py', '--resume'], settings).stdout
    lines = said.splitlines()
    for word in ('--partition=gpu', '--job-name=a job', '--ntasks=4', '--ntasks-per-node=2', '--gres=gpu:2',
                 '--time=1', '--signal=TERM@120', '--kill-on-bad-exit=1'):  # fmt: skip
        assert word in lines
    assert lines[-5:] == [str(ROOT / 'tools' / 'train.py'), 'a config.py', '--launcher', 'slurm', '--resume']
