"""CorrMatch against loops written from its rules, and what slips change."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from steps import build
from test_fixmatch_family import LATE, PLAIN, make_undecided, pasted, prob_of, slow_confident, spy_on, steps, views

from mmseg_acl.models.losses import kept_loss, sure_divergence
from mmseg_acl.models.segmentors import corrmatch
from mmseg_acl.models.semi.correlation import Correlation, correlate, correlated_regions, propagate
from mmseg_acl.models.semi.moving_threshold import highest_confidence

IGNORE = 255


def test_every_row_of_a_map_is_a_softmax_of_scaled_products():
    torch.manual_seed(0)
    module = Correlation(5, channels=6, map_channels=4).eval().double()
    feature = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    hidden = module.reduce(feature)
    one, two = (layer(hidden).flatten(2).detach() for layer in (module.one, module.two))
    found = module(feature)
    for b in range(2):
        for i in range(12):
            scores = [float(one[b, :, i] @ two[b, :, j]) / math.sqrt(4) for j in range(12)]
            total = sum(math.exp(score) for score in scores)
            torch.testing.assert_close(found[b, i].tolist(), [math.exp(score) / total for score in scores])


def test_carried_logits_are_the_sum_over_rows_not_over_columns():
    torch.manual_seed(0)
    maps = torch.rand(1, 4, 4, dtype=torch.float64).softmax(-1)
    logits = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    found = correlate(logits, maps.float(), (2, 2))[0].flatten(1)
    for c in range(3):
        for j in range(4):
            expected = sum(logits[0, c].flatten()[i] * maps[0, i, j] for i in range(4))
            assert float(found[c, j]) == pytest.approx(float(expected), rel=1e-4)


def test_a_region_is_what_lies_above_the_middle_of_a_row():
    rows = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25], [0.1, 0.25, 0.4, 0.25]])
    found = correlated_regions(rows, (2, 2), (2, 2)).flatten(1)
    assert found.tolist() == [[False, False, True, True], [False] * 4, [False, False, True, False]]


def slow_propagate(labels, sure, regions, threshold, sequential=False):
    """Pixel by pixel; ``sequential`` is the public code's order, in which a region sees earlier ones' changes."""
    found, asked = labels.tolist(), labels.tolist()
    kept, known = sure.tolist(), sure.tolist()
    for region in regions:
        inside = [(y, x) for y, x in region.nonzero().tolist()]
        votes = [(found if sequential else asked)[y][x] for y, x in inside if known[y][x]]
        if not votes or len(votes) / len(inside) < threshold:
            continue
        top = max(set(votes), key=votes.count)
        if votes.count(top) / len(votes) > threshold:
            for y, x in inside:
                found[y][x], kept[y][x] = top, True
    return torch.tensor(found).masked_fill(~torch.tensor(kept), IGNORE)


@pytest.mark.parametrize('classes', [2, 4])
def test_labels_spread_as_in_the_loop(classes):
    changed = more = 0
    for seed in range(20):
        torch.manual_seed(seed)
        labels = torch.zeros(9, 8, dtype=torch.long)
        labels[2:7, 1:5] = classes - 1
        noise = torch.rand(9, 8)
        labels[noise > 0.93] = 1
        sure = torch.rand(9, 8) > 0.25
        regions = torch.zeros(6, 9, 8, dtype=torch.bool)
        for region in regions:
            top, left = torch.randint(0, 6, (2,)).tolist()
            region[top : top + 4, left : left + 4] = True
        regions[5] = False
        found = propagate(labels, sure, regions, 0.7, classes)
        assert torch.equal(found, slow_propagate(labels, sure, regions, 0.7))
        changed += int((found[sure] != labels[sure]).sum())
        more += int(((found != IGNORE) & ~sure).sum())
    assert changed and more, 'otherwise the loop compares nothing'


def test_an_agreeing_region_needs_enough_sure_pixels():
    labels, region = torch.ones(4, 5, dtype=torch.long), torch.ones(1, 4, 5, dtype=torch.bool)
    sure = torch.zeros(4, 5, dtype=torch.bool)
    assert (propagate(labels, sure, region, 0.5, 2) == IGNORE).all()
    sure[:2] = True
    assert (propagate(labels, sure, region, 0.5, 2) == 1).all()
    assert (propagate(labels, sure, region, 0.51, 2) == IGNORE).sum() == 10


def test_the_threshold_follows_the_highest_confidence_of_every_predicted_class():
    prob = torch.tensor([[0.9, 0.6, 0.3, 0.2], [0.1, 0.4, 0.7, 0.8]]).reshape(1, 2, 2, 2)
    valid = torch.tensor([[[True, True], [True, False]]])
    assert highest_confidence(prob, valid).item() == pytest.approx((0.9 + 0.7) / 2)
    assert highest_confidence(prob, valid & (prob[:, 0] > 0.5)).item() == pytest.approx(0.9)
    assert highest_confidence(prob, ~valid & valid) is None
    model = build('corrmatch', threshold=0.5, threshold_momentum=0.9, most=0.52)
    model.move_threshold(prob, valid)
    assert model.threshold.item() == pytest.approx(0.52), 'it stops there'
    model.most = 0.95
    model.move_threshold(prob, valid)
    assert model.threshold.item() == pytest.approx(0.9 * 0.52 + 0.1 * 0.8)
    assert 'threshold' in model.state_dict()


@pytest.mark.parametrize('channels', [1, 2, 3])
def test_divergence_is_that_of_the_loops(channels):
    torch.manual_seed(0)
    logits = torch.randn(2, channels, 3, 4, requires_grad=True)
    classes = max(channels, 2)
    prob = torch.randn(2, classes, 3, 4).softmax(1)
    valid = torch.rand(2, 3, 4) > 0.2
    sure = valid & (torch.rand(2, 3, 4) > 0.4)
    own = F.pad(logits.detach(), (0, 0, 0, 0, 1, 0)) if channels == 1 else logits.detach()
    total = 0.0
    for b, y, x in sure.nonzero().tolist():
        q = own[b, :, y, x].double().softmax(0)
        total += sum(float(p) * math.log(float(p) / float(q[c])) for c, p in enumerate(prob[b, :, y, x].double()))
    assert sure_divergence(logits, prob, sure, valid).item() == pytest.approx(total / int(valid.sum()), rel=1e-4)
    same = own.softmax(1)
    assert sure_divergence(logits, same, sure, valid).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.trained
@pytest.mark.slow
def test_a_step_is_the_sum_of_its_rules(monkeypatch):
    changes = dict(threshold=0.55, most=0.56, cutmix=dict(prob=1.0), correlation=dict(channels=8, dropout=0.0))
    model = build('corrmatch', **PLAIN, **changes)
    steps(model, 4)
    make_undecided(model.student, views(9)['inputs']['unsup_weak'])
    assert not hasattr(model, 'teacher')
    boxes, student, strong, carried, regions = spies = tuple(
        spy_on(monkeypatch, *pair)
        for pair in (
            (model.cutmix, 'draw'),
            (model, 'run_student'),
            (corrmatch, 'image_logits'),
            (corrmatch, 'correlate'),
            (corrmatch, 'correlated_regions'),
        )
    )
    told = set()
    for draw in (9, 10, 11):
        for calls in spies:
            calls.clear()
        data = views(draw)
        model.train()
        before = float(model.threshold)
        model.before_step(LATE)
        torch.manual_seed(LATE)
        inputs = model.data_preprocessor(data, training=True)
        found = model(**inputs, mode='loss')
        inputs = inputs['inputs']

        (given, out), ((_, view), logits), box = student[0], strong[0], boxes[0][1]
        assert torch.equal(given[1], inputs['unsup_weak'])
        assert torch.equal(view, pasted(inputs['unsup_strong'], box))
        weak, dropped = out.logits.unlabelled.detach().chunk(2)
        prob = prob_of(weak)
        valid = torch.stack([s.valid.data[0] for s in data['data_samples']['unsup_weak']])
        confidence, labels = prob.max(1)
        top = [float(confidence[valid & (labels == c)].max()) for c in (0, 1) if (valid & (labels == c)).any()]
        threshold = min(0.999 * before + 0.001 * sum(top) / len(top), 0.56)
        assert float(model.threshold) == pytest.approx(threshold, rel=1e-4)

        sure = (confidence.float() >= model.threshold) & valid
        spread = torch.stack(
            [slow_propagate(labels[i], sure[i], asked & valid[i], threshold) for i, (_, asked) in enumerate(regions)]
        )
        plain = labels.masked_fill(~sure, IGNORE)
        known, rest = valid, pasted(valid, box)
        expected = dict(
            loss_consistency=kept_loss(logits.detach().double(), pasted(spread, box), rest) / 2,
            loss_feature=kept_loss(dropped.double(), plain, known) / 2,
            loss_divergence=sure_divergence(logits.detach(), pasted(prob, box).float(), pasted(sure, box), rest) / 2,
        )
        (first, one), (second, two) = carried
        assert torch.equal(first[0], out.logits.all[: 3 + 3].detach()) and torch.equal(second[0], logits.detach())
        follow = kept_loss(two.detach(), pasted(spread, box), rest) + kept_loss(one[3:].detach(), plain, known)
        expected['loss_correlation'] = follow / 4
        truth = torch.cat([s.gt_sem_seg.data for s in data['data_samples']['sup']])
        expected['loss_correlation_labelled'] = F.cross_entropy(one[:3].detach(), truth)
        for key, value in expected.items():
            assert found[key].item() == pytest.approx(float(value), rel=1e-3), key
            assert float(value) > 0, key
        right = float(expected['loss_consistency'])
        over_kept = slow_confident(
            logits.detach().double(), pasted(prob, box), rest, threshold, 'cross_entropy', 'kept'
        )
        slips = {
            'without spreading': float(kept_loss(logits.detach(), pasted(plain, box), rest)) / 2,
            'without CutMix': float(kept_loss(logits.detach(), spread, valid)) / 2,
            'over kept pixels alone': over_kept / 2,
        }
        told |= {slip for slip, value in slips.items() if value != pytest.approx(right, rel=1e-3)}
    # In one draw alone a slip may change next to nothing.
    assert told == {*slips}, 'otherwise the comparison would not see the slip'


@pytest.mark.slow
def test_carried_logits_teach_the_maps_and_nothing_of_the_head():
    model = build('corrmatch')
    model.train()
    data = views(1)
    model.before_step(LATE)
    found = model(**model.data_preprocessor(data, training=True), mode='loss')
    found['loss_correlation_labelled'].backward()
    assert model.correlation.one.weight.grad.any() and model.correlation.two.weight.grad.any()
    head = model.student.decode_head.conv_seg.weight.grad
    assert head is None or not head.any(), 'logits are detached before they are carried'


def test_maps_of_a_fine_feature_are_those_of_its_averages():
    model = build('corrmatch', feature_stride=8).eval()
    logits, fine = torch.randn(2, 2, 32, 48), torch.randn(2, model.student_tap.channels, 8, 24)
    found, maps = model.carried(logits, fine)
    coarse = torch.stack(
        [fine[:, :, 2 * y : 2 * y + 2, 4 * x : 4 * x + 4].mean((2, 3)) for y in range(4) for x in range(6)], 2
    )
    expected = model.correlation(coarse.unflatten(2, (4, 6)))
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(found, correlate(logits, expected, (4, 6)))
    assert model.carried(logits, fine[:, :, :4, :3])[1].shape == (2, 12, 12), 'a coarse one stays as it is'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(threshold=1.0), 'threshold is 1.0'),
        (dict(threshold_momentum=1.5), 'threshold_momentum is 1.5'),
        (dict(most=1), 'most is 1'),
        (dict(dropout=0.0), 'dropout is 0.0'),
        (dict(regions=0), 'regions is 0'),
        (dict(feature_source=7), 'stage 7'),
        (dict(feature_stride=0), 'feature_stride is 0'),
        (dict(correlation=dict(map_channels=0)), 'map_channels is 0'),
        (dict(correlation=dict(dropout=1.0)), 'dropout of the correlation is 1.0'),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build('corrmatch', **changes)
