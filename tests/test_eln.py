"""ELN: its network and loss, its phases, who learns when and from what, and its pixel contrast."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from steps import SIDE, batch, build, losses

from mmseg_acl.models.heads.error_localization import ErrorLocalizationNetwork, error_localization_loss
from mmseg_acl.models.losses import label_loss
from mmseg_acl.models.segmentors.eln import class_logits, learns, pixel_contrast

FOUR = {'segmentor.decode_head.num_classes': 4}
SIGMOID = {
    'segmentor.decode_head.out_channels': 1,
    'segmentor.decode_head.threshold': 0.5,
    'segmentor.decode_head.loss_decode': [
        dict(type='CrossEntropyLoss', use_sigmoid=True),
        dict(type='PolypDiceLoss'),
    ],
}
STILL = {'segmentor.decode_head.dropout_ratio': 0}
LATE = 20  # an iteration of the last phase


def rich_batch(seed: int, classes: int) -> dict:
    """A batch in which every class has a quarter of each image, and can be told by its brightness."""
    data = batch(seed=seed)
    half = SIDE // 2
    mask = torch.zeros(SIDE, SIDE, dtype=torch.long)
    for k, (rows, columns) in enumerate([(0, 0), (0, half), (half, 0), (half, half)]):
        mask[rows : rows + half, columns : columns + half] = k % classes
    generator = torch.Generator().manual_seed(seed)

    def draw(turns):
        turned = mask.rot90(turns)
        image = 20 + 200 * turned / (classes - 1) + 10 * torch.randn(3, SIDE, SIDE, generator=generator)
        return image.clamp(0, 255).byte(), turned

    for i, sample in enumerate(data['data_samples']['sup']):
        data['inputs']['sup'][i], sample.gt_sem_seg.data = draw(seed + i)[0], draw(seed + i)[1][None]
        data['inputs']['unsup_weak'][i] = draw(seed + i + 1)[0]
        data['inputs']['unsup_strong'][i] = (255 - data['inputs']['unsup_weak'][i].float() * 0.5).byte()
    return data


def train(model, steps: int, classes: int, lr: float = 0.1) -> list[dict]:
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=lr, momentum=0.9)
    history = []
    for iteration in range(steps):
        model.train()
        found = losses(model, rich_batch(iteration, classes), iteration)
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        optimizer.step()
        model.after_step()
        history.append({key: float(value.detach()) for key, value in found.items()})
    return history


def views(model, data: dict):
    """The method's batch of a step."""
    return model.make_batch(**model.data_preprocessor(data, training=True))


# ------------------------------------------------------------------ the network and its loss


def test_the_network_judges_every_pixel_and_sends_nothing_back():
    network = ErrorLocalizationNetwork(num_classes=3, channels=8)
    images, logits = torch.rand(2, 3, 36, 44, requires_grad=True), torch.randn(2, 3, 36, 44, requires_grad=True)
    score = network(images, logits)
    assert score.shape == (2, 36, 44)
    score.sum().backward()
    assert logits.grad is None and all(p.grad is not None for p in network.parameters())


def test_the_network_sees_image_and_logits():
    network = ErrorLocalizationNetwork(num_classes=2, channels=8)
    images, logits = torch.rand(1, 3, 32, 32), torch.randn(1, 2, 32, 32)
    score = network(images, logits)
    for changed in (network(images.flip(1), logits), network(images, logits.flip(1))):
        assert not torch.allclose(changed, score)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(num_classes=1), 'num_classes is 1'),
        (dict(num_classes=2, channels=12), 'channels is 12; it must be a positive multiple of 8'),
        (dict(num_classes=2, stride=0), 'stride is 0'),
    ],
)
def test_the_network_names_a_wrong_argument(wrong, message):
    with pytest.raises(ValueError, match=message):
        ErrorLocalizationNetwork(**wrong)


