"""AEL: its confidence bank, what it pastes, which pixels it keeps, and the method as a whole."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from steps import SIDE, batch, build, losses, train

from mmseg_acl.models.semi import confidence_bank
from mmseg_acl.models.semi.confidence_bank import ConfidenceBank
from mmseg_acl.models.semi.objects import class_pixels, component_boxes, object_boxes
from mmseg_acl.models.semi.pseudo_label import IGNORE, probabilities

FOUR = {'segmentor.decode_head.num_classes': 4}
SIGMOID = {'segmentor.decode_head.out_channels': 1, 'segmentor.decode_head.loss_decode.0.use_sigmoid': True}
NO_PASTING = dict(paste_prob=0.0, box_prob=0.0)


def random_maps(seed: int, classes: int = 4, shape=(3, 12, 10)) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (B, C, H, W) in float64 and labels (B, H, W) of which some are unknown."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape[0], classes, *shape[1:], generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.2] = IGNORE
    return logits.softmax(dim=1), labels


def four_discs(seed: int) -> dict:
    """A batch in which the labelled discs are of classes 1, 2 and 3, bright by class."""
    data = batch(seed=seed)
    for i, sample in enumerate(data['data_samples']['sup']):
        mask = sample.gt_sem_seg.data
        data['inputs']['sup'][i] = (mask * 60 * (i + 1) + 20).expand(3, -1, -1).byte()
        sample.gt_sem_seg.data = mask * (i + 1)
    return data


# ------------------------------------------------------------------ the confidence bank


def test_bank_is_the_moving_average_of_the_true_class_probability():
    bank, expected, updates = ConfidenceBank(4, momentum=0.6), [0.0] * 4, [0] * 4
    for step in range(5):
        prob, labels = random_maps(step)
        labels[labels == 3] = 0 if step < 2 else 3  # class 3 turns up late
        labels[labels == 1] = 1 if step % 2 == 0 else IGNORE  # class 1 is missing in between
        bank.update(prob, labels)
        for c in range(4):
            found = [prob[b, c, y, x].item() for b, y, x in np.ndindex(3, 12, 10) if labels[b, y, x] == c]
            if found:
                updates[c] += 1
                decay = min(1 - 1 / updates[c], 0.6)
                expected[c] = decay * expected[c] + (1 - decay) * sum(found) / len(found)
        assert bank.confidence.tolist() == pytest.approx(expected, rel=1e-5)
        assert bank.updates.tolist() == updates
    assert updates == [5, 3, 5, 3]


def test_bank_without_any_label_keeps_what_it_has():
    bank = ConfidenceBank(4)
    prob, labels = random_maps(0)
    bank.update(prob, labels)
    before = bank.confidence.clone()
    bank.update(prob, torch.full_like(labels, IGNORE))
    assert torch.equal(bank.confidence, before) and bank.confidence.isfinite().all()


def test_bank_is_the_same_on_all_ranks(monkeypatch):
    """Two ranks of three images agree on the confidences that one rank of six has."""
    parts = [random_maps(seed) for seed in (1, 2)]
    whole = ConfidenceBank(4)
    whole.update(*(torch.cat(pair) for pair in zip(*parts, strict=True)))

    sent = []
    monkeypatch.setattr(confidence_bank, 'all_reduce', lambda totals: sent.append(totals.clone()))
    for part in parts:
        ConfidenceBank(4).update(*part)
    monkeypatch.setattr(confidence_bank, 'all_reduce', lambda totals: totals.copy_(sum(sent)))
    for part in parts:
        bank = ConfidenceBank(4)
        bank.update(*part)
        torch.testing.assert_close(bank.confidence, whole.confidence)


@pytest.mark.parametrize(('gamma', 'floor'), [(1.0, 0.0), (2.0, 0.1), (0.0, 0.5)])
def test_rates_follow_their_formulas(gamma, floor):
    bank = ConfidenceBank(4)
    bank.confidence.copy_(torch.tensor([0.99, 0.8, 0.4, 0.7]))
    weakness = [1 - s for s in (0.99, 0.8, 0.4, 0.7)]
    keep = [max((w / max(weakness)) ** gamma, floor) for w in weakness]
    assert bank.keep_rates(gamma, floor).tolist() == pytest.approx(keep, rel=1e-4)
    for power in (1.0, 0.5):
        exponentials = [0, *(np.exp(w**power) for w in weakness[1:])]
        expected = [e / sum(exponentials) for e in exponentials]
        assert bank.class_rates(power).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_fresh_and_a_perfect_bank_have_finite_rates():
    bank = ConfidenceBank(2)
    assert bank.keep_rates(1.0, 0.5).tolist() == [1, 1] and bank.class_rates().tolist() == [0, 1]
    bank.confidence.fill_(1)
    assert bank.keep_rates(1.0, 0.5).tolist() == [0.5, 0.5] and bank.class_rates().tolist() == [0, 1]


# ------------------------------------------------------------------ what is pasted


def flood(mask: np.ndarray) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Pixels and box of every 8-connected component, by walking from pixel to pixel."""
    left, found = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}, []
    while left:
        front = [left.pop()]
        pixels = list(front)
        while front:
            y, x = front.pop()
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            front += near
            pixels += near
        ys, xs = zip(*pixels, strict=True)
        found.append((len(pixels), (min(ys), min(xs), max(ys) + 1, max(xs) + 1)))
    return found


