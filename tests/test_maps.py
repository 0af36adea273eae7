"""Scores of map files: equal to those of the network that made them and to pysodmetrics, with bad input too."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_acl.datasets.synthetic import write_synthetic
from mmseg_acl.evaluation.cross_dataset import evaluate_checkpoint
from mmseg_acl.evaluation.map_files import read_map, write_map
from mmseg_acl.evaluation.maps import evaluate_maps

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'tests' / 'configs'


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())


def noisy_pairs(count: int, size: tuple[int, int] = (21, 27)) -> list[tuple[np.ndarray, np.ndarray]]:
    """8-bit maps that are noise around blobs, and the blobs."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        mask = np.zeros(size, np.uint8)
        y, x = rng.integers(0, 10, 2)
        mask[y : y + rng.integers(3, 9), x : x + rng.integers(3, 12)] = 1
        pairs.append(((120 * mask + 130 * rng.random(size)).astype(np.uint8), mask))
    return pairs


@pytest.fixture
def folders(tmp_path):
    """Write (map, mask) pairs of arrays as files; gives both folders."""

    def write(pairs):
        for index, (values, mask) in enumerate(pairs):
            save(tmp_path / 'some_net' / f'{index}.png', values)
            save(tmp_path / 'Set' / 'masks' / f'{index}.png', mask * 255)
        return tmp_path / 'some_net', tmp_path / 'Set' / 'masks'

    return write


def scores_of(folders, tmp_path, **settings):
    found = evaluate_maps(*folders, tmp_path / 'out', **settings)
    assert found == json.loads((tmp_path / 'out' / 'results.json').read_text())
    return found['Set']['some_net']


def dice_and_iou(predicted: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    both = float((predicted & mask).sum())
    return 200 * both / (predicted.sum() + mask.sum()), 100 * both / (predicted | mask).sum()


def test_scores_are_those_of_numpy_and_written_by_image(folders, tmp_path, capsys):
    pairs = noisy_pairs(4)
    found = scores_of(folders(pairs), tmp_path, protocols=['image', 'dataset'])
    expected = [dice_and_iou(values > 127, mask > 0) for values, mask in pairs]
    assert found['image']['mDice'] == pytest.approx(np.mean([dice for dice, _ in expected]), abs=1e-9)
    assert found['image']['mIoU'] == pytest.approx(np.mean([iou for _, iou in expected]), abs=1e-9)
    whole = dice_and_iou(*(np.concatenate([a.ravel() for a in arrays]) for arrays in zip(
        *[(values > 127, mask > 0) for values, mask in pairs], strict=True)))  # fmt: skip
    assert found['dataset']['Dice'] == pytest.approx(whole[0], abs=1e-9)
    with (tmp_path / 'out' / 'per_image.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['image'] for row in rows] == ['0', '1', '2', '3']
    assert [float(row['dice']) for row in rows] == pytest.approx([dice for dice, _ in expected], abs=1e-9)
    assert f'{found["image"]["mDice"]:.2f}' in capsys.readouterr().out


def test_another_threshold_is_named_in_the_results(folders, tmp_path):
    pairs = noisy_pairs(3)
    found = scores_of(folders(pairs), tmp_path, threshold=0.3)
    expected = np.mean([dice_and_iou(values > 0.3 * 255, mask > 0)[0] for values, mask in pairs])
    assert list(found) == ['image@0.3'] and found['image@0.3']['mDice'] == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match=r'threshold=1\.0; it must be at least 0 and below 1'):
        scores_of(folders(pairs), tmp_path, threshold=1.0)


def test_pranet_equals_pysodmetrics_on_noisy_maps(folders, tmp_path):
    library = pytest.importorskip('py_sod_metrics')
    pairs = noisy_pairs(5)
    found = scores_of(folders(pairs), tmp_path, protocols=['pranet'])['pranet']
    handlers = {'dice': library.DICEHandler(True, False), 'iou': library.IOUHandler(True, False)}
    overlaps = library.FmeasureV2(handlers)
    others = [library.Smeasure(), library.WeightedFmeasure(), library.Emeasure(), library.MAE()]
    for values, mask in pairs:
        low, high = int(values.min()), int(values.max())
        levels = np.rint((values.astype(float) - low) * 255 / (high - low)).astype(np.uint8)
        for measure in (overlaps, *others):
            measure.step(pred=levels, gt=mask * 255)
    curves = {name: result['dynamic'] for name, result in overlaps.get_results().items()}
    structure, weighted, enhanced, error = (measure.get_results() for measure in others)
    expected = dict(
        meanDic=curves['dice'].mean(), maxDic=curves['dice'].max(), meanIoU=curves['iou'].mean(),
        maxIoU=curves['iou'].max(), Smeasure=structure['sm'], wFmeasure=weighted['wfm'],
        meanEm=enhanced['em']['curve'].mean(), maxEm=enhanced['em']['curve'].max(), MAE=error['mae'],
    )  # fmt: skip
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] / 100 == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize('scale', [1, 255])
def test_binary_maps_of_either_coding(scale, folders, tmp_path):
    pairs = [((values > 127).astype(np.uint8), mask) for values, mask in noisy_pairs(3)]
    found = scores_of(folders([(scale * binary, mask) for binary, mask in pairs]), tmp_path)
    expected = np.mean([dice_and_iou(binary > 0, mask > 0)[0] for binary, mask in pairs])
    assert found['image']['mDice'] == pytest.approx(expected, abs=1e-9)