def plain_loss(score, right, valid, groups=None):
    """Pixel by pixel, in float64."""
    groups = torch.zeros_like(valid, dtype=torch.long) if groups is None else groups
    total = count = 0
    for g in groups.unique().tolist():
        pixels = [
            (s, r)
            for s, r, k, own in zip(
                score.double().flatten().tolist(),
                right.flatten().tolist(),
                valid.flatten().tolist(),
                groups.flatten().tolist(),
                strict=True,
            )
            if k and own == g
        ]
        n_right = sum(r for _, r in pixels)
        ratio = max(n_right, 1) / max(len(pixels) - n_right, 1)
        for s, r in pixels:
            total += math.log1p(math.exp(-s)) if r else ratio * math.log1p(math.exp(s))
        count += len(pixels)
    return total / max(count, 1)


@pytest.mark.parametrize('accuracy', [0.8, 0.3, 1.0, 0.0])
@pytest.mark.parametrize('grouped', [False, True])
def test_wrong_pixels_weigh_as_much_as_right_ones(accuracy, grouped):
    torch.manual_seed(1)
    score = torch.randn(2, 9, 7, requires_grad=True)
    right, valid = torch.rand(2, 9, 7) < accuracy, torch.rand(2, 9, 7) < 0.7
    groups = torch.randint(3, (2, 9, 7)) if grouped else None
    found = error_localization_loss(score, right, valid, groups)
    assert found.item() == pytest.approx(plain_loss(score, right, valid, groups), rel=1e-5)
    found.backward()
    assert torch.isfinite(score.grad).all() and (score.grad[valid] != 0).all()
    assert (score.grad[~valid] == 0).all()


def test_both_sides_pull_equally():
    """At a score of 0 the gradients of right and wrong pixels cancel, however rare the wrong ones are."""
    score = torch.zeros(1, 10, 10, requires_grad=True)
    right = torch.ones(1, 10, 10, dtype=torch.bool)
    right[0, 0, :3] = False
    error_localization_loss(score, right, torch.ones_like(right)).backward()
    assert score.grad.sum().abs() < 1e-6
    assert score.grad[right].sum() < -0.1


def test_without_labels_there_is_nothing_to_learn():
    score = torch.randn(1, 4, 4, requires_grad=True)
    nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
    loss = error_localization_loss(score, ~nothing, nothing)
    loss.backward()
    assert loss == 0 and (score.grad == 0).all()


# ------------------------------------------------------------------ ELN's targets


@pytest.mark.slow
@pytest.mark.parametrize('balance', ['class', 'all'])
@pytest.mark.parametrize('changes', [{}, SIGMOID, FOUR], ids=['softmax', 'sigmoid', 'four'])
def test_eln_learns_where_student_and_poor_decoders_are_right(balance, changes):
    model = build('eln', balance=balance, **changes, **STILL)
    model.eval()  # BatchNorm and dropout at rest, so that the passes below see what the step saw
    data = rich_batch(3, classes=4 if changes is FOUR else 2)
    data['data_samples']['sup'][0].gt_sem_seg.data[:, :9] = 255
    found = losses(model, data, iteration=2)
    seen = views(model, data)
    features = model.student.extract_feat(seen.labelled)
    expected = 0
    for head in (model.student.decode_head, *model.auxiliary_decode_heads):
        logits = head(features)
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        truth = torch.cat([sample.gt_sem_seg.data for sample in seen.samples])
        labels = logits.argmax(dim=1)
        score = model.localization(seen.labelled, logits)
        groups = labels if balance == 'class' else None
        expected += plain_loss(score.detach(), labels == truth, truth != 255, groups)
    assert found['loss_eln'].item() == pytest.approx(expected, rel=1e-4)


# ------------------------------------------------------------------ the poor decoders


@pytest.mark.parametrize(('loss', 'answer'), [(2.9, False), (3.0, False), (3.1, True), (float('nan'), False)])
def test_a_decoder_learns_while_its_loss_is_above_its_ratio(loss, answer):
    assert learns(torch.tensor(loss), torch.tensor(1.5), 2.0) is answer