def box_of(mask: torch.Tensor) -> tuple[int, int, int, int] | None:
    """The box that a (1, H, W) mask is, or None where it is empty."""
    ys, xs = torch.nonzero(mask[0], as_tuple=True)
    if not len(ys):
        return None
    box = int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1
    assert mask[0, box[0] : box[2], box[1] : box[3]].all() and mask.sum() == (box[2] - box[0]) * (box[3] - box[1])
    return box


def test_component_boxes_agree_with_a_flood_fill():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.1, 0.3, 1.0):
        mask = rng.random((20, 31)) < density
        for least in (1, 3):
            expected = sorted(box for pixels, box in flood(mask) if pixels >= least)
            assert sorted(component_boxes(mask, least)) == expected


def test_the_pasted_box_is_that_of_an_object_of_the_partner():
    labels = torch.zeros(3, 20, 30, dtype=torch.long)
    labels[0, 2:9, 4:12] = 1
    labels[0, 15:18, 20:25] = 1
    labels[0, 19, 29] = 1  # too small for an object
    labels[1, 5:8, 5:25] = 2
    labels[1, 10:20, :10] = IGNORE
    rates = torch.tensor([0.0, 0.5, 0.5])
    seen = [set(), set(), set()]
    for seed in range(20):
        torch.manual_seed(seed)
        for i, mask in enumerate(object_boxes(labels, rates, 1.0, min_area=0.005)):
            seen[i].add(box_of(mask))
    # the partner of image i is i - 1; the last image has no object, so the first gets no box
    assert seen == [{None}, {(2, 4, 9, 12), (15, 20, 18, 25)}, {(5, 5, 8, 25)}]


@pytest.mark.slow
def test_classes_are_drawn_by_their_rates_among_those_the_partner_has():
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    labels[:, 0, :], labels[:, 3, :], labels[:, 6, :] = 1, 2, 3
    torch.manual_seed(0)
    boxes, pixels = Counter(), Counter()
    rates = torch.tensor([0.0, 0.2, 0.8, 0.0, 0.9])  # class 3 is never chosen, class 4 is not there
    for _ in range(300):
        for mask in object_boxes(labels, rates, 0.5, min_area=0.0):
            boxes[box_of(mask)] += 1
        for mask in class_pixels(labels, rates, 0.5):
            pixels[box_of(mask)] += 1
    for counts in (boxes, pixels):
        assert set(counts) == {None, (0, 0, 1, 8), (3, 0, 4, 8)}
        assert abs(counts[None] - 300) < 60
        assert abs(counts[3, 0, 4, 8] - 0.8 * (600 - counts[None])) < 40


def test_copy_paste_moves_image_and_label_together_and_changes_nothing_it_was_given():
    model = build('ael', paste_prob=1.0, **FOUR)
    data = model.data_preprocessor(four_discs(seed=3), training=True)
    before = model.make_batch(data['inputs'], data['data_samples'])
    truth = [sample.gt_sem_seg.data.clone() for sample in before.samples]
    truth[1][:, :4] = IGNORE
    before.samples[1].gt_sem_seg = PixelData(data=truth[1].clone())
    images = before.labelled.clone()
    after = model.copy_paste(before)
    for i in range(3):
        partner = truth[i - 1]
        pasted = (partner > 0) & (partner != IGNORE)
        assert pasted.any() and not torch.equal(truth[i], partner)
        assert torch.equal(after.samples[i].gt_sem_seg.data, torch.where(pasted, partner, truth[i]))
        assert torch.equal(after.labelled[i], torch.where(pasted, images[i - 1], images[i]))
        assert torch.equal(before.samples[i].gt_sem_seg.data, truth[i])
        assert after.samples[i].metainfo == before.samples[i].metainfo
    assert torch.equal(before.labelled, images)


