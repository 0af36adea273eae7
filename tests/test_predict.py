"""tools/predict.py and its Python class: the masks of a model for what a user names."""

from __future__ import annotations

import csv
import re
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.registry import DATASETS, MODELS
from PIL import Image
from tool_process import run_tool

from mmseg_acl.engine import load_config
from mmseg_acl.evaluation.polyp_metric import foreground_probability
from mmseg_acl.inference import Predictor, find_frames, find_run, predict_into
from mmseg_acl.inference.writing import Outputs, regions_of
from mmseg_acl.models.networks import predicting

CONFIGS = Path(__file__).parent / 'configs'


def write_run(
    folder: Path, classes: int = 2, segmentor: dict | None = None, method: str = 'mean_teacher', **head: object
) -> Path:
    """A work dir as a training leaves it, of a network with random, strong opinions.

    Args:
        folder: The work dir.
        classes: Number of classes.
        segmentor: Changes of the segmentor's config.
        method: Name of a config of the tests.
        head: Changes of its head's.
    """
    config = Config.fromfile(CONFIGS / f'{method}.py')
    config.merge_from_dict(dict(model=dict(segmentor=segmentor or {})))
    config.model.segmentor.decode_head.update(num_classes=classes, **head)
    if classes > 2:
        names = ('background', *(f'kind {label}' for label in range(1, classes)))
        config.test_dataloader.dataset.metainfo = dict(classes=names)
    folder.mkdir(parents=True, exist_ok=True)
    config.dump(folder / f'{method}.py')
    torch.manual_seed(3)
    model = MODELS.build(config.model)
    model.init_weights()
    for name, module in model.named_modules():
        if name.endswith('decode_head.conv_seg'):
            module.weight.data.normal_(std=2)
            module.bias.data.zero_()
    torch.save(dict(state_dict=model.state_dict()), folder / 'iter_8.pth')
    return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp('runs') / 'run')


@pytest.fixture(scope='module')
def frames(tmp_path_factory, synthetic_root) -> Path:
    """Frames of several sizes, some in a sub-folder, and one that is none."""
    folder = tmp_path_factory.mktemp('frames')
    (folder / 'case 1').mkdir()
    images = sorted((synthetic_root / 'Synthetic' / 'unlabelled' / 'images').iterdir())
    for number, path in enumerate(images[:4]):
        image = cv2.resize(cv2.imread(str(path)), (80 + 16 * number, 64))
        cv2.imwrite(str(folder / ('case 1' if number % 2 else '') / f'f{number}.png'), image)
    return folder


def masks_of(out: Path) -> dict[str, np.ndarray]:
    return {
        path.relative_to(out / 'masks').as_posix(): cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for path in sorted((out / 'masks').rglob('*.png'))
    }


def predict(*args: object, **options) -> object:
    return run_tool('predict.py', *args, data=Path('nowhere'), **options)