def test_decoders_start_differently_and_learn_only_under_their_condition():
    model = build('eln', decoder_ratios=(1.0, 1e6))
    weights = [head.conv_seg.weight for head in model.auxiliary_decode_heads]
    assert not torch.equal(*weights) and not torch.equal(weights[0], model.student.decode_head.conv_seg.weight)
    model.train()
    for head in model.auxiliary_decode_heads:
        head.conv_seg.weight.data *= 50  # worse than the student, not a million times worse
    found = losses(model, batch(), iteration=2)
    assert found['loss_decoders'] > found['loss_seg']
    found['loss_decoders'].backward()
    learning, waiting = model.auxiliary_decode_heads
    assert all(p.grad is not None and p.grad.any() for p in learning.conv_seg.parameters())
    assert all(p.grad is not None and not p.grad.any() for p in waiting.parameters())
    assert all(p.grad is None for p in model.student.parameters()), 'decoders must not disturb the encoder'


# ------------------------------------------------------------------ phases


SUPERVISED = {'loss_seg', 'acc_seg'}
LOCALIZING = SUPERVISED | {'loss_decoders', 'loss_eln', 'wrong_found', 'right_kept'}
TEACHING = LOCALIZING | {
    'loss_consistency_weak',
    'loss_consistency_strong',
    'loss_contrast',
    'kept_share',
    'foreground_share',
}


@pytest.mark.parametrize(('iteration', 'keys'), [(1, SUPERVISED), (2, LOCALIZING), (3, LOCALIZING), (4, TEACHING)])
def test_each_phase_has_its_losses_and_no_unused_parameter(iteration, keys):
    model = build('eln', warmup_iters=2, eln_iters=2)
    model.train()
    found = losses(model, batch(), iteration)
    assert set(found) == keys
    assert all(torch.isfinite(value).all() for value in found.values())
    model.parse_losses(found)[0].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.slow
def test_warmup_teaches_the_student_what_plain_training_teaches():
    model, plain = build('eln'), build('supervised')
    model.eval()
    plain.load_state_dict(model.student.state_dict())
    plain.eval()
    data = batch(seed=2)
    found = losses(model, data, iteration=0)
    seen = views(model, data)
    expected = plain.loss(seen.labelled, seen.samples)
    torch.testing.assert_close(found['loss_seg'], expected['decode.loss_ce'] + expected['decode.loss_dice'])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['loss_eln', 'loss_consistency_weak', 'loss_consistency_strong', 'loss_contrast'])
def test_each_loss_reaches_what_it_is_for(name):
    model = build('eln', threshold=1e-6)
    model.train()
    model.teacher.decode_head.conv_seg.weight.data *= 1000  # so that the teacher sees both classes
    found = losses(model, batch(), iteration=LATE)
    assert found['kept_share'] == 1 and 0 < found['foreground_share'] < 1
    found[name].backward()
    reached = {
        part
        for part in ('student.backbone', 'student.decode_head.conv_seg', 'localization', 'projector')
        for key, parameter in model.named_parameters()
        if key.startswith(f'{part}.') and parameter.grad is not None and parameter.grad.any()
    }
    expected = dict(loss_eln={'localization'}, loss_contrast={'student.backbone', 'projector'})
    assert reached == expected.get(name, {'student.backbone', 'student.decode_head.conv_seg'})
    teachers = [*model.teacher.parameters(), *model.projector_teacher.parameters()]
    assert all(parameter.grad is None for parameter in [*teachers, *model.auxiliary_decode_heads.parameters()])


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'classes'), [({}, 2), (SIGMOID, 2), (FOUR, 4)], ids=['softmax', 'sigmoid', 'four']
)
def test_no_loss_stays_zero_and_the_projectors_teacher_follows(changes, classes):
    model = build('eln', warmup_iters=8, eln_iters=8, **changes)
    history = train(model, 24, classes)
    assert all(math.isfinite(value) for step in history for value in step.values())
    for key in TEACHING:
        assert any(step.get(key, 0) > 0 for step in history), key
    ours, theirs = model.projector_teacher.state_dict(), model.projector.state_dict()
    assert all(not torch.equal(ours[key], theirs[key]) for key in ours)


