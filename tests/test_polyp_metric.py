"""PolypMetric against loops over pixels and thresholds, and against pysodmetrics."""

import csv

import numpy as np
import pytest
import torch
from mmseg.registry import METRICS

from mmseg_acl.evaluation import PolypMetric
from mmseg_acl.evaluation.curves import areas_by_threshold, overlap, quantise


def make_sample(probability, mask, path='a/images/one.png', channels=2):
    """What a segmentor hands to a metric, for a given (H, W) foreground probability and mask."""
    probability = torch.as_tensor(np.asarray(probability), dtype=torch.float64)
    if channels == 2:
        # Any offset is allowed: softmax sees the difference only.
        logits = torch.stack([torch.full_like(probability, 3.0), 3.0 + torch.logit(probability)])
    else:
        logits = probability[None]
    mask = torch.as_tensor(np.asarray(mask)).to(torch.uint8)[None]
    return dict(img_path=path, seg_logits=dict(data=logits), gt_sem_seg=dict(data=mask))


def score(metric, *samples):
    metric.process({}, list(samples))
    return metric.evaluate(len(samples))


def random_samples(count, seed=0, size=(13, 17)):
    """Blobs and noisy maps that overlap partly, with (probability, mask) of each."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        mask = np.zeros(size, dtype=bool)
        y, x = rng.integers(0, size[0] - 5), rng.integers(0, size[1] - 5)
        mask[y : y + rng.integers(2, 6), x : x + rng.integers(2, 6)] = True
        noise = rng.random(size)
        yield np.clip(0.55 * mask + 0.6 * noise, 0.001, 0.999), mask


def reference_dice_iou(prediction, mask, both_empty):
    """Dice and IoU counted pixel by pixel."""
    both = one = other = 0
    for predicted, true in zip(prediction.ravel(), mask.ravel(), strict=True):
        both += bool(predicted and true)
        one += bool(predicted)
        other += bool(true)
    if one + other == 0:
        return both_empty, both_empty
    return 2 * both / (one + other), both / (one + other - both)


def test_image_and_dataset_protocol_equal_a_loop():
    pairs = list(random_samples(5))
    found = score(PolypMetric(['image', 'dataset']), *(make_sample(*pair) for pair in pairs))
    per_image = [reference_dice_iou(p > 0.5, m, 1.0) for p, m in pairs]
    everything = [np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1)]
    dice, iou = reference_dice_iou(everything[0] > 0.5, everything[1], 1.0)
    assert set(found) == {'mDice', 'mIoU', 'missed', 'brier', 'ece', 'dataset/Dice', 'dataset/IoU'}
    assert found['mDice'] == pytest.approx(100 * np.mean([d for d, _ in per_image]), abs=1e-9)
    assert found['mIoU'] == pytest.approx(100 * np.mean([i for _, i in per_image]), abs=1e-9)
    assert found['dataset/Dice'] == pytest.approx(100 * dice, abs=1e-9)
    assert found['dataset/IoU'] == pytest.approx(100 * iou, abs=1e-9)
    assert found['mDice'] != pytest.approx(found['dataset/Dice'], abs=0.1)


def test_scores_are_percent_and_not_rounded():
    mask = np.array([[1, 1, 1, 0]])
    found = score(PolypMetric(), make_sample(np.array([[0.9, 0.1, 0.1, 0.1]]), mask))
    assert found['mDice'] == 50.0 and found['mIoU'] == pytest.approx(100 / 3, abs=1e-12)


@pytest.mark.parametrize(('predicted', 'true', 'expected'), [(0, 0, 100.0), (1, 0, 0.0), (0, 1, 0.0), (1, 1, 100.0)])
def test_empty_masks_and_predictions(predicted, true, expected):
    probability, mask = np.full((4, 4), 0.1), np.zeros((4, 4))
    probability[1, 1], mask[1, 1] = 0.1 + 0.8 * predicted, true
    found = score(PolypMetric(['image', 'dataset']), make_sample(probability, mask))
    assert {found[key] for key in ('mDice', 'mIoU', 'dataset/Dice', 'dataset/IoU')} == {expected}
    assert ('false_alarms' in found) == (not true)


def test_frames_without_a_polyp_show_false_alarms():
    probability, polyp = np.full((16, 16), 0.1), np.zeros((16, 16))
    polyp[:4, :1] = 1
    alarm = probability.copy()
    alarm[:2, 0] = 0.9
    empty = np.zeros((16, 16))
    pairs = [(probability, empty), (alarm, empty), (probability, empty), (alarm, polyp)]
    found = score(PolypMetric(['image', 'dataset', 'pranet']), *(make_sample(*pair) for pair in pairs))
    assert found['false_alarms'] == pytest.approx(100 / 3)
    assert found['false_area'] == pytest.approx(100 * (2 / 256) / 3)
    assert found['mDice'] == pytest.approx(100 * (1 + 0 + 1 + 2 * 2 / 6) / 4)
    # Of frames without polyps alone, the score is the share of those without an alarm.
    found = score(PolypMetric(['image', 'dataset', 'pranet']), *(make_sample(*pair) for pair in pairs[:3]))
    assert found['mDice'] == found['mIoU'] == pytest.approx(100 - found['false_alarms'])
    assert found['dataset/Dice'] == found['pranet/meanDic'] == found['pranet/maxIoU'] == 0
    assert all(np.isfinite(value) for value in found.values())


def test_brier_score_and_calibration_error_equal_a_loop():
    pairs = list(random_samples(4))
    found = score(PolypMetric(), *(make_sample(*pair) for pair in pairs))
    squares, sums = [], [[0.0, 0.0] for _ in range(15)]
    for probability, mask in pairs:
        square = 0.0
        for p, true in zip(probability.ravel().tolist(), mask.ravel().tolist(), strict=True):
            square += (p - true) ** 2 / mask.size
            for bin_, total in enumerate(sums):
                if bin_ / 15 <= p < (bin_ + 1) / 15:
                    total[0] += p / mask.size / len(pairs)
                    total[1] += true / mask.size / len(pairs)
        squares.append(square)
    assert found['brier'] == pytest.approx(100 * np.mean(squares), abs=1e-6)
    assert found['ece'] == pytest.approx(100 * sum(abs(p - true) for p, true in sums), abs=1e-6)
    assert found['brier'] > 1 and found['ece'] > 1


def test_a_calibrated_map_has_no_calibration_error_and_a_sure_wrong_one_has_all():
    mask = np.zeros((10, 10))
    mask[:3] = 1
    found = score(PolypMetric(), make_sample(np.full((10, 10), 0.3), mask))
    assert found['ece'] == pytest.approx(0, abs=1e-6) and found['brier'] == pytest.approx(21, abs=1e-6)
    found = score(PolypMetric(), make_sample(1 - mask, mask, channels=1))
    assert found['ece'] == found['brier'] == 100


def test_missed_polyps_are_counted_where_there_are_polyps():
    polyp, empty, low = np.zeros((10, 10)), np.zeros((10, 10)), np.full((10, 10), 0.1)
    polyp[:4] = 1  # 40 pixels
    one, two = low.copy(), low.copy()
    one[0, 0] = 0.9  # Dice 2 / 41
    two[0, :3] = 0.9  # Dice 6 / 43
    pairs = [(one, polyp), (two, polyp), (low, polyp), (one, empty)]
    found = score(PolypMetric(), *(make_sample(*pair) for pair in pairs))
    assert found['missed'] == pytest.approx(200 / 3) and found['false_alarms'] == 100
    assert 'missed' not in score(PolypMetric(), make_sample(low, empty))


def test_one_channel_is_a_probability_already():
    probability, mask = next(random_samples(1))
    two = score(PolypMetric(), make_sample(probability, mask))
    one = score(PolypMetric(), make_sample(probability, mask, channels=1))
    assert one == pytest.approx(two, rel=1e-9)
    # 0.4 is above mmseg's default threshold for such heads, 0.3, and below ours.
    low = make_sample(np.full((4, 4), 0.4), np.zeros((4, 4)), channels=1)
    assert score(PolypMetric(), low)['mDice'] == 100


def test_curves_equal_a_loop_over_thresholds():
    for probability, mask in random_samples(3, seed=1):
        levels = quantise(probability)
        assert levels.min() == 0 and levels.max() == 255 and levels.dtype == np.uint8
        inside, predicted = areas_by_threshold(levels, mask)
        dice, iou = overlap(inside, predicted, mask.sum(), both_empty=0.0)
        for index, threshold in enumerate(range(255, -1, -1)):
            expected = reference_dice_iou(levels >= threshold, mask, 0.0)
            assert (dice[index], iou[index]) == pytest.approx(expected, abs=1e-12)


def test_quantise_stretches_and_rounds():
    assert quantise(np.array([[0.2, 0.25, 0.4]])).tolist() == [[0, 64, 255]]
    assert quantise(np.full((2, 2), 0.7)).tolist() == [[0, 0], [0, 0]]


def test_pranet_protocol_agrees_with_pysodmetrics():
    library = pytest.importorskip('py_sod_metrics')
    pairs = list(random_samples(6, seed=2))
    # Also the corners: an empty mask, a full one, a constant map.
    pairs += [(pairs[0][0], np.zeros_like(pairs[0][1])), (pairs[1][0], np.ones_like(pairs[1][1]))]
    pairs += [(np.full(pairs[2][0].shape, 0.4), pairs[2][1])]
    found = score(PolypMetric('pranet'), *(make_sample(*pair) for pair in pairs))

    handlers = {'dice': library.DICEHandler(True, False), 'iou': library.IOUHandler(True, False)}
    overlaps = library.FmeasureV2(handlers)
    others = [library.Smeasure(), library.WeightedFmeasure(), library.Emeasure(), library.MAE()]
    for probability, mask in pairs:
        low, high = probability.min(), probability.max()
        stretched = (probability - low) / (high - low) if high > low else 0 * probability
        levels = np.rint(255 * stretched).astype(np.uint8)
        for measure in (overlaps, *others):
            measure.step(pred=levels, gt=mask.astype(np.uint8) * 255)
    curves = {name: values['dynamic'] for name, values in overlaps.get_results().items()}
    structure, weighted, enhanced, error = (measure.get_results() for measure in others)
    expected = {
        'pranet/meanDic': curves['dice'].mean(),
        'pranet/maxDic': curves['dice'].max(),
        'pranet/meanIoU': curves['iou'].mean(),
        'pranet/maxIoU': curves['iou'].max(),
        'pranet/Smeasure': structure['sm'],
        'pranet/wFmeasure': weighted['wfm'],
        'pranet/meanEm': enhanced['em']['curve'].mean(),
        'pranet/maxEm': enhanced['em']['curve'].max(),
        'pranet/MAE': error['mae'],
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] / 100 == pytest.approx(value, abs=1e-12), name


def test_csv_holds_every_image(tmp_path):
    pairs = list(random_samples(2, seed=3))
    metric = PolypMetric(out_csv=str(tmp_path / 'new' / 'scores.csv'))
    samples = [make_sample(*pair, path=f'set/images/{i}.jpg') for i, pair in enumerate(pairs)]
    found = score(metric, *samples)
    with (tmp_path / 'new' / 'scores.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['image'] for row in rows] == ['0', '1']
    assert np.mean([float(row['dice']) for row in rows]) == pytest.approx(found['mDice'], abs=1e-12)
    assert np.mean([float(row['iou']) for row in rows]) == pytest.approx(found['mIoU'], abs=1e-12)


def test_a_metric_can_be_used_again_and_has_the_prefix_it_is_given():
    metric = METRICS.build(dict(type='PolypMetric', prefix='cvc300'))
    full, empty = np.ones((4, 4)), np.zeros((4, 4))
    found = score(metric, make_sample(0.9 * full, full))
    assert all(key.startswith('cvc300/') for key in found)
    assert found['cvc300/mDice'] == found['cvc300/mIoU'] == 100.0
    assert score(metric, make_sample(0.9 * full, empty))['cvc300/mDice'] == 0.0
    assert len(metric.per_image) == 1


def test_different_sizes_are_an_error_that_names_the_image_and_both_sizes():
    sample = make_sample(np.full((4, 5), 0.4), np.zeros((8, 9)), path='images/frame7.png')
    with pytest.raises(ValueError, match=r'frame7\.png: the prediction is 5x4 .* its mask 9x8'):
        PolypMetric().process({}, [sample])


def test_an_unread_mask_is_an_error():
    sample = make_sample(np.full((4, 4), 0.4), np.full((4, 4), 255))
    with pytest.raises(ValueError, match='value 255, allowed are 0 and 1; .*LoadPolypMask'):
        PolypMetric().process({}, [sample])


def test_other_numbers_of_channels_are_an_error():
    sample = make_sample(np.full((4, 4), 0.4), np.zeros((4, 4)))
    sample['seg_logits']['data'] = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match=r'shape \(3, 4, 4\)'):
        PolypMetric().process({}, [sample])


@pytest.mark.parametrize('protocol', ['images', ['image', 'coco'], []])
def test_unknown_protocols_are_an_error(protocol):
    with pytest.raises(ValueError, match='allowed are image, pranet, dataset'):
        PolypMetric(protocol)


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match='no image was scored'):
        PolypMetric().evaluate(0)


def evaluate_on_rank(rank, folder):
    """One of two processes: scores every second image, gathers, and writes what rank 0 got."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2)
    metric = PolypMetric(['image', 'dataset'])
    samples = [make_sample(*pair, path=f'{i}.png') for i, pair in enumerate(random_samples(5))]
    # Like a sampler, pad to equal shares: rank 1 scores image 0 again, which must not count.
    metric.process({}, [samples[i] for i in ((0, 2, 4), (1, 3, 0))[rank]])
    found = metric.evaluate(len(samples))
    if rank == 0:
        torch.save([found, [score.image for score in metric.per_image]], f'{folder}/found.pt')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_results_of_two_processes_are_gathered(tmp_path):
    torch.multiprocessing.spawn(evaluate_on_rank, args=(str(tmp_path),), nprocs=2)
    found, images = torch.load(tmp_path / 'found.pt', weights_only=True)
    samples = [make_sample(*pair) for pair in random_samples(5)]
    assert found == score(PolypMetric(['image', 'dataset']), *samples)
    assert images == ['0', '1', '2', '3', '4']