@pytest.mark.slow
def test_masks_lie_as_the_frames_do_and_are_those_of_scoring(run, frames, tmp_path):
    done = predict(run, frames, '--out', tmp_path, '--overlay', '--prob', '--csv')
    assert 'network teacher' in done.stdout and 'written: 4 masks' in done.stdout
    assert 'Image shapes are different' not in done.stdout + done.stderr  # a warning of mmseg's, of what is no fault
    found = masks_of(tmp_path)
    assert list(found) == ['case 1/f1.png', 'case 1/f3.png', 'f0.png', 'f2.png']
    config = load_config(str(run / 'mean_teacher.py'))
    model = MODELS.build(config.model).eval()
    model.load_state_dict(torch.load(run / 'iter_8.pth')['state_dict'])
    pipeline = [step for step in config.test_dataloader.dataset.pipeline if step['type'] != 'LoadPolypMask']
    source = dict(type='UnlabelledFolder', folder=str(frames), pipeline=pipeline)
    dataset = DATASETS.build(source)
    rows = {row['frame']: row for row in csv.DictReader(open(tmp_path / 'predictions.csv'))}
    for sample in dataset:
        with torch.no_grad(), predicting(model, 'teacher'):
            output = model.test_step(pseudo_collate([sample]))[0].to_dict()
        prob = foreground_probability(output, '')
        name = Path(output['img_path']).relative_to(frames).with_suffix('').as_posix()
        mask = found[f'{name}.png']
        assert mask.shape == output['ori_shape'][:2] and set(np.unique(mask)) <= {0, 255}
        sure = np.abs(prob - 0.5) > 1e-4  # a batch rounds otherwise than a single image
        assert ((mask > 0) == (prob > 0.5))[sure].all() and 0 < (mask > 0).mean() < 1
        stored = cv2.imread(str(tmp_path / 'probabilities' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint16 and np.abs(stored / 65535 - prob).max() < 1e-3
        assert float(rows[name]['share polyp']) == pytest.approx((mask > 0).mean(), abs=1e-6)
        regions = regions_of(mask > 0)
        assert int(rows[name]['regions']) == len(regions)
        assert rows[name]['boxes'].split()[0] == ','.join(map(str, regions[0][:4]))
        overlay = cv2.imread(str(tmp_path / 'overlays' / f'{name}.png'))
        changed = (overlay != cv2.imread(output['img_path'])).any(axis=2)
        assert changed[mask > 0].mean() > 0.5 and not changed[cv2.dilate(mask, np.ones((5, 5))) == 0].any()


@pytest.mark.slow
def test_a_second_call_goes_on_and_other_settings_are_refused(run, frames, tmp_path):
    predict(run, frames, '--out', tmp_path, '--batch', 3)
    (tmp_path / 'masks' / 'f0.png').unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'masks').rglob('*.png')}
    done = predict(run, frames, '--out', tmp_path)
    assert 'written: 1 masks' in done.stdout and '3 were there already' in done.stdout
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    other = predict(run, frames, '--out', tmp_path, '--threshold', 0.7, check=False)
    assert other.returncode == 2 and 'predictions of another threshold' in other.stderr
    area = sum((mask > 0).sum() for mask in masks_of(tmp_path).values())
    predict(run, frames, '--out', tmp_path, '--threshold', 0.7, '--overwrite')
    assert 0 < sum((mask > 0).sum() for mask in masks_of(tmp_path).values()) < area
    student = predict(run, frames, '--out', tmp_path, '--network', 'student', check=False)
    assert student.returncode == 2 and 'another network' in student.stderr


@pytest.mark.slow
def test_outputs_within_the_source_are_no_frames_of_the_next_call(run, frames, tmp_path):
    source = tmp_path / 'frames'
    source.mkdir()
    shutil.copy(frames / 'f0.png', source)
    out = source / 'predicted'
    predict_into(Predictor(run), find_frames(str(source)), out, Outputs(overlay=True))
    assert len(find_frames(str(source)).frames) == 3
    done = predict(run, source, '--out', f'{source}/../frames/predicted', '--overlay')
    assert 'written: 0 masks' in done.stdout and '1 were there already' in done.stdout
    pattern = find_frames(f'{source}/**/*.png', without=[out / 'masks', out / 'overlays'])
    assert [str(frame.name) for frame in pattern.frames] == ['f0']


@pytest.mark.slow
def test_masks_of_another_origin_are_not_written_over(run, frames, tmp_path):
    (tmp_path / 'masks').mkdir()
    truth = tmp_path / 'masks' / 'f0.png'
    truth.write_bytes(b'drawn by hand')
    for overwrite in (False, True):
        with pytest.raises(ValueError, match='f0.png is no prediction of this tool'):
            predict_into(Predictor(run), find_frames(str(frames)), tmp_path, overwrite=overwrite)
    assert truth.read_bytes() == b'drawn by hand'


@pytest.mark.slow
def test_a_damaged_record_is_named_with_a_mend_that_works(run, frames, tmp_path):
    source = find_frames(str(frames / 'f0.png'))
    predict_into(Predictor(run), source, tmp_path)
    (tmp_path / 'predictor.json').write_text('{')
    with pytest.raises(ValueError, match='predictor.json is damaged .*: write anew with --overwrite'):
        predict_into(Predictor(run), source, tmp_path)
    assert predict_into(Predictor(run), source, tmp_path, overwrite=True).written == 1


@pytest.mark.slow
def test_a_frame_that_cannot_be_read_is_named_and_skipped(run, frames, tmp_path):
    source = tmp_path / 'frames'
    source.mkdir()
    (source / 'a.png').write_bytes((frames / 'f0.png').read_bytes())
    (source / 'b.png').write_bytes((frames / 'f0.png').read_bytes()[:60])
    (source / 'c.jpg').touch()
    done = predict(run, source, '--out', tmp_path / 'out', check=False)
    assert done.returncode == 1 and list(masks_of(tmp_path / 'out')) == ['a.png']
    assert 'skipped' in done.stderr and 'b.png cannot be decoded' in done.stderr and 'c.jpg' in done.stderr
    assert '2 frame(s) could not be read' in done.stderr