# ------------------------------------------------------------------ pseudo-labels


@pytest.mark.slow
def test_labels_are_the_teachers_where_eln_says_right():
    model = build('eln', threshold=0.6)
    model.eval()
    model.localization.classifier.weight.data *= 20
    classifier = model.teacher.decode_head.conv_seg
    classifier.weight.data *= 1000
    seen = views(model, rich_batch(1, classes=2))
    seen.valid[1, :, 40:] = False
    with torch.no_grad():
        logits = model.run_teacher(seen.weak)
        classifier.bias.data[0] += (logits[:, 1] - logits[:, 0]).median()  # as many of one class as of the other
        found = model.pseudo_labels(seen)
        logits = model.teacher.encode_decode(seen.weak, [dict(img_shape=(SIDE, SIDE))] * 3)
        score = model.localization(seen.weak, logits)
    expected = torch.full((3, SIDE, SIDE), 255)
    for i in range(3):
        for y in range(SIDE):
            for x in range(SIDE):
                right = 1 / (1 + math.exp(-score[i, y, x].item())) >= 0.6
                if right and not (i == 1 and x >= 40):
                    expected[i, y, x] = int(logits[i, 1, y, x] > logits[i, 0, y, x])
    assert torch.equal(found, expected)
    assert all((found == label).sum() > 100 for label in (0, 1, 255))


@pytest.mark.slow
@pytest.mark.parametrize('bias', [-50.0, 50.0], ids=['nothing kept', 'all kept, all background'])
def test_labels_without_a_polyp_or_without_any_are_harmless(bias):
    model = build('eln')
    model.train()
    model.localization.classifier.bias.data.fill_(bias)
    model.teacher.decode_head.conv_seg.bias.data = torch.tensor([50.0, -50.0])
    found = losses(model, batch(), iteration=LATE)
    assert found['kept_share'] == (bias > 0) and found['foreground_share'] == 0
    assert found['loss_contrast'] == 0
    assert (found['loss_consistency_weak'] > 0) == (found['loss_consistency_strong'] > 0) == (bias > 0)
    model.parse_losses(found)[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
def test_padding_never_counts():
    model = build('eln', threshold=1e-6)
    model.train()
    data = batch()
    for sample in data['data_samples']['unsup_weak']:
        sample.valid.data[:] = False
    found = losses(model, data, iteration=LATE)
    assert (
        found['loss_consistency_weak']
        == found['loss_consistency_strong']
        == found['loss_contrast']
        == found['kept_share']
        == 0
    )


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_label_loss_is_the_mean_over_labels_that_were_kept(channels):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, channels, 5, 6), torch.randint(max(channels, 2), (2, 5, 6))
    labels[torch.rand(2, 5, 6) < 0.3] = 255
    prob = class_logits(logits).double().softmax(dim=1)
    kept = (labels != 255).nonzero().tolist()
    expected = -sum(math.log(prob[b, labels[b, y, x], y, x]) for b, y, x in kept) / len(kept)
    assert label_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_the_two_channels_of_a_sigmoid_head_are_its_probabilities():
    logits = torch.randn(2, 1, 3, 3)
    torch.testing.assert_close(class_logits(logits).softmax(dim=1)[:, 1], logits[:, 0].sigmoid())


# ------------------------------------------------------------------ contrast


def all_pairs(anchors, anchor_labels, keys, key_labels, tau):
    """The mean over every positive of every anchor, in float64."""
    anchors, keys = F.normalize(anchors.double(), dim=1), F.normalize(keys.double(), dim=1)
    classes = []
    for c in sorted(set(key_labels.tolist()) - {255}):
        terms = []
        for anchor, label in zip(anchors, anchor_labels.tolist(), strict=True):
            if label != c:
                continue
            similarity = [
                (math.exp(float(anchor @ key) / tau), own) for key, own in zip(keys, key_labels.tolist(), strict=True)
            ]
            negative = sum(value for value, own in similarity if own not in (c, 255))
            positives = [value for value, own in similarity if own == c]
            terms.append(sum(-math.log(p / (p + negative)) for p in positives) / len(positives))
        if terms:
            classes.append(sum(terms) / len(terms))
    return sum(classes) / len(classes)


