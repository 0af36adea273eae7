"""FixMatch, UniMatch, UniMatch V2, CPS and BCP against loops written from their rules, and what slips change."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from steps import SIDE, batch, build, losses
from torch import nn

from mmseg_acl.models.losses import confident_loss
from mmseg_acl.models.segmentors import bcp, unimatch, unimatch_v2
from mmseg_acl.models.semi import feature_dropout
from mmseg_acl.models.semi.feature_dropout import channel_dropout, complementary_dropout
from mmseg_acl.models.semi.joint_pass import image_logits
from mmseg_acl.models.semi.mixing import BoxMix

METHODS = ('fixmatch', 'unimatch', 'unimatch_v2', 'corrmatch', 'cps', 'bcp')
PLAIN = {'segmentor.decode_head.dropout_ratio': 0}
LATE = 5


def views(seed: int = 0, images: int = 3, classes: int = 2) -> dict:
    """A batch with a second strong view, and padding on the right of the last unlabelled image."""
    data = batch(images, seed, classes)
    data['inputs']['unsup_strong2'] = [(image.float() * 0.7).byte() for image in data['inputs']['unsup_weak']]
    data['data_samples']['unsup_strong2'] = data['data_samples']['unsup_strong']
    data['data_samples']['unsup_weak'][-1].valid.data[..., -9:] = False
    return data


def steps(model, count: int, classes: int = 2) -> list[dict[str, float]]:
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.02, momentum=0.9)
    history = []
    for iteration in range(count):
        model.train()
        found = losses(model, views(iteration, classes=classes), iteration)
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        optimizer.step()
        model.after_step()
        history.append({key: float(value.detach()) for key, value in found.items()})
    return history


@torch.no_grad()
def make_undecided(network: nn.Module, images: list[torch.Tensor]) -> None:
    """Give a network strong opinions, half of the pixels for either class, whatever a few steps have taught it."""
    last = network.decode_head.conv_seg
    last.weight.mul_(20)
    last.bias.zero_()
    logits = image_logits(network, (torch.stack(images).float() - 127.5) / 64)
    last.bias[1] -= (logits[:, 1] - logits[:, 0]).median()


def prob_of(logits: torch.Tensor) -> torch.Tensor:
    return logits.detach().double().softmax(1)


# ------------------------------------------------------------------ the loss of all of them


def slow_confident(logits, prob, valid, threshold, criterion, over='valid', drop_threshold=False) -> float:
    """Pixel by pixel; the last two arguments are slips that a test must notice."""
    total = count = 0.0
    kept = torch.zeros_like(valid)
    # By pixel, as Python's numbers: a tensor a pixel takes longer than all that is compared.
    scores, votes = (values.movedim(1, -1).tolist() for values in (prob, logits))
    for b, y, x in valid.nonzero().tolist():
        confidence, label = max((value, -c) for c, value in enumerate(scores[b][y][x]))
        sure = drop_threshold or confidence >= threshold
        kept[b, y, x] = sure
        count += sure if over == 'kept' else 1
        if sure:
            powers = [math.exp(value) for value in votes[b][y][x]]
            total -= math.log(powers[-label] / sum(powers))
    if criterion == 'cross_entropy':
        return total / max(count, 1)
    dice = []
    p = logits.softmax(1)
    for b in range(len(prob)):
        for c in range(1, prob.shape[1]):
            t = (prob[b].argmax(0) == c).double()
            both, size = (kept[b] * p[b, c] * t).sum(), (kept[b] * (p[b, c] ** 2 + t)).sum()
            dice.append(float(1 - (2 * both + 1) / (size + 1)))
    return sum(dice) / len(dice)


@pytest.mark.parametrize('criterion', ['cross_entropy', 'dice'])
@pytest.mark.parametrize('classes', [2, 4])
def test_the_loss_of_confident_labels_is_that_of_the_loops(criterion, classes):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 5, 6, dtype=torch.float64, requires_grad=True)
    prob = (3 * torch.randn(2, classes, 5, 6, dtype=torch.float64)).softmax(1)
    valid = torch.rand(2, 5, 6) > 0.3
    found = confident_loss(logits, prob, valid, 0.7, criterion)
    arguments = (logits.detach(), prob, valid, 0.7, criterion)
    assert found.item() == pytest.approx(slow_confident(*arguments), rel=1e-5)
    assert found.item() != pytest.approx(slow_confident(*arguments, drop_threshold=True), rel=1e-3)
    if criterion == 'cross_entropy':
        assert found.item() != pytest.approx(slow_confident(*arguments, over='kept'), rel=1e-2)
    nothing = confident_loss(logits, prob, valid, 1.0, criterion)
    nothing.backward()
    assert nothing == 0 and not logits.grad.any()


# ------------------------------------------------------------------ dropped features


def test_dropped_channels_are_whole_and_the_others_are_scaled():
    torch.manual_seed(0)
    features = [torch.rand(8, 16, 3, 3) + 1, torch.rand(8, 5, 2, 2) + 1]
    for before, after in zip(features, channel_dropout(features, 0.5), strict=True):
        ratio = (after / before).flatten(2)
        assert set(ratio.unique().tolist()) == {0, 2} and torch.equal(ratio.amin(2), ratio.amax(2))
        assert 0.3 < (ratio > 0).float().mean() < 0.7


@pytest.mark.parametrize('images', [1, 4, 5])
def test_one_view_has_the_channels_that_the_other_lacks(images):
    torch.manual_seed(1)
    widths = (16, 6, 16)
    features = [torch.rand(2 * images, width, 3, 3) + 1 for width in widths]
    ratios = [after / before for before, after in zip(features, complementary_dropout(features), strict=True)]
    exempt = []
    for ratio in ratios:
        one, two = ratio.chunk(2)
        torch.testing.assert_close(one + two, torch.full_like(one, 2))
        exempt.append([bool((image == 1).all()) for image in one])
        dropped = one[[not whole for whole in exempt[-1]]]
        assert set(dropped.unique().tolist()) == {0, 2} and torch.equal(dropped.amin((2, 3)), dropped.amax((2, 3)))
    assert exempt[0] == exempt[1] == exempt[2] and sum(exempt[0]) == images // 2
    assert torch.equal(ratios[0], ratios[2]), 'levels of one width share the draw'


def test_three_boxes_cover_what_they_are_to_cover():
    torch.manual_seed(0)
    boxes = BoxMix(3, (0.25, 0.5)).draw(torch.zeros(500, 3, 64, 64))
    share = boxes.float().mean((1, 2, 3))
    assert 0.25 < share.mean() < 0.375, 'where two boxes overlap the image shows again'
    assert share.max() < 0.55 and share.min() > 0
    assert not BoxMix().draw(torch.zeros(1, 3, 8, 8)).any(), 'an image alone has no partner'
    for wrong in (dict(count=0), dict(area=(0.5, 0.25)), dict(area=(0.5, 1))):
        with pytest.raises(ValueError, match='the boxes'):
            BoxMix(**wrong)


# ------------------------------------------------------------------ each method against its rule


def spy_on(monkeypatch, target, name: str) -> list:
    """What a function was given and gave out, call by call."""
    calls, function = [], getattr(target, name)

    def spied(*args, **kwargs):
        out = function(*args, **kwargs)
        calls.append((args, out))
        return out

    monkeypatch.setattr(target, name, spied)
    return calls


def pasted(x, boxes):
    """Each image with its partner, the one before it, in its box; pixel by pixel where it matters."""
    out = x.clone()
    for i in range(len(x)):
        inside = boxes[i, 0] if x.dim() > 2 else boxes[i]
        out[i][..., inside] = x[(i - 1) % len(x)][..., inside]
    return out


def run(model, data):
    model.train()
    return losses(model, data, LATE)


@pytest.mark.trained
@pytest.mark.slow
def test_fixmatch_follows_the_mixed_labels_of_its_teacher(monkeypatch):
    model = build('fixmatch', **PLAIN, cutmix=dict(prob=1.0), threshold=0.55)
    steps(model, 4)
    make_undecided(model.teacher, views(9)['inputs']['unsup_weak'])
    boxes, teacher, student = (
        spy_on(monkeypatch, *pair)
        for pair in ((model.cutmix, 'draw'), (model, 'run_teacher'), (model, 'run_student'))
    )
    data = views(9)
    found = run(model, data)
    (_, box), (weak, logits), (given, out) = boxes[0], teacher[0], student[0]
    inputs = model.data_preprocessor(data, training=True)['inputs']
    assert torch.equal(weak[0], inputs['unsup_weak'])
    assert torch.equal(given[1], pasted(inputs['unsup_strong'], box))
    valid = torch.stack([s.valid.data[0] for s in data['data_samples']['unsup_weak']])
    arguments = (out.logits.unlabelled.detach().double(), pasted(prob_of(logits), box), pasted(valid, box), 0.55)
    expected = slow_confident(*arguments, 'cross_entropy')
    assert found['loss_consistency'].item() == pytest.approx(expected, rel=1e-4)
    itself = (arguments[0], prob_of(logits), valid, 0.55)
    assert expected != pytest.approx(slow_confident(*itself, 'cross_entropy'), rel=1e-3), 'the partner is another'
    assert 0 < found['kept_share'] < 1


@pytest.mark.trained
@pytest.mark.slow
def test_unimatch_follows_its_own_weak_view_on_two_strong_ones_and_on_dropped_features(monkeypatch):
    model = build('unimatch', **PLAIN, cutmix=dict(prob=1.0), threshold=0.55)
    steps(model, 4)
    make_undecided(model.student, views(9)['inputs']['unsup_weak'])
    assert not hasattr(model, 'teacher')
    boxes, student, strong, dropped = (
        spy_on(monkeypatch, *pair)
        for pair in (
            (model.cutmix, 'draw'),
            (model, 'run_student'),
            (unimatch, 'image_logits'),
            (feature_dropout, 'channel_dropout'),
        )
    )
    data = views(9)
    found = run(model, data)
    inputs = model.data_preprocessor(data, training=True)['inputs']
    (given, out), ((_, images), logits), ((features, share), _) = student[0], strong[0], dropped[0]
    assert torch.equal(given[1], inputs['unsup_weak']) and share == 0.5 and len(features[0]) == 3
    assert torch.equal(features[-1], out.encoded.unlabelled[-1][:3]), 'the weak features are the ones dropped'
    mixed = [
        pasted(inputs[view], box) for view, (_, box) in zip(('unsup_strong', 'unsup_strong2'), boxes, strict=True)
    ]
    assert torch.equal(images, torch.cat(mixed))
    assert not torch.equal(boxes[0][1], boxes[1][1]), 'each view has boxes of its own'

    weak, fp = out.logits.unlabelled.detach().double().chunk(2)
    valid = torch.stack([s.valid.data[0] for s in data['data_samples']['unsup_weak']])
    terms = [
        slow_confident(own.detach().double(), pasted(weak.softmax(1), box), pasted(valid, box), 0.55, 'cross_entropy')
        for own, (_, box) in zip(logits.chunk(2), boxes, strict=True)
    ]
    assert found['loss_consistency'].item() == pytest.approx(sum(terms) / 4, rel=1e-4)
    expected = slow_confident(fp, weak.softmax(1), valid, 0.55, 'cross_entropy') / 2
    assert found['loss_feature'].item() == pytest.approx(expected, rel=1e-4)
    assert expected > 0 and not torch.allclose(weak, fp)


@pytest.mark.trained
@pytest.mark.slow
def test_unimatch_v2_follows_its_teacher_on_two_complementary_views(monkeypatch):
    model = build('unimatch_v2', **PLAIN, cutmix=dict(prob=1.0), threshold=0.55)
    steps(model, 4)
    make_undecided(model.teacher, views(9)['inputs']['unsup_weak'])
    boxes, teacher, student, dropped = (
        spy_on(monkeypatch, *pair)
        for pair in (
            (model.cutmix, 'draw'),
            (model, 'run_teacher'),
            (model, 'run_student'),
            (unimatch_v2, 'complementary_dropout'),
        )
    )
    data = views(9)
    found = run(model, data)
    inputs = model.data_preprocessor(data, training=True)['inputs']
    (_, logits), (given, out), ((features,), changed) = teacher[0], student[0], dropped[0]
    assert len(features[0]) == 6 and torch.equal(out.encoded.unlabelled[-1], changed[-1])
    mixed = [
        pasted(inputs[view], box) for view, (_, box) in zip(('unsup_strong', 'unsup_strong2'), boxes, strict=True)
    ]
    assert torch.equal(given[1], torch.cat(mixed))
    valid = torch.stack([s.valid.data[0] for s in data['data_samples']['unsup_weak']])
    terms = [
        slow_confident(own.detach().double(), pasted(prob_of(logits), box), pasted(valid, box), 0.55, 'cross_entropy')
        for own, (_, box) in zip(out.logits.unlabelled.chunk(2), boxes, strict=True)
    ]
    assert found['loss_consistency'].item() == pytest.approx(sum(terms) / 2, rel=1e-4)
    assert min(terms) > 0


@pytest.mark.parametrize('method', ['unimatch', 'unimatch_v2'])
def test_one_strong_view_is_an_error_that_names_the_pipeline(method):
    model = build(method)
    with pytest.raises(ValueError, match=r'makes 1 strong view\(s\).*two_views_pipeline'):
        losses(model, batch(), LATE)


def mean_cross_entropy(logits, labels, valid) -> float:
    total = [
        -math.log(logits[b, :, y, x].double().softmax(0)[labels[b, y, x]]) for b, y, x in valid.nonzero().tolist()
    ]
    return sum(total) / max(len(total), 1)


@pytest.mark.trained
@pytest.mark.slow
def test_each_network_of_cps_learns_the_labels_of_the_other(monkeypatch):
    model = build('cps', **PLAIN, dice=False)
    steps(model, 4)
    for network in (model.first, model.second):
        make_undecided(network, views(9)['inputs']['unsup_weak'])
    boxes, labels, passes = (
        spy_on(monkeypatch, *pair)
        for pair in ((model.boxes, 'draw'), (model, 'label'), (model.segmentors, 'forward'))
    )
    data = views(9)
    found = run(model, data)
    inputs = model.data_preprocessor(data, training=True)['inputs']
    box = boxes[0][1]
    ((first, weak), p1), ((second, _), p2) = labels
    assert first is model.first and second is model.second and torch.equal(weak, inputs['unsup_weak'])
    (_, _, strong), (one, two) = passes[0]
    assert torch.equal(strong, pasted(inputs['unsup_strong'], box))
    valid = pasted(torch.stack([s.valid.data[0] for s in data['data_samples']['unsup_weak']]), box)
    y1, y2 = (pasted(p, box).argmax(1) for p in (p1, p2))
    o1, o2 = (out.logits.unlabelled.detach() for out in (one, two))
    expected = mean_cross_entropy(o1, y2, valid) + mean_cross_entropy(o2, y1, valid)
    assert found['loss_consistency'].item() == pytest.approx(expected, rel=1e-4)
    itself = mean_cross_entropy(o1, y1, valid) + mean_cross_entropy(o2, y2, valid)
    assert expected != pytest.approx(itself, rel=1e-4), 'its own labels would teach a network nothing'
    assert found['loss_seg'].item() == pytest.approx((one.losses['loss_seg'] + two.losses['loss_seg']).item())


@pytest.mark.slow
def test_networks_of_cps_start_apart_and_equal_ones_are_refused(monkeypatch):
    model = build('cps')
    weights = [
        dict(network.named_parameters())['decode_head.conv_seg.weight'] for network in (model.first, model.second)
    ]
    assert not torch.equal(*weights) and model.predict_on == 'first'

    def alike(self):
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.5)

    monkeypatch.setattr(type(model.first), 'init_weights', alike)
    with pytest.raises(ValueError, match='both networks of CPS start with the same weights'):
        build('cps')


@pytest.mark.trained
@pytest.mark.slow
def test_bcp_learns_every_region_by_itself(monkeypatch):
    model = build('bcp', **PLAIN, largest_component=False)
    steps(model, 4)
    box, teacher, passes = (
        spy_on(monkeypatch, *pair) for pair in ((model, 'draw_box'), (model, 'run_teacher'), (bcp, 'image_logits'))
    )
    data = views(9)
    found = run(model, data)
    inputs = model.data_preprocessor(data, training=True)['inputs']
    inside = box[0][1][0, 0]
    assert inside.float().mean().item() == pytest.approx((42 / 64) ** 2)
    (_, images), logits = passes[0]
    inward, outward = images.chunk(2)
    for i in range(3):
        for mixed, within, around in ((inward, 'sup', 'unsup_weak'), (outward, 'unsup_weak', 'sup')):
            assert torch.equal(mixed[i][:, inside], inputs[within][i][:, inside])
            assert torch.equal(mixed[i][:, ~inside], inputs[around][i][:, ~inside])
    truth = torch.cat([sample.gt_sem_seg.data for sample in data['data_samples']['sup']])
    valid = torch.stack([s.valid.data[0] for s in data['data_samples']['unsup_weak']])
    guess = prob_of(teacher[0][1]).argmax(1)
    first, second = logits.detach().chunk(2)

    def both(out, labels, region):
        dice = []
        p = out.double().softmax(1)[:, 1]
        for b in range(3):
            t = (labels[b] == 1).double()
            overlap, size = (region[b] * p[b] * t).sum(), (region[b] * (p[b] ** 2 + t)).sum()
            there = (region[b] & (labels[b] == 1)).any()  # no loss where there is no polyp
            dice.append(float(1 - (2 * overlap + 1) / (size + 1)) if there else 0)
        return mean_cross_entropy(out, labels, region) + sum(dice) / 3

    everywhere = torch.ones(3, SIDE, SIDE, dtype=torch.bool)
    known = both(first, truth, everywhere & inside) + both(second, truth, everywhere & ~inside)
    guessed = both(first, guess, valid & ~inside) + both(second, guess, valid & inside)
    assert found['loss_seg'].item() == pytest.approx(known, rel=1e-4)
    assert found['loss_consistency'].item() == pytest.approx(0.5 * guessed, rel=1e-4)


def test_bcp_pastes_labelled_images_into_each_other_during_the_warm_up(monkeypatch):
    model = build('bcp', **PLAIN)
    data = views(3)
    box = spy_on(monkeypatch, model, 'draw_box')
    seen = []
    joint = type(model).__mro__[1].supervised_loss
    monkeypatch.setattr(
        type(model).__mro__[1], 'supervised_loss', lambda self, x, s: seen.append((x, s)) or joint(self, x, s)
    )
    losses(model, data, 0)
    inside = box[0][1][0, 0]
    inputs = model.data_preprocessor(data, training=True)['inputs']['sup']
    truth = [sample.gt_sem_seg.data for sample in data['data_samples']['sup']]
    images, samples = seen[0]
    for i in range(3):
        assert torch.equal(images[i][:, inside], inputs[i - 1][:, inside])
        assert torch.equal(images[i][:, ~inside], inputs[i][:, ~inside])
        labels = samples[i].gt_sem_seg.data
        assert torch.equal(labels[:, inside], truth[i - 1][:, inside])
        assert torch.equal(labels[:, ~inside], truth[i][:, ~inside])


def test_the_largest_part_of_each_class_stays():
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    labels[0, :3, :3], labels[0, 6, 6], labels[0, 5, 0:2], labels[0, 7, 7] = 1, 1, 2, 255
    kept = bcp.largest_components(labels)
    assert kept[0, 6, 6] == 0, 'a stray pixel is none of the polyp'
    labels[0, 6, 6] = 0
    assert torch.equal(kept, labels)


# ------------------------------------------------------------------ all of them


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('classes', [2, 4])
@pytest.mark.parametrize('method', METHODS)
def test_it_trains_with_two_classes_and_with_four(method, classes):
    changes = {'segmentor.decode_head.num_classes': classes}
    if method not in ('cps', 'bcp'):
        changes['threshold'] = 1.05 / classes  # a network of a few iterations is sure of nothing
    model = build(method, **changes)
    history = steps(model, 10, classes)
    keys = {key for key in history[-1] if 'loss' in key}
    assert 'loss_consistency' in keys
    for key in keys:
        values = [step[key] for step in history[4:]]
        assert all(0 <= value < 100 for value in values) and max(values) > 0, (key, values)
    assert not any('loss_consistency' in step for step in history[:2]), 'the warm-up'
    learning = getattr(model, model.networks[0])
    assert all(parameter.grad is not None for parameter in learning.parameters())


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_a_plain_checkpoint_fills_every_network(method):
    plain, model = build('supervised'), build(method)
    load_state_dict(model, plain.state_dict())
    for network in model.networks:
        for name, value in plain.state_dict().items():
            assert torch.equal(getattr(model, network).state_dict()[name], value)


@pytest.mark.parametrize(
    ('method', 'changes', 'message'),
    [
        ('fixmatch', dict(threshold=1.0), 'threshold is 1.0'),
        ('fixmatch', dict(criterion='focal'), "criterion is 'focal'; allowed"),
        ('unimatch', dict(dropout=1.0), 'dropout is 1.0'),
        ('unimatch_v2', dict(threshold=-0.1), 'threshold is -0.1'),
        ('cps', dict(boxes=dict(count=0)), 'count=0'),
        ('bcp', dict(box=1.0), 'box is 1.0'),
    ],
)
def test_wrong_arguments_are_named(method, changes, message):
    with pytest.raises(ValueError, match=message):
        build(method, **changes)


def test_logits_of_images_are_those_of_the_network_and_have_a_gradient():
    model = build('fixmatch').student.eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    found = image_logits(model, images)
    meta = dict(ori_shape=(SIDE, SIDE), img_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE), padding_size=[0] * 4)
    torch.testing.assert_close(found, model.encode_decode(images, [meta] * 2))
    found.sum().backward()
    assert all(isinstance(p, nn.Parameter) and p.grad is not None for p in model.parameters())
