"""How far a mask can be trusted: temperature, expected Dice, and what tools/calibrate.py stores."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
from test_predict import predict, write_run
from tool_process import run_tool

from mmseg_acl.evaluation.calibration import expected_dice, fit_temperature, with_temperature
from mmseg_acl.inference import Predictor
from mmseg_acl.inference.exporting import describe, random_frames
from mmseg_acl.inference.reliability import CALIBRATION, Calibration, assess, read_calibration, write_calibration


@pytest.mark.parametrize(('classes', 'temperature'), [(2, 0.5), (2, 1.0), (4, 3.0)])
def test_the_temperature_of_overconfident_logits_is_found(classes, temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (classes, 40_000))
    honest = np.exp(logits) / np.exp(logits).sum(0)
    labels = (rng.random(honest.shape[1]) > honest.cumsum(0)[:-1]).sum(0)
    claimed = np.exp(logits * temperature) / np.exp(logits * temperature).sum(0)
    assert fit_temperature(claimed, labels) == pytest.approx(temperature, rel=0.05)
    np.testing.assert_allclose(with_temperature(claimed, temperature), honest, atol=1e-3)


def test_the_expected_dice_is_that_of_masks_drawn_from_the_probabilities():
    rng = np.random.default_rng(0)
    foreground = rng.random((60, 80)) ** 3
    mask = foreground > 0.5
    drawn = [rng.random(mask.shape) < foreground for _ in range(200)]
    dice = [2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for truth in drawn]
    assert expected_dice(foreground, mask) == pytest.approx(np.mean(dice), abs=0.01)
    assert expected_dice(np.full((4, 4), 0.25), np.zeros((4, 4), bool)) == 0.75
    assert expected_dice(mask.astype(float), mask) == 1


def test_a_doubtful_mask_is_to_be_looked_at():
    sure, doubtful = (np.full((2, 8, 8), (1 - level, level)[0]) for level in (0.01, 0.4))
    for prob, level, look in ((sure, 0.01, False), (doubtful, 0.4, True)):
        prob[0, :4], prob[1, :4], prob[1, 4:] = level, 1 - level, level
        found = assess(prob, (prob[1] > 0.5).astype(np.uint8), Calibration(1.0, 0.8, 100))
        assert found.look is look and found.confidence == pytest.approx(1 - level)


def test_it_is_stored_for_a_network_of_a_checkpoint(tmp_path):
    checkpoint = tmp_path / 'iter_8.pth'
    checkpoint.write_bytes(b'weights')
    found = Calibration(1.5, 0.7, 100)
    write_calibration(checkpoint, 'student', Calibration(2.0, 0.6, 100))
    file = write_calibration(checkpoint, 'teacher', found)
    assert read_calibration(checkpoint, 'teacher') == found
    assert read_calibration(checkpoint, 'other') is None
    checkpoint.write_bytes(b'weights of a later training')
    assert read_calibration(checkpoint, 'teacher') is None
    file.write_text('{')
    with pytest.raises(ValueError, match='calibration.json is damaged .*run tools/calibrate.py anew'):
        read_calibration(checkpoint, 'teacher')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp('runs') / 'run')


@pytest.mark.slow
def test_calibrate_and_predict(run, synthetic_root, tmp_path):
    """12 images to validate on that are no test images: the labelled ones and those with hidden masks."""
    folder = tmp_path / 'data' / 'Synthetic' / 'validation'
    for kind in ('images', 'masks'):
        (folder / kind).mkdir(parents=True)
        for part in ('labelled', 'unlabelled'):
            for path in (synthetic_root / 'Synthetic' / part / kind).iterdir():
                (folder / kind / f'{part}_{path.name}').write_bytes(path.read_bytes())
    assert len(list((folder / 'images').iterdir())) == 12
    options = ['--cfg-options', f'val_dataloader.dataset.data_root={tmp_path / "data"}']
    options.append('val_dataloader.dataset.folder=Synthetic/validation')
    done = run_tool('calibrate.py', run, *options, data=synthetic_root)
    stored = json.loads((run / CALIBRATION).read_text())
    ((found,),) = (list(entry.values()) for entry in stored.values())
    assert f'temperature {found["temperature"]:.3f}, from 12 images' in done.stdout
    assert found['temperature'] > 1.2 and 'before' in done.stdout  # of a network with random, strong opinions

    frames = tmp_path / 'frames'
    frames.mkdir()
    for number, frame in enumerate(random_frames()):
        cv2.imwrite(str(frames / f'{number}.png'), frame)
    predict(run, frames, '--out', tmp_path / 'out', '--csv')
    predictor = Predictor(run)
    for row in csv.DictReader(open(tmp_path / 'out' / 'predictions.csv')):
        (prediction,) = predictor([cv2.imread(str(frames / f'{row["frame"]}.png'))])
        expected = assess(*prediction, predictor.calibration)
        assert float(row['calibrated confidence']) == pytest.approx(expected.confidence, abs=1e-3)
        assert float(row['calibrated confidence']) < float(row['confidence'])
        assert float(row['expected Dice']) == pytest.approx(expected.dice, abs=1e-3)
        assert row['look at this one'] == ('yes' if expected.look else 'no')
    assert describe(predictor.model)['calibration'] == found
    student = predict(run, frames, '--out', tmp_path / 'student', '--csv', '--network', 'student')
    assert 'the confidence is not calibrated' in student.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ((), 'of the 3 images to validate on|there are 3 images to validate on; at least 10'),
        (('val_dataloader=None', 'val_evaluator=None', 'val_cfg=None'), 'has no val_dataloader'),
    ],
)
def test_what_it_cannot_be_learnt_on_is_refused(options, message, run, synthetic_root):
    words = ['--cfg-options', *options] if options else []
    done = run_tool('calibrate.py', run, *words, data=synthetic_root, check=False)
    assert done.returncode == 2
    assert any(part in done.stderr for part in message.split('|')), done.stderr


def test_test_images_are_refused(run, synthetic_root, monkeypatch):
    monkeypatch.setattr('mmseg_acl.inference.calibrating.FEWEST', 1)
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    from mmseg_acl.inference.calibrating import calibrate

    with pytest.raises(ValueError, match='3 of the 3 images to validate on are test images.*name others'):
        calibrate([str(run)], device='cpu')