@pytest.mark.slow
@pytest.mark.parametrize('classes', [2, 4])
def test_contrast_is_in_expectation_the_mean_over_all_pairs(classes):
    torch.manual_seed(3)
    anchors, keys = torch.randn(40, 6), torch.randn(30, 6)
    anchor_labels, key_labels = torch.randint(classes, (40,)), torch.randint(classes, (30,))
    anchor_labels[:5], key_labels[:5] = 255, 255
    expected = all_pairs(anchors, anchor_labels, keys, key_labels, tau=0.5)
    draws = [pixel_contrast(anchors, anchor_labels, keys, key_labels, 0.5).item() for _ in range(300)]
    assert sum(draws) / 300 == pytest.approx(expected, rel=0.01)


def test_contrast_has_one_positive_an_anchor_where_keys_of_a_class_agree():
    torch.manual_seed(4)
    anchors, labels = torch.randn(12, 5), torch.arange(12) % 3
    keys = torch.randn(3, 5)[labels]
    found = pixel_contrast(anchors, labels, keys, labels, 0.5)
    assert found.item() == pytest.approx(all_pairs(anchors, labels, keys, labels, 0.5), rel=1e-5)


def test_contrast_of_one_class_is_a_zero_that_reaches_the_keys():
    keys = torch.randn(8, 4, requires_grad=True)
    labels = torch.tensor([0] * 5 + [255] * 3)
    loss = pixel_contrast(torch.randn(8, 4), labels, keys, labels, 0.5)
    loss.backward()
    assert loss == 0 and (keys.grad == 0).all()


@pytest.mark.parametrize(('side', 'size', 'crops'), [(12, 32, 1), (12, 12, 1), (12, 5, 8)])
def test_crops_hold_the_same_pixels_of_anchors_keys_and_labels(side, size, crops, monkeypatch):
    """Every pixel carries its own index as its vector, so that what is contrasted can be told."""
    seen = []
    model = build('eln', num_crops=8, crop_size=size)
    monkeypatch.setattr(
        'mmseg_acl.models.segmentors.eln.pixel_contrast',
        lambda a, la, k, lk, tau: seen.append((a, la, k, lk)) or a.sum(),
    )
    index = torch.arange(3.0 * side * side).view(3, 1, side, side)
    labels = (torch.arange(3 * side * side).view(3, side, side) % 7).repeat_interleave(4, 1).repeat_interleave(4, 2)
    strong = 1000 + index
    found = model.contrast(index, torch.cat([index, strong]), labels)
    assert len(seen) == 2 * crops
    for number, (anchors, anchor_labels, keys, key_labels) in enumerate(seen):
        assert len(keys) == 3 * min(size, side) ** 2
        assert torch.equal(keys, anchors + 1000 * (number % 2)), 'weak and strong view by turns'
        assert torch.equal(key_labels, anchors[:, 0].long() % 7) and torch.equal(anchor_labels, key_labels)
    assert found == sum(anchors.sum() for anchors, *_ in seen) / crops, 'the views are added'


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(decoder_ratios=()), r'decoder_ratios is \(\)'),
        (dict(decoder_ratios=(2.0, 0.5)), r'decoder_ratios is \(2.0, 0.5\).*none below 1'),
        (dict(balance='pixel'), "balance is 'pixel'; allowed are 'class' and 'all'"),
        (dict(threshold=1.0), r'threshold is 1.0'),
        (dict(eln_iters=0), 'eln_iters is 0; it must be a whole number of iterations of at least 1'),
        (dict(num_crops=0), 'num_crops is 0'),
        (dict(crop_size=0), 'crop_size is 0'),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        build('eln', **wrong)
