"""What a user does: train, resume and test from the command line, on small synthetic frames."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from comparing import assert_same_run, same
from killing import die_at
from mmengine.config import Config
from steps import half_size
from tool_process import ROOT, ToolProcess, run_tool

from mmseg_acl.engine import read_checkpoint
from mmseg_acl.evaluation.shifts import SHIFTS
from mmseg_acl.methods import BY_FOLDER

# What kills a method's run: a moment, and of which checkpoint or iteration (tests/killing.py).
KILLED = {
    'supervised': ('written', 'iter_6.pth'),
    'aclnet': ('half written', 'iter_6.pth'),
    'ael': ('renamed', 'iter_6.pth'),
    'eln': ('in a step', '7'),
    'cac': ('noted', 'iter_4.pth'),
    'u2pl': ('validating', ''),
    'cafd': ('half written', 'iter_6.pth'),
}
KILLED_ELSE = ('in a step', '5')


def config(method: str) -> Path:
    return ROOT / 'tests' / 'configs' / f'{method}.py'


def small(method: str, folder: Path) -> Path:
    """A method's config as one file, for smaller images."""
    content = Config.fromfile(config(method))
    content.merge_from_dict(half_size(method))
    file = folder / f'{method}.py'
    file.write_text(''.join(f'{key} = {value!r}\n' for key, value in content.to_dict().items()))
    return file


def logged(work_dir: Path) -> list[dict]:
    (file,) = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1:]
    return [json.loads(line) for line in file.read_text().splitlines()]


def names(root: Path) -> Path:
    """A list of the test frames, as a user writes one."""
    file = root / 'names.txt'
    file.write_text('\n'.join(path.stem for path in sorted((root / 'Synthetic' / 'test' / 'images').iterdir())))
    return file


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('method', BY_FOLDER)
def test_train_resume_and_test(method, synthetic_root, tmp_path):
    whole, parts, file = tmp_path / 'whole', tmp_path / 'parts', small(method, tmp_path)
    run_tool('train.py', file, '--work-dir', whole, data=synthetic_root)

    lines = logged(whole)
    steps = [line for line in lines if 'loss' in line]
    assert [line['step'] for line in steps] == list(range(1, 9))
    expected = {
        'supervised': 'decode.loss_ce',
        'supervised_strong': 'loss_seg',
        'supervised_plus': 'loss_affinity',
        'aclnet': 'loss_contrast',
        'ael': 'loss_consistency_labelled',
        'eln': 'loss_consistency_strong',
        'cac': 'loss_contrast',
        'u2pl': 'loss_contrast',
        'cafd': 'loss_label',
    }.get(method, 'loss_consistency')
    assert steps[-1][expected] > 0
    networks = set(BY_FOLDER[method].networks)
    validated = {key for key in lines[-1] if key.endswith('mDice')}
    assert validated == ({'mDice'} if method == 'supervised' else {f'{network}/mDice' for network in networks})

    if method == 'aclnet':
        watched = {f'{images}/{stage}' for images in ('labelled', 'hidden') for stage in ('teacher', 'high', 'low')}
        assert watched <= steps[-1].keys() and all(0 <= steps[-1][key] <= 100 for key in watched)
        pictures = sorted(path.name for path in whole.glob('*/vis_data/vis_image/*.png'))
        assert pictures == ['pseudo_label_4.png', 'pseudo_label_8.png']
        quality = tmp_path / 'quality'
        arguments = [file, whole / 'iter_8.pth', '--list', names(synthetic_root), '--out', quality]
        run_tool('label_quality.py', *arguments, data=synthetic_root)
        found = json.loads((quality / 'label_quality.json').read_text())
        assert found['teacher']['change'] == 0 and found['as configured']['dice'] >= 0
        run_tool('shifts.py', *arguments, data=synthetic_root)
        assert json.loads((quality / 'shifts.json').read_text()).keys() == {*SHIFTS, 'mean'}

    # Killed, and gone on from what is whole, with a worker process for the loader this time.
    options = ['default_hooks.checkpoint.interval=2', 'default_hooks.checkpoint.max_keep_ckpts=1']
    arguments = ['train.py', file, '--work-dir', parts, '--resume', '--cfg-options', *options]
    killed = ToolProcess(
        *arguments, data=synthetic_root, before=partial(die_at, *KILLED.get(method, KILLED_ELSE))
    ).wait()
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_tool(*arguments, 'train_dataloader.num_workers=1', data=synthetic_root)
    assert 'resumed epoch' in resumed.stdout and 'NOTHING TO RESUME' not in resumed.stdout
    assert_same_run(whole / 'iter_8.pth', parts / 'iter_8.pth')

    out = tmp_path / 'out'
    run_tool('test.py', file, whole / 'iter_8.pth', '--datasets', 'synthetic', '--out', out, data=synthetic_root)
    results = json.loads((out / 'results.json').read_text())['synthetic']
    assert set(results) == networks
    for network, protocols in results.items():
        name = 'mDice' if method == 'supervised' else f'{network}/mDice'
        assert protocols['image']['mDice'] == pytest.approx(lines[-1][name]), 'test.py and validation agree'