def test_frames_of_one_name_keep_their_suffixes(frames, tmp_path):
    for name in ('a.png', 'a.jpg', 'b.png'):
        (tmp_path / name).write_bytes((frames / 'f0.png').read_bytes())
    assert [str(frame.name) for frame in find_frames(str(tmp_path)).frames] == ['a.jpg', 'a.png', 'b']


def test_an_image_a_glob_and_a_list_are_sources(frames, tmp_path):
    (tmp_path / 'list.txt').write_text(f'# mine\n{frames / "f2.png"}\n{frames / "case 1" / "f1.png"}\n')
    for source, names in (
        (frames / 'f0.png', ['f0']),
        (frames / '*.png', ['f0', 'f2']),
        (frames / '**' / '*.png', ['case 1/f1', 'case 1/f3', 'f0', 'f2']),
        (tmp_path / 'list.txt', ['f2', 'case 1/f1']),
    ):
        found = find_frames(str(source))
        assert found.count == len(names) and [str(frame.name) for frame in found.frames] == names


def test_a_list_may_have_absolute_and_relative_paths(frames, tmp_path, monkeypatch):
    files = sorted(frames.rglob('*.png'))[:2]
    monkeypatch.chdir(files[0].parent)
    (tmp_path / 'list.txt').write_text(f'# two frames\n{files[0].name}\n\n{files[1]}\n')
    source = find_frames(str(tmp_path / 'list.txt'))
    assert [frame.name.name for frame in source.frames] == [file.stem for file in files]
    for frame, file in zip(source.frames, files, strict=True):
        np.testing.assert_array_equal(frame.read(), cv2.imread(str(file)))