def test_16_bit_and_three_equal_channels_are_read(folders, tmp_path):
    pairs = noisy_pairs(3)
    plain = scores_of(folders(pairs), tmp_path)
    (deep, mask), (colour, other), last = pairs
    mixed = [(deep.astype(np.uint16) * 257, mask), (np.repeat(colour[..., None], 3, -1), other), last]
    assert scores_of(folders(mixed), tmp_path) == plain


def test_maps_of_another_size_are_resized_bilinearly(folders, tmp_path):
    values, mask = noisy_pairs(1)[0]
    small = cv2.resize(values, (13, 10), interpolation=cv2.INTER_AREA)
    found = scores_of(folders([(small, mask)]), tmp_path)
    # Plain bilinear weights between pixel centres.
    resized = np.zeros(mask.shape)
    for y, x in np.ndindex(mask.shape):
        v = min(max((y + 0.5) * 10 / 21 - 0.5, 0), 9)
        u = min(max((x + 0.5) * 13 / 27 - 0.5, 0), 12)
        top, left = int(v), int(u)
        bottom, right = min(top + 1, 9), min(left + 1, 12)
        upper = small[top, left] * (1 - u + left) + small[top, right] * (u - left)
        lower = small[bottom, left] * (1 - u + left) + small[bottom, right] * (u - left)
        resized[y, x] = upper * (1 - v + top) + lower * (v - top)
    assert found['image']['mDice'] == pytest.approx(dice_and_iou(resized > 127.5, mask > 0)[0], abs=1e-9)


def test_a_list_chooses_among_the_masks(folders, tmp_path):
    maps, masks = folders(noisy_pairs(3))
    (maps / '1.png').unlink()
    names = tmp_path / 'names.txt'
    names.write_text('2\n0\n')
    found = evaluate_maps(maps, masks, tmp_path / 'out', names=str(names))
    assert 0 < found['Set']['some_net']['image']['mDice'] < 100
    names.write_text('2\n7\n')
    with pytest.raises(FileNotFoundError, match='names 7, of which'):
        evaluate_maps(maps, masks, tmp_path / 'out', names=str(names))