def test_the_mixed_unlabelled_images_are_learned_with_the_partners_labels(monkeypatch):
    """Where the box of the partner's object shows, strong view, teacher and valid map are the partner's."""
    model = build('ael', box_prob=1.0, paste_prob=0.0)
    data = model.data_preprocessor(batch(seed=1), training=True)
    step = model.make_batch(data['inputs'], data['data_samples'])
    step.valid[1, :, :6] = False
    logits = torch.zeros(6, 2, SIDE, SIDE)
    logits[:, 0] = 2.0
    logits[3, 1, 10:20, 30:45] = 5.0  # the teacher sees one polyp, in the first unlabelled image
    monkeypatch.setattr(model, 'run_teacher', lambda images: logits)
    seen = {}
    run, consistency = model.run_student, model.consistency

    def watched(logits, prob, valid):
        seen.setdefault('consistency', (prob, valid))  # the first call is that of the unlabelled images
        return consistency(logits, prob, valid)

    monkeypatch.setattr(model, 'run_student', lambda b, x: (seen.update(strong=x), run(b, x))[1])
    monkeypatch.setattr(model, 'consistency', watched)
    model.before_step(5)
    found = model.semi_supervised_loss(step)
    (prob, valid), strong, expected = seen['consistency'], seen['strong'], probabilities(logits)[3:]
    for i in range(3):
        box = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        if i == 1:
            box[10:20, 30:45] = True
        assert torch.equal(strong[i], torch.where(box, step.strong[i - 1], step.strong[i]))
        assert torch.equal(prob[i], torch.where(box, expected[i - 1], expected[i]))
        assert torch.equal(valid[i], torch.where(box, step.valid[i - 1], step.valid[i]))
    assert found['boxes'].item() == pytest.approx(1 / 3)


# ------------------------------------------------------------------ the loss


@pytest.mark.parametrize('classes', [2, 4, 1])
def test_consistency_is_the_sampled_and_weighted_cross_entropy(classes):
    changes = {2: {}, 4: FOUR, 1: SIGMOID}[classes]
    model = build('ael', gamma=1.5, min_keep=0.3, threshold=0.7, weight_power=2.0, **changes)
    model.bank.confidence.copy_(torch.tensor([0.97, 0.6, 0.3, 0.8])[: max(classes, 2)])
    prob, labels = random_maps(5, max(classes, 2))
    valid = labels != IGNORE
    logits = torch.randn(3, classes, 12, 10, dtype=torch.float64)
    torch.manual_seed(7)
    found = model.consistency(logits.float(), prob.float(), valid)

    torch.manual_seed(7)
    draws = torch.rand(3, 12, 10)
    weakness = [1 - s for s in model.bank.confidence.double().tolist()]
    total = norm = 0.0
    for b, y, x in np.ndindex(3, 12, 10):
        p, z = prob[b, :, y, x].tolist(), logits[b, :, y, x].tolist()
        c = max(range(len(p)), key=p.__getitem__)
        keep = max((weakness[c] / max(weakness)) ** 1.5, 0.3)
        if not valid[b, y, x] or draws[b, y, x] >= keep:
            continue
        norm += p[c] ** 2
        if p[c] >= 0.7:
            exponentials = np.exp(z if classes > 1 else [0, *z])
            total -= p[c] ** 2 * np.log(exponentials[c] / exponentials.sum())
    assert found.item() == pytest.approx(total / norm, rel=1e-4)


def test_padding_has_no_say():
    model = build('ael')
    prob, _ = random_maps(2, 2)
    valid = torch.ones(3, 12, 10, dtype=torch.bool)
    valid[0, :, 6:] = False
    found = []
    for seed in (1, 2):
        other = random_maps(seed, 2)[0]
        logits = torch.where(valid[:, None], prob.logit(), other.logit())
        torch.manual_seed(0)
        found.append(model.consistency(logits, torch.where(valid[:, None], prob, other), valid))
    assert torch.equal(*found) and found[0] > 0


