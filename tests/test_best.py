"""The best checkpoint: by which score, on which images, when none is kept, and the commands at the end of a run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from tool_process import run_tool

from mmseg_acl.datasets import read_list, write_synthetic
from mmseg_acl.datasets.partitions import FRACTIONS
from mmseg_acl.engine import build_runner, load_config
from mmseg_acl.engine.best import AUTO, next_steps
from mmseg_acl.engine.hooks.checkpoint_hook import AtomicCheckpointHook, best_score

CONFIGS = Path(__file__).parent / 'configs'
BOTH = ['student/mIoU', 'student/mDice', 'teacher/mIoU', 'teacher/mDice']


@pytest.fixture
def data(tmp_path, monkeypatch):
    write_synthetic(tmp_path, labelled=4, unlabelled=4, test=3, size=(72, 96))
    shutil.copytree(tmp_path / 'Synthetic' / 'test', tmp_path / 'Synthetic' / 'validation')
    monkeypatch.setenv('MMSEG_ACL_DATA', str(tmp_path))
    monkeypatch.setenv('MMSEG_ACL_WEIGHTS', 'none')
    return tmp_path


@pytest.mark.parametrize(
    ('config', 'keys', 'expected'),
    [
        ('mean_teacher', BOTH, 'teacher/mDice'),
        ('mean_teacher', ['student/mIoU', 'teacher/mIoU'], 'teacher/mIoU'),
        ('mean_teacher', ['mDice'], 'mDice'),
        ('supervised', ['aAcc', 'mIoU', 'mDice'], 'mDice'),
        ('cafd', ['focused/mDice', 'dispersive/mDice'], 'focused/mDice'),
        ('cps', ['student/mDice', 'peer/mDice'], None),
        ('supervised', ['MAE'], None),
    ],
)
def test_the_score_of_each_kind_of_method(config, keys, expected):
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(CONFIGS / f'{config}.py').model)
    if config == 'cps':  # whatever its networks are called
        keys = [f'{name}/mDice' for name in model.networks]
        expected = f'{model.predict_on}/mDice'
    assert best_score(model, keys) == expected


@pytest.mark.parametrize('group', ['kvasir', 'clinicdb', 'polyp'])
def test_validation_parts_are_neither_labelled_nor_tested(group):
    validation = set(read_list(f'{group}/dev'))
    parts = [*FRACTIONS, 'test'] + (['thirtysecond_b', 'thirtysecond_c'] if group == 'kvasir' else [])
    for part in parts:
        assert not validation & set(read_list(f'{group}/{part}')), part
    assert validation < set(read_list(f'{group}/train'))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'said', 'kept'),
    [
        (
            {},
            'no best checkpoint is kept, the last one counts: 3 of the 3 images to validate on are test images',
            False,
        ),
        (dict(folder='Synthetic/validation'), 'kept by teacher/mDice on 3 images to validate on', True),
        (dict(folder='Synthetic/unlabelled'), '4 of the 4 images to validate on are among the unlabelled ones', True),
        (dict(folder='Synthetic/labelled'), '4 images to validate on are trained on with their labels', True),
    ],
)
def test_what_is_said_of_validation_before_training(data, tmp_path, monkeypatch, options, said, kept):
    if options.get('folder') == 'Synthetic/unlabelled':
        shutil.copytree(data / 'Synthetic/test/masks', data / 'Synthetic/unlabelled/masks', dirs_exist_ok=True)
        masks = sorted((data / 'Synthetic/test/masks').iterdir())
        for image in (data / 'Synthetic/unlabelled/images').iterdir():
            shutil.copy(masks[0], data / 'Synthetic/unlabelled/masks' / f'{image.stem}.png')
    lines = []
    for level in ('info', 'warning'):
        monkeypatch.setattr(f'logging.Logger.{level}', lambda self, text, *_, **__: lines.append(str(text)))
    options = {f'val_dataloader.dataset.{key}': value for key, value in options.items()}
    runner = build_runner(load_config(str(CONFIGS / 'mean_teacher.py'), str(tmp_path / 'run'), options))
    assert any(said in line for line in lines), lines
    hook = next(hook for hook in runner.hooks if hasattr(hook, 'no_best'))
    assert bool(hook.save_best) is kept
    hook.before_train(runner)  # mmengine's looks at what is to be kept
    assert bool(next_steps(runner)) is False  # nothing is there yet


@pytest.mark.parametrize('wanted', ['auto', ['auto']])
def test_one_key_is_the_same_as_a_list_of_one(wanted):
    hook = AtomicCheckpointHook(save_best=wanted, by_epoch=False)
    assert hook.save_best == [AUTO]
    hook.keep_no_best('a reason')
    assert not hook.save_best and hook.no_best == 'a reason'


@pytest.mark.parametrize('keys', [['teacher/mDice'], ['teacher/mDice', 'student/mIoU']])
def test_the_best_checkpoints_of_one_and_of_several_scores(keys, tmp_path):
    hook = AtomicCheckpointHook(save_best=keys, by_epoch=False)
    hook.last_ckpt = str(tmp_path / 'iter_8.pth')
    ends = [''] if len(keys) == 1 else [f'_{key}' for key in keys]
    found = {}
    for end in ends:
        found |= {f'best_score{end}': 50.0, f'best_ckpt{end}': str(tmp_path / f'best{end.replace("/", "_")}.pth')}
        Path(found[f'best_ckpt{end}']).touch()
    written = tmp_path / 'a' / 'mine.py'
    written.parent.mkdir()
    written.touch()
    runner = SimpleNamespace(
        hooks=[hook],
        work_dir=str(tmp_path),
        cfg=Config(dict(test_dataloader=dict(batch_size=1)), filename=str(written)),
        message_hub=SimpleNamespace(runtime_info=found),
        val_loop=object(),
    )
    text = next_steps(runner)
    assert all(f'best checkpoint by {key} (50.00)' in text for key in keys)
    run = str(tmp_path) if len(keys) == 1 else f'{tmp_path / "mine.py"} {found["best_ckpt_teacher/mDice"]}'
    assert f'python tools/test.py {run}\n' in text and f'python tools/export.py {run} --format onnx' in text


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('folder', ['validation', 'test'])
def test_the_commands_at_the_end_of_a_run_work(data, tmp_path, folder):
    done = run_tool(
        *('train.py', CONFIGS / 'mean_teacher.py', '--work-dir', tmp_path / 'run', '--cfg-options'),
        *(f'val_dataloader.dataset.folder=Synthetic/{folder}', 'train_cfg.val_interval=4'),
        data=data,
    )
    text = done.stdout + done.stderr
    best = list((tmp_path / 'run').glob('best_teacher_mDice_iter_*.pth'))
    last = tmp_path / 'run' / 'iter_8.pth'
    if folder == 'test':
        assert not best and 'no best one is kept: 3 of the 3 images to validate on are test images' in text
        assert f'last checkpoint: {last}' in text
    else:
        assert len(best) == 1
        assert re.search(rf'best checkpoint by teacher/mDice \(\d+\.\d\d\): {re.escape(str(best[0]))}', text)
    chosen = best[0] if best else last
    commands = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith('  python tools/')]
    assert [command[0] for command in commands] == [f'tools/{name}.py' for name in ('test', 'predict', 'export')]
    assert all(str(tmp_path / 'run') in command for command in commands)
    commands[1] = [str(data / 'Synthetic/test/images') if word == 'FRAMES' else word for word in commands[1]]
    commands[1][commands[1].index('predicted')] = str(tmp_path / 'predicted')
    for tool, *arguments in commands[:2]:
        assert str(chosen) in run_tool(tool.removeprefix('tools/'), *arguments, data=data).stdout
    assert len(list((tmp_path / 'predicted' / 'masks').iterdir())) == 3
