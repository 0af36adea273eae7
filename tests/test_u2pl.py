"""U2PL: entropy and its percentiles, banks of unequal sizes, negatives, anchors, and short runs."""

from __future__ import annotations

import math
from collections import deque
from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from steps import SIDE, batch, build, losses, train

from mmseg_acl.models.segmentors.u2pl import negative_pixels, reliable_loss
from mmseg_acl.models.semi.entropy import drop_share, entropy, quantile, reliable_pixels
from mmseg_acl.models.semi.memory_bank import MemoryBank
from mmseg_acl.models.semi.mixing import mix

FOUR = {'segmentor.decode_head.num_classes': 4, 'bank_size': 32}
SIGMOID = {
    'segmentor.decode_head.out_channels': 1,
    'segmentor.decode_head.loss_decode': [dict(type='CrossEntropyLoss', use_sigmoid=True)],
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def bands(seed: int) -> dict:
    """A batch whose images show four classes, as bands of growing brightness."""
    data = batch(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name in ('sup', 'unsup_weak'):
        for i, sample in enumerate(data['data_samples'][name]):
            shift = int(torch.randint(SIDE, (), generator=generator))
            mask = (torch.arange(SIDE) * 4 // SIDE).roll(shift).expand(SIDE, SIDE)
            image = 30 + 60 * mask + 15 * torch.randn(3, SIDE, SIDE, generator=generator)
            data['inputs'][name][i] = image.clamp(0, 255).byte()
            if name == 'sup':
                sample.gt_sem_seg = PixelData(data=mask[None].clone())
            else:
                data['inputs']['unsup_strong'][i] = (255 - image.clamp(0, 255) * 0.5).byte()
    return data


def ready(**changes):
    """A tiny model after six steps."""
    model = build('u2pl', **changes)
    train(model, 6)
    return model


# ------------------------------------------------------------------ entropy


def test_entropy_is_that_of_the_loops():
    prob = torch.rand(2, 3, 4, 5, dtype=torch.float64).softmax(1)
    prob[0, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    found = entropy(prob)
    for b in range(2):
        for y in range(4):
            for x in range(5):
                p = prob[b, :, y, x].tolist()
                assert found[b, y, x].item() == pytest.approx(-sum(v * math.log(v) for v in p if v > 0), abs=1e-12)
    assert found[0, 0, 0] == 0


@pytest.mark.parametrize('count', [1, 2, 7, 1000])
@pytest.mark.parametrize('share', [0.0, 0.31, 0.8, 1.0])
def test_quantile_is_numpys(count, share):
    values = torch.rand(count, dtype=torch.float64)
    assert quantile(values, share).item() == pytest.approx(np.quantile(values.numpy(), share), abs=1e-12)


@pytest.mark.slow
def test_quantile_takes_maps_that_torch_refuses():
    values = torch.arange(2**24 + 5, dtype=torch.int32).flip(0).float()
    with pytest.raises(RuntimeError, match='too large'):
        torch.quantile(values, 0.75)
    assert quantile(values, 0.75).item() == pytest.approx(0.75 * (2**24 + 4), abs=2)


def test_the_most_uncertain_valid_pixels_are_unreliable():
    uncertainty, valid = torch.rand(2, 10, 10, dtype=torch.float64), torch.rand(2, 10, 10) > 0.3
    uncertainty[~valid] = 9.0  # padding has no say in the threshold
    threshold = np.quantile(uncertainty[valid].numpy(), 0.8)
    expected = [v and u <= threshold for u, v in zip(uncertainty.flatten(), valid.flatten(), strict=True)]
    reliable = reliable_pixels(uncertainty, valid, drop=0.2)
    assert reliable.flatten().tolist() == [bool(e) for e in expected]
    assert (valid & ~reliable).sum() == pytest.approx(0.2 * valid.sum().item(), abs=1)


@pytest.mark.parametrize('drop', [0.0, 0.2])
def test_nothing_is_lost_without_need(drop):
    valid = torch.rand(2, 6, 6) > 0.3
    assert torch.equal(reliable_pixels(torch.ones(2, 6, 6), valid, drop), valid), 'a constant map'
    assert torch.equal(reliable_pixels(torch.rand(2, 6, 6), valid, 0.0), valid)
    assert not reliable_pixels(torch.rand(2, 6, 6), torch.zeros_like(valid), drop).any(), 'padding alone'


@pytest.mark.slow
def test_the_share_falls_linearly_to_nothing():
    assert [drop_share(step, 100, 0.2) for step in (0, 25, 50, 100, 120)] == pytest.approx([0.2, 0.15, 0.1, 0, 0])
    model = build('u2pl')
    shares = []
    for iteration in (2, 4, 8):
        found = losses(model, batch(), iteration)
        shares.append(1 - found['reliable_share'].item())
    assert shares == pytest.approx([0.15, 0.1, 0], abs=1e-3)


# ------------------------------------------------------------------ the bank


def test_rings_of_unequal_sizes_are_first_in_first_out():
    sizes = (3, 7, 1)
    bank = MemoryBank(num_classes=3, size=sizes, dim=4)
    rings = [deque(maxlen=size) for size in sizes]
    for _ in range(20):
        count = int(torch.randint(0, 12, ()))
        keys, labels = torch.randn(count, 4), torch.randint(0, 3, (count,))
        bank.enqueue(keys, labels)
        for key, label in zip(keys, labels, strict=True):
            rings[label].append(key / key.norm())
        for label, ring in enumerate(rings):
            stored = bank.ring(label)
            if len(ring) == sizes[label]:
                stored = stored.roll(-int(bank.cursor[label]), 0)
            assert len(stored) == len(ring)
            if ring:
                torch.testing.assert_close(stored, torch.stack(list(ring)))


def test_one_size_is_the_same_as_equal_sizes():
    one, each = MemoryBank(2, 5, 3), MemoryBank(2, (5, 5), 3)
    keys, labels = torch.randn(9, 3), torch.tensor([0, 1, 0, 0, 0, 0, 0, 0, 1])
    one.enqueue(keys, labels)
    each.enqueue(keys, labels)
    assert one.keys.shape == (2, 5, 3)
    for name, value in one.state_dict().items():
        assert torch.equal(value, each.state_dict()[name]), name


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match='3 sizes are given for 2 rings'):
        MemoryBank(2, (3, 3, 3), 4)
    with pytest.raises(ValueError, match='size is 0'):
        MemoryBank(2, (3, 0), 4)


# ------------------------------------------------------------------ the rule


@pytest.mark.parametrize(('classes', 'ranks'), [(2, (1, 2)), (4, (2, 4)), (6, (1, 3)), (21, (3, 20))])
def test_negatives_are_those_of_the_loops(classes, ranks):
    prob = torch.randn(5, classes, 6, 7).softmax(1)
    truth = torch.randint(0, classes, (2, 6, 7))
    truth[torch.rand(truth.shape) < 0.2] = 255
    unreliable = torch.rand(3, 6, 7) > 0.5
    found = negative_pixels(prob, truth, unreliable, ranks)
    for b in range(5):
        for y in range(6):
            for x in range(7):
                order = sorted(range(classes), key=lambda c: -prob[b, c, y, x].item())
                for c in range(classes):
                    rank = order.index(c)
                    if b < 2:
                        label = truth[b, y, x].item()
                        expected = label not in (c, 255) and rank < ranks[0]
                    else:
                        expected = bool(unreliable[b - 2, y, x]) and ranks[0] <= rank < ranks[1]
                    assert found[b, c, y, x].item() == expected
    assert found[:2].any() and found[2:].any()


@pytest.mark.parametrize(('classes', 'expected'), [(2, (1, 2)), (4, (2, 4)), (21, (3, 20))])
def test_ranks_follow_the_number_of_classes(classes, expected):
    model = build('u2pl', **{'segmentor.decode_head.num_classes': classes, 'bank_size': 4})
    assert model.ranks == expected


@pytest.mark.parametrize('classes', [2, 4])
def test_contrast_is_that_of_the_loops(classes):
    """All anchors, and rings of one key, so that nothing is left to chance."""
    changes = {'segmentor.decode_head.num_classes': classes, 'bank_size': 1, 'num_anchors': 1000}
    model = build('u2pl', **changes).double()
    count, dim, (h, w) = model.student_tap.channels, 16, (4, 5)
    feature = torch.randn(5, count, h, w, dtype=torch.float64)
    keys = torch.randn(5, dim, h, w, dtype=torch.float64)
    prob = (2 * torch.randn(5, classes, h, w, dtype=torch.float64)).softmax(1)
    truth, labels = torch.randint(0, classes, (2, h, w)), prob[2:].argmax(1)
    truth[:, 0] = 255
    unreliable = torch.rand(3, h, w) > 0.6
    labels[unreliable] = 255
    found = model.contrast(feature, keys, prob, truth, labels, unreliable)

    def cosine(a, b):
        return (a @ b / (a.norm() * b.norm())).item()

    query = model.projector(feature)
    everything = torch.cat([truth, labels])
    pixels = [(b, y, x) for b in range(5) for y in range(h) for x in range(w)]
    low, high = model.ranks
    total, present = 0.0, 0
    for c in range(classes):
        ring, anchors = [], []
        for b, y, x in pixels:
            rank = sorted(range(classes), key=lambda k: -prob[b, k, y, x].item()).index(c)
            if b < 2 and everything[b, y, x] not in (c, 255) and rank < low:
                ring.append(keys[b, :, y, x])
            if b >= 2 and unreliable[b - 2, y, x] and low <= rank < high:
                ring.append(keys[b, :, y, x])
            if everything[b, y, x] == c and prob[b, c, y, x] > 0.3:
                anchors.append((b, y, x))
        if not ring or not anchors:
            continue
        positive = sum(keys[b, :, y, x] for b, y, x in anchors) / len(anchors)
        loss = 0.0
        for b, y, x in anchors:
            like = math.exp(cosine(query[b, :, y, x], positive) / 0.5)
            unlike = 5 * math.exp(cosine(query[b, :, y, x], ring[-1]) / 0.5)
            loss -= math.log(like / (like + unlike))
        total, present = total + loss / len(anchors), present + 1
    assert present > 1 and found.item() == pytest.approx(total / present, rel=1e-6)


def test_at_most_so_many_anchors_a_class_go_through_the_projector():
    model = build('u2pl')
    seen = []
    model.projector.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    prob = torch.tensor([0.9, 0.1])[None, :, None, None].repeat(4, 1, 8, 8)
    prob[:, :, :4] = prob[:, [1, 0], :4]
    labels = prob.argmax(1)
    labels[2:, 2:6] = 255
    wrong = 1 - labels[:2]  # every labelled pixel is mistaken for the other class: negatives, no anchors
    feature, keys = torch.randn(4, model.student_tap.channels, 8, 8), torch.randn(4, 16, 8, 8)
    assert model.contrast(feature, keys, prob, wrong, labels[2:], labels[2:] == 255) > 0
    assert seen == [16, 16] and model.bank.fill.tolist() == [64, 32]


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_reliable_pixels_weigh_the_more_the_fewer_they_are(channels):
    logits = torch.randn(2, channels, 5, 6, dtype=torch.float64)
    valid = torch.ones(2, 5, 6, dtype=torch.bool)
    valid[:, :, 4:] = False
    labels = torch.randint(0, max(channels, 2), (2, 5, 6)).masked_fill(~valid, 255)
    labels[:, :2] = 255
    scores = torch.cat([torch.zeros_like(logits), logits], 1) if channels == 1 else logits
    error = kept = 0
    for b in range(2):
        for y in range(5):
            for x in range(6):
                if labels[b, y, x] != 255:
                    error -= scores[b, :, y, x].log_softmax(0)[labels[b, y, x]].item()
                    kept += 1
    assert kept == 24 and valid.sum() == 40
    assert reliable_loss(logits, labels, valid).item() == pytest.approx(error / kept * 40 / kept)


@pytest.mark.trained
@pytest.mark.slow
def test_what_the_teacher_gives_out_is_mixed_as_the_images_are():
    """With labels that follow from colours, the student's image and its label stay together under the boxes."""
    model = ready(**{'cutmix.prob': 1.0})
    seen = {}
    model.run_teacher = lambda images: torch.stack([images.mean(1), -images.mean(1)], 1).detach()
    model.teacher_tap.pop = lambda: torch.zeros(6, model.student_tap.channels, SIDE, SIDE)
    run_student = model.run_student
    model.run_student = lambda b, strong: seen.update(strong=strong) or run_student(b, strong)
    model.contrast = lambda feature, keys, prob, *rest: seen.update(prob=prob, labels=rest[1]) or feature.sum()
    data = batch(seed=3)
    data['inputs']['unsup_strong'] = data['inputs']['unsup_weak']
    losses(model, data, iteration=8)  # nothing is dropped any more
    centres = seen['strong'][..., 4::8, 4::8]
    expected = torch.stack([centres.mean(1), -centres.mean(1)], 1).softmax(1)
    torch.testing.assert_close(seen['prob'][3:], expected)
    assert torch.equal(seen['labels'], expected.argmax(1))
    boxes = model.cutmix.draw(torch.zeros(3, 3, SIDE, SIDE))
    x = torch.rand(5, 2, 8, 8)
    mixed = model._mix_unlabelled(x, boxes)
    assert boxes.any() and torch.equal(mixed[:2], x[:2]) and torch.equal(mixed[2:], mix(x[2:], boxes))


# ------------------------------------------------------------------ short runs


def check_run(model, batches) -> None:
    """Six steps after the warm-up: every loss above zero and finite, no ring of the bank empty."""
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.05, momentum=0.9)
    warmup = model.warmup_iters
    for iteration in range(warmup + 6):
        model.train()
        found = losses(model, batches(iteration), iteration)
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        optimizer.step()
        model.after_step()
        values = {key: value.item() for key, value in found.items() if 'loss' in key}
        names = {'loss_seg'} if iteration < warmup else {'loss_seg', 'loss_consistency', 'loss_contrast'}
        assert values.keys() == names and all(0 < value < 100 for value in values.values()), (iteration, values)
    assert (model.bank.fill > 0).all(), model.bank.fill
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('changes', [{}, SIGMOID], ids=['softmax', 'sigmoid'])
def test_two_classes_train(changes):
    check_run(build('u2pl', **changes), lambda seed: batch(seed=seed))


@pytest.mark.trained
@pytest.mark.slow
def test_four_classes_train():
    # Longer on labels alone: a teacher near to uniform lifts no class above the anchors' threshold.
    check_run(build('u2pl', **FOUR, warmup_iters=12, total_iters=24), bands)


@pytest.mark.trained
@pytest.mark.slow
def test_the_contrast_reaches_the_student_and_its_projector_alone():
    model = ready()
    model.zero_grad()
    losses(model, batch(seed=7), 6)['loss_contrast'].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.projector.parameters())
    assert next(model.student.backbone.parameters()).grad.abs().sum() > 0
    assert model.student.decode_head.conv_seg.weight.grad is None
    for teacher in (model.teacher, model.projector_teacher):
        assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.trained
@pytest.mark.slow
def test_the_projectors_are_a_pair_of_student_and_teacher():
    model = build('u2pl')
    for ours, theirs in zip(model.projector_teacher.parameters(), model.projector.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    train(model, 6)
    model.train()
    assert not model.projector_teacher.training and model.projector.training
    for ours, theirs in zip(model.projector_teacher.parameters(), model.projector.parameters(), strict=True):
        assert not torch.equal(ours, theirs)


@pytest.mark.slow
def test_padding_and_unknown_labels_alone_are_finite_and_reach_every_parameter():
    model = build('u2pl')
    data = batch()
    for sample in data['data_samples']['sup']:
        sample.gt_sem_seg.data[:] = 255
    for sample in data['data_samples']['unsup_weak']:
        sample.valid.data[:] = False
    found = losses(model, data, 4)
    assert found['loss_consistency'] == 0 and found['loss_contrast'] == 0 and not model.bank.fill.any()
    model.parse_losses(found)[0].backward()
    for module in (model.student, model.projector):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.trained
@pytest.mark.slow
def test_background_alone_is_finite():
    model = ready()
    data = batch()
    for sample in data['data_samples']['sup']:
        sample.gt_sem_seg.data[:] = 0
    model.teacher.decode_head.conv_seg.bias.data[:] = torch.tensor([50.0, -50.0])
    found = losses(model, data, 6)
    assert all(torch.isfinite(value).all() for value in found.values()) and found['loss_consistency'] > 0


@pytest.mark.trained
@pytest.mark.slow
def test_a_resumed_run_equals_an_unbroken_one():
    model = ready()
    state = deepcopy(model.state_dict())
    assert {'bank.keys', 'bank.fill', 'bank.cursor'} < state.keys() and any('projector_teacher' in k for k in state)
    resumed = build('u2pl')
    resumed.load_state_dict(state)
    assert train(model, 2, start=6) == train(resumed, 2, start=6)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.trained
@pytest.mark.slow
def test_bfloat16_autocast_trains():
    model = build('u2pl')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        history = train(model, 5)
    assert all(0 < history[-1][key] < 100 for key in ('loss_seg', 'loss_consistency', 'loss_contrast'))


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(total_iters=0), 'total_iters is 0'),
        (dict(num_anchors=0), 'num_anchors is 0'),
        (dict(num_negatives=0), 'num_negatives is 0'),
        (dict(drop=1.0), r'drop is 1.0; it must be in \[0, 1\)'),
        (dict(anchor_threshold=-0.1), 'anchor_threshold is -0.1'),
        (dict(tau=0.0), 'tau is 0.0'),
        (dict(ranks=(3, 20)), r'ranks is \(3, 20\) with 2 classes'),
        (dict(ranks=(1, 1)), r'ranks is \(1, 1\)'),
        (dict(bank_size=0), 'size is 0'),
        (dict(bank_size=(4, 4, 4)), '3 sizes are given for 2 rings'),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        build('u2pl', **wrong)