def test_missing_and_extra_and_ambiguous_maps_are_errors(folders, tmp_path):
    maps, masks = folders(noisy_pairs(3))
    moved = (maps / '1.png').rename(maps / '1_pred.png')
    with pytest.raises(FileNotFoundError, match=r'no map for 1 of 3 masks: 1\. There is 1_pred\.png: .* --list'):
        evaluate_maps(maps, masks, tmp_path / 'out')
    save(maps / '1.png', read_map(moved))
    with pytest.raises(ValueError, match='1 maps that belong to no mask: 1_pred'):
        evaluate_maps(maps, masks, tmp_path / 'out')
    moved.rename(maps / '1.jpg')
    with pytest.raises(ValueError, match=r'1\.jpg and .*1\.png have one name'):
        evaluate_maps(maps, masks, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_empty_folders_and_unusable_files_are_errors(folders, tmp_path):
    maps, masks = folders(noisy_pairs(1))
    (tmp_path / 'none').mkdir()
    with pytest.raises(ValueError, match='folder of maps .* has no image'):
        evaluate_maps(tmp_path / 'none', masks, tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match='folder of masks .* does not exist'):
        evaluate_maps(maps, tmp_path / 'nowhere', tmp_path / 'out')
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[..., 2] = 128
    for content, message in ((b'', 'is empty'), (b'text', 'no readable image'), (colours, 'coloured')):
        if isinstance(content, bytes):
            (maps / '0.png').write_bytes(content)
        else:
            save(maps / '0.png', content)
        with pytest.raises(ValueError, match=message):
            evaluate_maps(maps, masks, tmp_path / 'out')


def test_masks_that_are_read_the_wrong_way_are_no_ground_truth(folders, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmseg_acl.datasets.mask_shares.print_log', lambda text, *_: said.append(text))
    maps, masks = folders([(values, 1 - mask) for values, mask in noisy_pairs(3)])
    evaluate_maps(maps, masks, tmp_path / 'out')
    assert len(said) == 1 and 'wrong way round' in said[0] and f'{masks}/' in said[0]
    folders([(values, np.ones_like(mask)) for values, mask in noisy_pairs(3)])
    with pytest.raises(ValueError, match='all of the 3 masks of .* are polyp at every pixel'):
        evaluate_maps(maps, masks, tmp_path / 'other')
    save(masks / '1.png', np.eye(21, 27).astype(np.uint8) * 254 + 1)
    with pytest.raises(ValueError, match=r'1\.png. has the value 1 beside 255'):
        evaluate_maps(maps, masks, tmp_path / 'other')
    assert not (tmp_path / 'other').exists()


def test_maps_are_written_rounded(tmp_path):
    write_map(np.array([[0.0, 0.5, 1.0, 0.1]]), tmp_path / 'deep' / 'a.png')
    assert read_map(tmp_path / 'deep' / 'a.png').tolist() == [[0, 128, 255, 26]]


@pytest.mark.slow
def test_saved_maps_score_as_the_network_does(tmp_path, monkeypatch):
    """tools/test.py --save-maps, then tools/evaluate_maps.py."""
    monkeypatch.setenv('MMSEG_ACL_DATA', str(tmp_path))
    write_synthetic(tmp_path, labelled=1, unlabelled=1, test=4, size=(48, 60))
    config = Config.fromfile(CONFIGS / 'mean_teacher.py')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    # A random network's probabilities lie near one half, where the png's rounding is coarse: spread them out.
    for network, scale in (('student', -60), ('teacher', -30)):
        getattr(model, network).decode_head.conv_seg.weight.data.mul_(scale)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    protocols = ['image', 'pranet', 'dataset']
    direct = evaluate_checkpoint(
        config, str(tmp_path / 'model.pth'), str(tmp_path / 'direct'), ['synthetic'], protocols, save_maps=True
    )['synthetic']
    assert 5 < direct['student']['image']['mDice'] < 95, 'the comparison would say nothing'
    for network in ('student', 'teacher'):
        maps = tmp_path / 'direct' / 'maps' / 'synthetic' / network
        assert {read_map(path).shape for path in maps.iterdir()} == {(48, 60)}
        command = ['evaluate_maps.py', maps, tmp_path / 'Synthetic' / 'test' / 'masks', '--protocol', *protocols]
        monkeypatch.setattr(sys, 'argv', [*map(str, command), '--out', str(tmp_path / network)])
        runpy.run_path(str(ROOT / 'tools' / 'evaluate_maps.py'), run_name='__main__')
        found = json.loads((tmp_path / network / 'results.json').read_text())['test'][network]
        # At the threshold 255, a handful of pixels that the png's rounding moves make E-measure's maximum.
        for scores in (found, direct[network]):
            scores['pranet'].pop('maxEm')
        for protocol in protocols:
            assert found[protocol] == pytest.approx(direct[network][protocol], abs=0.3), protocol


def test_the_tool_ends_with_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['evaluate_maps.py', str(tmp_path / 'a'), str(tmp_path / 'b')])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'tools' / 'evaluate_maps.py'), run_name='__main__')
    assert end.value.code == 2 and 'does not exist' in capsys.readouterr().err
