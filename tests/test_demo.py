"""The demonstration: its progress lines, its errors, and a very short run of the whole."""

import os
from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_acl import demo

ROOT = Path(__file__).parents[1]
CONFIGS = [ROOT / 'configs' / 'demo' / f'{name}.py' for name in demo.METHODS.values()]


def test_progress_is_taken_from_mmengines_line():
    line = (
        '11/23 15:51:14 - mmengine - INFO - Iter(train) [ 20/240]  lr: 9.4e-04  eta: 0:03:57  '
        'time: 0.8362  data_time: 0.0721  loss: 1.2291  decode.loss_ce: 0.5172\n'
    )
    shown = demo._progress(line, 'SupOnly')
    assert shown == 'SupOnly  iteration   20/240   loss 1.2291   0:03:57 to go'
    assert demo._progress('Iter(val) [10/32]    eta: 0:00:00\n', 'SupOnly') is None


def test_a_failing_tool_ends_the_demo_with_what_it_said(tmp_path):
    tool = tmp_path / 'tool.py'
    tool.write_text("import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)")
    with pytest.raises(SystemExit, match=r'two\n[^\0]*tool\.py failed'):
        demo.run_tool([tool], tmp_path / 'log' / 'tool.log')
    assert (tmp_path / 'log' / 'tool.log').read_text() == 'one\ntwo\n'


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_the_configs_need_no_weights(path):
    assert "'checkpoint'" not in str(Config.fromfile(path).model)


@pytest.mark.trained
@pytest.mark.slow
def test_a_short_demo_leaves_a_report(tmp_path, monkeypatch, capfd):
    repository = tmp_path / 'clone'
    (repository / 'configs' / 'demo').mkdir(parents=True)
    (repository / 'tools').symlink_to(ROOT / 'tools')
    for path in CONFIGS:
        text = f"_base_ = '{path}'\ntrain_cfg = dict(max_iters=3, val_interval=3)\n"
        text += 'default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3))\n'
        if path.stem == 'aclnet':
            text += 'model = dict(warmup_iters=1, bank_min_keys=1)\n'
        (repository / 'configs' / 'demo' / path.name).write_text(text)
    for name, number in (('LABELLED', 4), ('UNLABELLED', 4), ('TEST', 3), ('SHOWN', 2)):
        monkeypatch.setattr(demo, f'NUM_{name}', number)
    monkeypatch.setenv('MMSEG_ACL_DATA', '')
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')

    demo.run_demo(repository, tmp_path / 'out')
    printed = capfd.readouterr().out
    for line in ('RANDOM weights', 'SupOnly  iteration', '4/4', 'ACL-Net  teacher', 'report.html'):
        assert line in printed
    for kind in ('masks', 'overlays'):
        assert len(list((tmp_path / 'out' / 'predicted' / kind).glob('*.png'))) == 4
    assert (tmp_path / 'out' / 'example.png').read_bytes().startswith(b'\x89PNG')
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert page.count('<img') == 2 * 5 + 1
    for word in ('SupOnly', 'ACL-Net', 'teacher', 'mean Dice', 'affinity', 'tools/serve.py'):
        assert word in page