@pytest.mark.trained
@pytest.mark.slow
def test_another_seed_is_another_run(synthetic_root, tmp_path):
    options = ['--cfg-options', 'train_cfg.max_iters=1', 'train_cfg.val_begin=99']
    states = []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        work_dir = tmp_path / name
        run_tool(
            'train.py', config('supervised'), '--work-dir', work_dir, '--seed', seed, *options, data=synthetic_root
        )
        states.append(read_checkpoint(work_dir / 'iter_1.pth')['state_dict'])
    assert same(states[0], states[1]) and not same(states[0], states[2])


@pytest.mark.trained
@pytest.mark.slow
def test_mixed_precision_trains_on_a_cpu(synthetic_root, tmp_path):
    options = ['--cfg-options', 'train_cfg.max_iters=5', 'train_cfg.val_begin=99']
    run_tool('train.py', config('aclnet'), '--work-dir', tmp_path, '--amp', *options, data=synthetic_root)
    last = [line for line in logged(tmp_path) if 'loss' in line][-1]
    assert all(0 < last[key] < 100 for key in ('loss_seg', 'loss_consistency', 'loss_contrast'))
    state = read_checkpoint(tmp_path / 'iter_5.pth')['state_dict']
    assert all(value.dtype != torch.bfloat16 for value in state.values()), 'weights stay in full precision'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('method', 'options', 'message'),
    [
        ('aclnet', ['model.warmup_itres=3'], "unexpected keyword argument 'warmup_itres'"),
        ('aclnet', ['model.contrast.beta=(0.8,0.4)'], r'beta is (0.8, 0.4)'),
        ('aclnet', ['train_dataloader.dataset.partition=kvasir/tenth'], 'half, quarter, eighth'),
        ('supervised', ['train_dataloader.dataset.labelled.folder=Nowhere'], 'MMSEG_ACL_DATA'),
        ('mean_teacher', ['train_dataloader.dataset.labelled.ann_file=absent.txt'], 'absent.txt'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_training(method, options, message, synthetic_root, tmp_path):
    done = run_tool(
        'train.py',
        config(method),
        '--work-dir',
        tmp_path,
        '--cfg-options',
        *options,
        data=synthetic_root,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr and 'Traceback' not in done.stderr
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.slow
def test_unreachable_weights_end_the_run_with_the_ways_out(tmp_path, synthetic_root):
    laptop = ROOT / 'configs' / 'aclnet' / 'mbv2_kvasir_eighth.py'
    done = run_tool(
        'train.py', laptop, '--work-dir', tmp_path, data=synthetic_root, weights=str(tmp_path), check=False
    )
    assert done.returncode == 2 and 'MMSEG_ACL_WEIGHTS=none' in done.stderr


@pytest.mark.slow
def test_help_is_complete():
    text = run_tool('train.py', '--help', data=Path()).stdout
    for word in (
        '--work-dir',
        '--resume',
        '--amp',
        '--seed',
        '--cfg-options',
        '--launcher',
        'MMSEG_ACL_DATA',
        'example',
    ):
        assert word in text