def test_a_video_without_frames_is_named(tmp_path):
    cv2.VideoWriter(str(tmp_path / 'none.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 48)).release()
    with pytest.raises(ValueError, match=r'none.avi\W.*(no frame that can be decoded|cannot be opened)'):
        list(find_frames(str(tmp_path / 'none.avi')).frames)


@pytest.mark.slow
def test_a_video_becomes_masks_and_a_video(run, frames, tmp_path):
    film = cv2.VideoWriter(str(tmp_path / 'film.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 12, (80, 64))
    for shift in range(5):
        film.write(np.roll(cv2.imread(str(frames / 'f0.png')), 4 * shift, axis=1))
    film.release()
    done = predict(run, tmp_path / 'film.avi', '--out', tmp_path / 'out', '--video', '--frames', 4)
    assert 'written: 4 masks' in done.stdout
    assert list(masks_of(tmp_path / 'out')) == [f'film/{number:06d}.png' for number in range(4)]
    film = cv2.VideoCapture(str(tmp_path / 'out' / 'overlay.mp4'))
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(12, abs=0.1)
    shown = [film.read()[1].shape for _ in range(4)]
    assert shown == [(64, 80, 3)] * 4 and not film.read()[0]


@pytest.mark.slow
def test_smoothing_averages_over_the_past_and_lowers_flicker(run, frames, tmp_path):
    """A still scene under noise."""
    rng = np.random.default_rng(0)
    still = cv2.imread(str(frames / 'f0.png'))
    shown = [np.clip(still + rng.normal(0, 12, still.shape), 0, 255).astype(np.uint8) for _ in range(6)]
    film = cv2.VideoWriter(str(tmp_path / 'film.avi'), cv2.VideoWriter_fourcc(*'FFV1'), 10, still.shape[1::-1])
    for frame in shown:
        film.write(frame)
    film.release()
    said = {}
    for smooth in (0, 0.8):
        done = predict(run, tmp_path / 'film.avi', '--out', tmp_path / str(smooth), '--smooth', smooth, '--batch', 4)
        said[smooth] = float(re.search(r'flicker: ([\d.]+) %', done.stdout)[1])
    assert 0 < said[0.8] < said[0] / 2
    plain = Predictor(run)
    past = None
    for frame, mask in zip(shown, masks_of(tmp_path / '0.8').values(), strict=True):
        prob = plain([frame])[0].probabilities
        past = prob if past is None else 0.8 * past + 0.2 * prob
        sure = np.abs(past[1] - 0.5) > 1e-4
        assert ((mask > 0) == (past[1] > 0.5))[sure].all()
    masks = list(masks_of(tmp_path / '0.8').values())
    changed = [(a != b).mean() for a, b in zip(masks, masks[1:], strict=False)]
    assert said[0.8] == pytest.approx(100 * np.mean(changed), abs=1e-3)
    with pytest.raises(ValueError, match='smooth is 1; it is the weight of the past'):
        Predictor(run, smooth=1)


@pytest.mark.slow
def test_classes_are_numbers_with_a_palette(frames, tmp_path):
    run = write_run(tmp_path / 'run', classes=4)
    done = predict(run, frames, '--out', tmp_path / 'out', '--csv', '--prob')
    assert 'classes background, kind 1, kind 2, kind 3' in done.stdout
    with Image.open(tmp_path / 'out' / 'masks' / 'f0.png') as mask:
        assert mask.mode == 'P' and set(np.unique(np.asarray(mask))) <= {0, 1, 2, 3}
        assert len({tuple(mask.getpalette()[3 * label : 3 * label + 3]) for label in range(4)}) == 4
    (row,) = [row for row in csv.DictReader(open(tmp_path / 'out' / 'predictions.csv')) if row['frame'] == 'f0']
    assert {'share kind 1', 'share kind 2', 'share kind 3'} <= row.keys()
    maps = [cv2.imread(str(tmp_path / 'out' / 'probabilities' / f'f0_{label}.png'), -1) for label in (1, 2, 3)]
    assert sum(each.astype(int) for each in maps).max() <= 65535 + 3


@pytest.mark.slow
def test_the_class_predicts_frames_of_any_size_and_with_flips(run, frames):
    images = [cv2.imread(str(path)) for path in (frames / 'f0.png', frames / 'case 1' / 'f3.png')]
    plain, flipped = (Predictor(run, device='cpu', flips=flips) for flips in (False, True))
    for found, image in zip(plain(images), images, strict=True):
        assert found.probabilities.shape == (2, *image.shape[:2])
        np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
        assert 0.5 <= found.confidence <= 1
    image = images[0]
    views = [
        plain([np.ascontiguousarray(image[::y, ::x])])[0].probabilities[:, ::y, ::x] for y in (1, -1) for x in (1, -1)
    ]
    np.testing.assert_allclose(flipped([image])[0].probabilities, np.mean(views, axis=0), atol=1e-3)


@pytest.mark.slow
def test_one_channel_is_thresholded_like_two(frames, tmp_path):
    loss = [dict(type='CrossEntropyLoss', use_sigmoid=True)]
    run = write_run(tmp_path / 'run', out_channels=1, loss_decode=loss)
    found = Predictor(run, device='cpu')([cv2.imread(str(frames / 'f0.png'))])[0]
    assert np.array_equal(found.labels, found.probabilities[1] > 0.5) and found.labels.any()


def test_the_best_checkpoint_is_taken_before_the_last(run, tmp_path):
    for name in ('x.py', 'iter_2.pth', 'iter_10.pth'):
        (tmp_path / name).touch()
    assert find_run([str(tmp_path)]).checkpoint.name == 'iter_10.pth'
    (tmp_path / 'best_mDice_iter_2.pth').touch()
    assert find_run([str(tmp_path)]).checkpoint.name == 'best_mDice_iter_2.pth'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('{run}', '{frames}/none.png'), "there is no '.*none.png'"),
        (('{run}', __file__), 'is neither an image nor a video that can be read; a list .* ends in .txt'),
        (('{frames}', '{frames}'), 'has no config'),
        (('nowhere', '{frames}'), "there is no work dir 'nowhere'"),
        (('{run}/mean_teacher.py', '{run}/iter_9.pth', '{frames}'), "checkpoint '.*iter_9.pth' does not exist"),
        (('{run}', '{frames}', '--network', 'third'), "no network 'third'; it has student, teacher"),
        (('{run}', '{frames}', '--threshold', '1'), r'threshold is 1.0'),
        (('{run}', '{frames}', '--batch', '0'), 'batch is 0'),
        (('{run}', '{frames}', '--video'), 'a video is written of a video'),
        (('{run}', '{frames}', '--smooth', '0.5'), '--smooth is for a video'),
        (('{run}', '0'), 'camera 0 does not end by itself'),
    ],
)
def test_what_is_wrong_is_said_before_the_work(arguments, message, run, frames, tmp_path, capsys, monkeypatch):

    words = [word.format(run=run, frames=frames) for word in arguments]
    monkeypatch.setattr(sys, 'argv', ['predict.py', *words, '--out', str(tmp_path / 'out')])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(Path(__file__).parents[1] / 'tools' / 'predict.py'), run_name='__main__')
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / 'out' / 'masks').exists()
