"""The benchmark runs; nothing here looks at a time."""

import json
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

import cv2
import pytest
import torch
from tool_process import run_tool
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))

import benchmark_speed  # noqa: E402

from mmseg_acl.benchmarks import affinity, measure, methods, prediction, scoring, startup, step  # noqa: E402
from mmseg_acl.inference.exporting import random_frames  # noqa: E402


def allocate(mebibytes: int) -> Callable[[], Tensor]:
    return lambda: torch.ones(mebibytes, 2**18)


@pytest.mark.slow
def test_help_names_every_part(monkeypatch):
    monkeypatch.setenv('PATH', '')
    said = run_tool('benchmark_speed.py', '--help', data=Path()).stdout
    assert all(part in said for part in benchmark_speed.PARTS)


def test_a_part_is_measured_and_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip('py_sod_metrics')
    monkeypatch.setattr(scoring, 'SIZES', ((24, 32),))
    threads = torch.get_num_threads()
    try:
        benchmark_speed.main(['--parts', 'scoring', '--repeats', '1', '--out', str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    content = json.loads((tmp_path / 'scoring.json').read_text())
    assert content['rows'][0]['difference'] < 1e-12
    assert content['title'] in (tmp_path / 'scoring.md').read_text()
    assert content['title'] in capsys.readouterr().out


@pytest.mark.slow
def test_the_start_is_measured_for_every_kind_of_source(monkeypatch):
    monkeypatch.setattr(startup, 'SIZES', (3, 6))
    report = startup.run(1)
    assert [row['images'] for row in report.rows] == [3, 6] * 5
    assert {row['to 3 images'] for row in report.rows if row['images'] == 3} == {1}


@pytest.mark.slow
def test_prediction_is_measured_on_frames_of_any_sizes(tmp_path):
    pytest.importorskip('onnxruntime', reason='the extra [export] is not installed')
    paths = [tmp_path / f'{number}.png' for number in range(3)]
    for path, frame in zip(paths, random_frames(), strict=True):
        cv2.imwrite(str(path), frame)
    report = prediction.measure(paths, 1, ROOT / 'tests' / 'configs' / 'mean_teacher.py')
    assert [row['run by'] for row in report.rows] == ['torch', 'ONNX Runtime']
    assert all(row['predict.py, ms'] > row['network, ms'] > 0 for row in report.rows)
    assert report.notes[1].startswith('3 frames of 3 sizes')


def test_a_step_needs_two_images(tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark_speed.main(['--parts', 'step', '--images', '1', '--out', str(tmp_path)])
    assert '--images 1: ' in capsys.readouterr().err


def test_a_part_that_lacks_something_is_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('MMSEG_ACL_DATA', raising=False)
    threads = torch.get_num_threads()
    try:
        benchmark_speed.main(['--parts', 'loading', '--out', str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    assert 'skipped: it needs real images' in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_affinity_parts():
    parts = affinity.Parts(affinity.Setting(grid=4, batch=2, bank=64, clusters=5))
    for run in (parts.learn, parts.teach, parts.contrast, parts.aggregate, parts.whole):
        assert measure.product_flops(run) > 0
    rows = [dict(N=10, ms=2.0), dict(N=20, ms=9.0), dict(N=40, ms=32.0)]
    assert affinity.exponent(rows, 'ms', 'N') == pytest.approx(2)


@pytest.mark.trained
@pytest.mark.slow
def test_step_is_in_full_swing_and_taken_apart():
    full = step.Step(step.ROW_V, 128, input_side=64, images=2)
    assert full.model.refining and bool(full.model.caa_head.has_clusters)
    assert full.anchors() > 10
    before = full.model.state_dict()['student.decode_head.conv_seg.weight'].clone()
    parts = step.breakdown(full, 1)
    assert {'ACL', 'CAA', 'kernel', 'propagation', 'affinity heads', *step.SHARED} < parts.keys()
    assert min(parts.values()) > 0
    assert not torch.equal(before, full.model.student.decode_head.conv_seg.weight)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_extra_memory():
    assert measure.extra_memories(allocate, [(80,), (20,)]) == pytest.approx([80, 20], abs=4)


@pytest.mark.parametrize('groups', [1, 4])
def test_operations_of_grouped_convolutions(groups):
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)
    images = torch.randn(2, 8, 6, 5, requires_grad=True)
    forward = 2 * prod((2, 8, 6, 5)) * 8 // groups * 9
    assert measure.product_flops(lambda: conv(images)) == forward
    assert measure.product_flops(lambda: conv(images).sum().backward()) == 3 * forward


@pytest.mark.trained
@pytest.mark.slow
def test_methods_take_a_step_on_synthetic_frames():
    """A plain segmentor, one with banks and one with two optimizers; the others' steps have tests of their own."""
    chosen = ('SupOnly', 'CAFD', 'ACL-Net+')
    report = methods.run(1, chosen)
    assert [row['method'] for row in report.rows] == list(chosen)
    assert report.rows[0]['time to SupOnly'] == report.rows[0]['memory to SupOnly'] == 1
    assert all(row['peak, MiB'] > 0 for row in report.rows)


SPEED = sorted((ROOT / 'results' / 'speed').glob('*.json'))


@pytest.mark.parametrize('path', SPEED, ids=lambda path: path.stem)
def test_the_committed_pages_are_those_of_their_measurements(path):
    content = json.loads(path.read_text())
    where = content.pop('machine')
    assert measure.to_markdown(measure.Report(**content), where) == path.with_suffix('.md').read_text()