def test_nothing_to_learn_from_is_a_loss_of_zero_with_a_gradient():
    model = build('ael', threshold=0.7)
    for prob, valid in ((0.5, True), (1.0, False)):
        logits = torch.randn(2, 2, 8, 8, requires_grad=True)
        target = torch.stack([torch.full((2, 8, 8), prob), torch.full((2, 8, 8), 1 - prob)], dim=1)
        loss = model.consistency(logits, target, torch.full((2, 8, 8), valid))
        loss.backward()
        assert loss == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


# ------------------------------------------------------------------ the method


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('changes', [{}, SIGMOID])
def test_losses_are_finite_not_zero_and_reach_the_student_only(changes):
    model = build('ael', **changes)
    history = train(model, 8)[2:]
    for key in ('loss_seg', 'loss_consistency', 'loss_consistency_labelled'):
        assert all(0 < step[key] < 100 for step in history), key
    assert {key for key in history[-1] if 'loss' not in key} == {'acc_seg', 'boxes', 'weakest_class'}
    assert any(step['boxes'] > 0 for step in history)
    assert all(p.grad is not None for p in model.student.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())
    assert (model.bank.updates == 6).all() and (model.bank.confidence > 0).all()


@pytest.mark.trained
@pytest.mark.slow
def test_four_classes_train_and_fill_the_bank():
    model = build('ael', **FOUR)
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.05)
    for iteration in range(8):
        found = losses(model, four_discs(seed=iteration), iteration)
        assert all(torch.isfinite(value).all() for value in found.values())
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        optimizer.step()
        model.after_step()
        if iteration >= 2:
            assert found['loss_consistency'] > 0 and found['loss_consistency_labelled'] > 0
    assert (model.bank.confidence > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize('label', [0, IGNORE])
def test_images_without_any_object_stay_finite(label, monkeypatch):
    model = build('ael')
    data = batch(seed=0)
    for sample in data['data_samples']['sup']:
        sample.gt_sem_seg.data = torch.full_like(sample.gt_sem_seg.data, label)
    for sample in data['data_samples']['unsup_weak']:
        sample.valid.data[:] = label == 0
    background = torch.tensor([4.0, -4.0]).view(1, 2, 1, 1)
    monkeypatch.setattr(model, 'run_teacher', lambda images: background.expand(len(images), 2, SIDE, SIDE))
    found = losses(model, data, iteration=5)
    assert all(torch.isfinite(value).all() for value in found.values()) and found['boxes'] == 0
    assert (found['loss_consistency'] > 0) == (found['loss_consistency_labelled'] > 0) == (label == 0)
    model.parse_losses(found)[0].backward()
    assert all(p.grad.isfinite().all() for p in model.student.parameters())


def test_a_single_image_of_each_kind_trains():
    model = build('ael')
    data = batch(images=1)
    assert losses(model, data, iteration=5)['loss_consistency'] > 0


@pytest.mark.trained
@pytest.mark.slow
def test_a_resumed_run_equals_an_unbroken_one():
    """Bank, counters and teacher travel in the state dict; the rest follows from the iteration."""
    whole = build('ael')
    train(whole, 4)
    state = deepcopy(whole.state_dict())
    assert {'bank.confidence', 'bank.updates'} <= state.keys()
    resumed = build('ael')
    resumed.load_state_dict(state)
    for model in (whole, resumed):
        train(model, 3, start=4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.trained
@pytest.mark.slow
def test_bfloat16_autocast_trains():
    model = build('ael')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        history = train(model, 5)
    assert all(0 < h['loss_consistency'] < 100 for h in history[2:])
    assert model.bank.confidence.dtype == torch.float32


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(threshold=1.0), r'threshold is 1.0; it must be in \[0, 1\)'),
        (dict(min_keep=1.5), r'min_keep is 1.5; it is a probability, within \[0, 1\]'),
        (dict(box_prob=-0.1), 'box_prob is -0.1'),
        (dict(paste_prob=2), 'paste_prob is 2'),
        (dict(gamma=-1), 'gamma is -1; this exponent must not be negative'),
        (dict(bank_momentum=1.0), r'bank momentum is 1.0; it must be in \[0, 1\)'),
        (dict(min_area=1.0), 'min_area is 1.0'),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        build('ael', **wrong)
