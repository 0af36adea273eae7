"""PSMT: its noise, its two teachers, its mixing, its loss."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from mmengine.structures import PixelData
from steps import SIDE, batch, build, losses, train
from torch import nn

from mmseg_acl.models.segmentors.psmt import confident_cross_entropy, feature_level
from mmseg_acl.models.semi.adversarial import AdversarialNoise, unit_length
from mmseg_acl.models.semi.ensemble import Ensemble
from mmseg_acl.models.semi.joint_pass import full_image_metas, joint_pass
from mmseg_acl.models.semi.mixing import CutMix, mix
from mmseg_acl.models.semi.rampup import cosine_rampup

PLAIN = {'segmentor.decode_head.dropout_ratio': 0}


def two_head() -> dict:
    """A cascade whose second head reads the first one's output."""
    head = dict(type='FCNHead', in_channels=4, in_index=2, channels=4, num_convs=1, num_classes=2)
    second = dict(head, type='OCRHead', ocr_channels=4)
    second.pop('num_convs')
    return {
        'segmentor.type': 'CascadeEncoderDecoder',
        'segmentor.num_stages': 2,
        'segmentor.decode_head': [dict(head, align_corners=False), dict(second, align_corners=False)],
    }


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


# ------------------------------------------------------------------ ramp and mixing


def test_cosine_rampup():
    assert cosine_rampup(-3, 100) == cosine_rampup(0, 100) == 0
    assert cosine_rampup(25, 100) == pytest.approx(0.5 - math.sqrt(0.5) / 2)
    assert cosine_rampup(50, 100) == pytest.approx(0.5)
    assert cosine_rampup(100, 100) == cosine_rampup(300, 100) == cosine_rampup(0, 0) == 1


@pytest.mark.slow
def test_cutmix_draws_the_share_from_a_beta_distribution():
    torch.manual_seed(0)
    cutmix = CutMix(prob=1.0, beta=(4, 4), aspect=(1.0, 1.0), stride=1)
    boxes = cutmix.draw(torch.zeros(2000, 3, 64, 64))
    share = boxes.float().mean(dim=(1, 2, 3))
    assert share.mean().item() == pytest.approx(0.5, abs=0.02)
    assert share.std().item() == pytest.approx(1 / 6, abs=0.02), 'variance ab / ((a + b)^2 (a + b + 1)) = 1 / 36'
    height, width = boxes[:, 0].any(2).sum(1), boxes[:, 0].any(1).sum(1)
    assert torch.equal(height, width) and share.max() < 1 and len(height.unique()) > 20


@pytest.mark.slow
def test_cutmix_moves_image_label_weight_and_valid_together_and_never_with_itself():
    torch.manual_seed(1)
    index = torch.arange(4.0)
    images = index.view(4, 1, 1, 1).expand(4, 3, 32, 32)
    prob = torch.stack([1 - index / 10, index / 10], 1).view(4, 2, 1, 1).expand(4, 2, 32, 32)
    valid = (index > 0).view(4, 1, 1).expand(4, 32, 32)
    boxes = CutMix(prob=1.0, beta=(4.0, 4.0), aspect=(1.0, 1.0), stride=1).draw(images)
    image, mixed, here = mix(images, boxes), mix(prob, boxes), mix(valid, boxes)
    for i in range(4):
        for y in range(32):
            for x in range(32):
                source = (i - 1) % 4 if boxes[i, 0, y, x] else i
                assert image[i, 0, y, x] == source
                assert mixed[i, 1, y, x] == pytest.approx(source / 10)
                assert here[i, y, x] == (source > 0)
        assert image[i].unique().numel() == 2, 'every image shows another one'


def test_cutmix_of_the_present_arguments_draws_what_it_always_did():
    """The draws, and what they leave of the generator, written out."""
    torch.manual_seed(5)
    boxes = CutMix(prob=0.7).draw(torch.zeros(6, 3, 64, 64))
    after = torch.rand(1)
    torch.manual_seed(5)
    expected = torch.zeros(6, 1, 64, 64, dtype=torch.bool)
    for i in range(6):
        chance, area, aspect, top, left = torch.rand(5).tolist()
        if chance >= 0.7:
            continue
        share, ratio = 0.1 + 0.3 * area, 0.5 * 4**aspect
        h, w = (max(1, min(round(math.sqrt(share * 4096 * r) / 8), 7)) * 8 for r in (ratio, 1 / ratio))
        y, x = (round(place * (64 - length) / 8) * 8 for place, length in ((top, h), (left, w)))
        expected[i, 0, y : y + h, x : x + w] = True
    assert torch.equal(boxes, expected) and boxes.any()
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize('beta', [(0, 4), (4, -1)])
def test_cutmix_refuses_a_beta_that_is_none(beta):
    with pytest.raises(ValueError, match=rf'CutMix beta is \({beta[0]}, {beta[1]}\)'):
        CutMix(beta=beta)


# ------------------------------------------------------------------ the noise


def tiny_head(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, classes, 1))
    return head.double().requires_grad_(False)


def divergence(clean: torch.Tensor, noisy: torch.Tensor, valid: torch.Tensor) -> float:
    """KL(clean || noisy) of one image's logits (C, H, W), pixel by pixel."""
    if len(clean) == 1:
        clean, noisy = (torch.cat([torch.zeros_like(x), x]) for x in (clean, noisy))
    total = 0.0
    for y, x in valid.nonzero().tolist():
        p, q = clean[:, y, x].softmax(0), noisy[:, y, x].softmax(0)
        total += sum((p[c] * (p[c].log() - q[c].log())).item() for c in range(len(p)))
    return total


@pytest.mark.parametrize('classes', [1, 2, 3])
def test_direction_is_that_of_a_finite_difference_gradient(classes):
    head, epsilon, xi = tiny_head(classes), 0.5, 0.02
    torch.manual_seed(3)
    feature = torch.randn(2, 2, 3, 3, dtype=torch.double)
    valid = torch.rand(2, 3, 3) > 0.3
    torch.manual_seed(7)
    noise = AdversarialNoise(epsilon, xi)(feature, head, valid)

    torch.manual_seed(7)
    start = torch.randn_like(feature)
    for i in range(2):
        length = feature[i].norm()
        d = xi * length * start[i] / start[i].norm()
        clean = head(feature)[i]
        gradient = torch.zeros_like(d).flatten()
        for k in range(gradient.numel()):
            values = []
            for h in (1e-5, -1e-5):
                bump = torch.zeros_like(gradient)
                bump[k] = h
                moved = head((feature[i] + d + bump.view_as(d))[None])[0]
                values.append(divergence(clean, moved, valid[i]))
            gradient[k] = (values[0] - values[1]) / 2e-5
        expected = (epsilon * length * gradient / gradient.norm()).view_as(d)
        torch.testing.assert_close(noise[i], expected, rtol=1e-5, atol=1e-6)


def test_noise_has_its_length_and_hurts_more_than_chance():
    head = tiny_head()
    torch.manual_seed(1)
    feature, valid = torch.randn(4, 2, 6, 6, dtype=torch.double), torch.ones(4, 6, 6, dtype=torch.bool)
    feature *= torch.tensor([0.5, 1, 1, 2]).view(4, 1, 1, 1)
    noise = AdversarialNoise(epsilon=0.05)(feature, head, valid)
    lengths = 0.05 * feature.flatten(1).norm(dim=1)
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), lengths)
    clean, chance = head(feature), lengths.view(4, 1, 1, 1) * unit_length(torch.randn_like(feature))
    for i in range(4):
        ours, theirs = (divergence(clean[i], head(feature + r)[i], valid[i]) for r in (noise, chance))
        assert ours > 2 * theirs


def test_direction_survives_single_precision_and_autocast():
    head = tiny_head()
    torch.manual_seed(1)
    feature, valid = torch.randn(2, 2, 16, 16, dtype=torch.double), torch.ones(2, 16, 16, dtype=torch.bool)
    drawn = torch.randn(2, 2, 16, 16)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, 'randn_like', lambda x: drawn.to(x))
        found['double'] = AdversarialNoise(1.0)(feature, head, valid)
        single = head.float()
        found['single'] = AdversarialNoise(1.0)(feature.float(), single, valid)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            found['autocast'] = AdversarialNoise(1.0)(feature.bfloat16(), single, valid)
    for name in ('single', 'autocast'):
        assert found[name].dtype == torch.float32
        cosine = (found[name] * found['double']).flatten(1).sum(1)
        assert (cosine > 0.999).all(), (name, cosine)


def test_nothing_to_change_gives_no_noise():
    feature = torch.randn(2, 2, 4, 4)
    everywhere = torch.ones(2, 4, 4, dtype=torch.bool)
    head = tiny_head(2).float()
    assert not AdversarialNoise()(feature, head, ~everywhere).any(), 'all padding'
    assert not AdversarialNoise()(feature, lambda x: 0 * head(x), everywhere).any(), 'all the same'
    sure = AdversarialNoise()(feature, lambda x: head(x) + torch.tensor([80.0, 0.0]).view(2, 1, 1), everywhere)
    assert torch.isfinite(sure).all(), 'gradients whose squares underflow'


@pytest.mark.parametrize(('wrong', 'message'), [(dict(epsilon=-1.0), 'epsilon is -1.0'), (dict(xi=0), 'xi is 0')])
def test_noise_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        AdversarialNoise(**wrong)


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('changes', [dict(), two_head()], ids=['plain', 'cascade'])
def test_noise_reaches_the_unlabelled_images_of_one_level_and_no_gradient_the_teachers(changes):
    model = build('psmt', **changes)
    train(model, 6)
    model.train()
    torch.manual_seed(0)
    features = [torch.randn(5, c, s, s, requires_grad=True) for c, s in ((16, 16), (8, 32), (4, 64))]
    perturbed = model.perturb(features, torch.ones(3, SIDE, SIDE, dtype=torch.bool))
    assert [x is y for x, y in zip(features, perturbed, strict=True)] == [True, True, False]
    noise = perturbed[2] - features[2]
    assert not noise[:2].any()
    lengths = 0.1 * features[2][2:].detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(noise[2:].flatten(1).norm(dim=1), lengths, rtol=1e-3, atol=0)
    perturbed[2].sum().backward()
    assert torch.equal(features[2].grad, torch.ones_like(features[2])), 'the noise is a constant to the student'
    assert all(p.grad is None for p in model.teacher.parameters())


@pytest.mark.slow
def test_joint_pass_lets_the_heads_see_what_perturb_returns():
    model = build('psmt', **PLAIN).student.eval()
    data = batch()
    samples = data['data_samples']['sup']
    images, others = torch.rand(3, 3, SIDE, SIDE), torch.rand(2, 3, SIDE, SIDE)
    seen = []

    def perturb(features):
        seen.append(len(features[2]))
        return [*features[:2], torch.cat([features[2][:3], 0 * features[2][3:]])]

    plain = joint_pass(model, images, samples, others)
    found = joint_pass(model, images, samples, others, perturb)
    assert seen == [5] and torch.equal(found.losses['loss_seg'], plain.losses['loss_seg'])
    assert torch.equal(found.logits.labelled, plain.logits.labelled)
    assert not torch.allclose(found.logits.unlabelled, plain.logits.unlabelled)
    assert torch.equal(*found.logits.unlabelled)


@pytest.mark.slow
def test_perturb_may_append_features_to_be_labelled_too():
    """A second, disturbed feature of each unlabelled image goes through the heads in the same pass."""
    model = build('psmt', **PLAIN).student.eval()
    samples = batch()['data_samples']['sup']
    images, others = torch.rand(3, 3, SIDE, SIDE), torch.rand(2, 3, SIDE, SIDE)
    plain = joint_pass(model, images, samples, others)
    found = joint_pass(model, images, samples, others, lambda levels: [torch.cat([x, 0.5 * x[3:]]) for x in levels])
    assert torch.equal(found.losses['loss_seg'], plain.losses['loss_seg'])
    first, second = found.logits.unlabelled.split(2)
    torch.testing.assert_close(first, plain.logits.unlabelled)
    assert second.shape == first.shape and not torch.allclose(second, first)
    assert len(found.encoded.unlabelled[2]) == 4


@pytest.mark.trained
@pytest.mark.slow
def test_the_level_is_the_last_that_the_decode_head_reads():
    model = build('psmt')
    assert model.level == 2
    assert build('psmt', **two_head()).level == 2
    several = build('psmt', **{
        'segmentor.decode_head.in_index': [0, 1, 2], 'segmentor.decode_head.in_channels': [16, 8, 4],
        'segmentor.decode_head.input_transform': 'resize_concat', 'segmentor.decode_head.type': 'FCNHead',
    })  # fmt: skip
    assert several.level == 2 and train(several, 5)[-1]['loss_consistency'] > 0
    head = model.student.decode_head
    head.__class__ = type('PIDHead', (type(head),), {})
    with pytest.raises(ValueError, match='PIDHead reads other features in training'):
        feature_level(model.student)
    head.__class__ = type(head).__mro__[1]
    del head.in_index
    with pytest.raises(ValueError, match='FCNHead has no in_index'):
        feature_level(model.student)


# ------------------------------------------------------------------ the teachers


@pytest.mark.slow
def test_teachers_are_copies_in_the_warmup_then_move_in_turn():
    """After every step each teacher's every entry against a plain average, of one teacher or of none."""
    model = build('psmt', warmup_iters=2, alternate_every=3, teacher_momentum=0.6)
    model.train()
    generator = torch.Generator().manual_seed(0)
    before = [{k: v.clone() for k, v in t.state_dict().items()} for t in model.teacher.members]
    for iteration in range(12):
        model.before_step(iteration)
        with torch.no_grad():
            for p in model.student.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
        model.after_step()
        step = iteration + 1 - 2  # of the semi-supervised phase
        decay = 0 if step <= 0 else min(1 - 1 / (step + 1), 0.6)
        for which, teacher in enumerate(model.teacher.members):
            moves = step <= 0 or (which == 0) == (step in (1, 2, 3, 7, 8, 9))
            for name, value in teacher.state_dict().items():
                if not value.is_floating_point():
                    continue
                expected = before[which][name]
                if moves:
                    expected = decay * expected + (1 - decay) * model.student.state_dict()[name]
                torch.testing.assert_close(value, expected)
                before[which][name] = value.clone()
        assert same(*model.teacher.members) == (step <= 0)


def test_teachers_start_alike_and_stay_frozen_in_eval():
    model = build('psmt')
    model.train()
    for teacher in model.teacher.members:
        assert same(teacher, model.student)
        assert not teacher.training and not any(m.training for m in teacher.modules())
        assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('changes', [dict(), {'segmentor.decode_head.out_channels': 1,
                                              'segmentor.decode_head.threshold': 0.5}])  # fmt: skip
def test_the_teacher_that_predicts_is_the_mean_of_both(changes):
    if changes:
        changes['segmentor.decode_head.loss_decode'] = [dict(type='CrossEntropyLoss', use_sigmoid=True)]
    model = build('psmt', **changes)
    train(model, 7)
    model.eval()
    assert model.networks == ('student', 'teacher') and model.predict_on == 'teacher'
    first, second = model.teacher.members
    assert not same(first, second)
    images = torch.rand(2, 3, SIDE, SIDE)
    logits = (first(images) + second(images)) / 2
    torch.testing.assert_close(model.run_teacher(images), logits)
    torch.testing.assert_close(model.teacher.decode(first.extract_feat(images), (SIDE, SIDE)),
                               (first(images) + second.decode_head(first.extract_feat(images))) / 2)  # fmt: skip
    labels = (logits.sigmoid()[:, 0] > 0.5) if changes else logits.argmax(1)
    samples = batch(2)['data_samples']['sup']
    for found in (model.predict(images), model.predict(images, samples)):
        assert torch.equal(torch.cat([x.pred_sem_seg.data for x in found]), labels.to(found[0].pred_sem_seg.data))
    raw = model(images, mode='tensor')
    assert len(raw) == len(model.extract_feat(images)) == 2 and torch.equal(raw[1], second(images))


@pytest.mark.slow
@pytest.mark.parametrize('load', [load_state_dict, lambda m, s: m.load_state_dict(s, strict=False)])
def test_a_plain_mmseg_checkpoint_fills_all_three(load):
    plain, model = build('supervised'), build('psmt')
    for value in plain.state_dict().values():
        if value.is_floating_point():
            value.add_(1)
    load(model, plain.state_dict())
    assert all(same(plain, network) for network in (model.student, *model.teacher.members))


@pytest.mark.trained
@pytest.mark.slow
def test_a_mean_teachers_checkpoint_fills_both_teachers():
    single, model = build('mean_teacher'), build('psmt')
    train(single, 5)
    model.load_state_dict(single.state_dict())
    assert all(same(single.teacher, teacher) for teacher in model.teacher.members)


@pytest.mark.trained
@pytest.mark.slow
def test_a_resumed_run_equals_an_unbroken_one():
    whole_run = build('psmt', alternate_every=3)
    train(whole_run, 6)
    resumed = build('psmt', alternate_every=3)
    resumed.load_state_dict(whole_run.state_dict())
    assert train(whole_run, 4, start=6) == train(resumed, 4, start=6)
    assert same(whole_run, resumed) and not same(*resumed.teacher.members)


# ------------------------------------------------------------------ the loss


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_confident_cross_entropy_against_loops(channels):
    torch.manual_seed(0)
    logits = torch.randn(2, channels, 4, 5, dtype=torch.double, requires_grad=True)
    prob = torch.randn(2, max(channels, 2), 4, 5, dtype=torch.double).mul(2).softmax(1)
    labels = prob.argmax(1).masked_fill(torch.rand(2, 4, 5) < 0.4, 255)
    total = kept = 0
    for b, y, x in (labels != 255).nonzero().tolist():
        row, target = logits[b, :, y, x].detach(), int(labels[b, y, x])
        row = torch.cat([torch.zeros(1), row]) if channels == 1 else row
        total += max(prob[b, :, y, x]).item() * (row.exp().sum().log() - row[target]).item()
        kept += 1
    assert confident_cross_entropy(logits, labels, prob).item() == pytest.approx(total / kept, rel=1e-6)
    nothing = confident_cross_entropy(logits, torch.full_like(labels, 255), prob)
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()


@pytest.mark.trained
@pytest.mark.slow
def test_the_loss_is_the_two_teachers_confident_labels_on_the_mixed_strong_view():
    """The whole way of the unlabelled images by hand, image by image, without noise; and that noise changes it."""
    model = build('psmt', noise=dict(epsilon=0.0), **PLAIN)
    train(model, 7)
    model.eval()  # BatchNorm then treats each image alone
    data = batch(seed=9)
    padded = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    padded[:, :20] = False
    data['data_samples']['unsup_weak'][1].valid = PixelData(data=padded)
    views = model.data_preprocessor(data, training=True)['inputs']
    model.threshold = model.run_teacher(views['unsup_weak']).softmax(1).amax(1).median().item()
    found = losses(model, data, iteration=5)
    torch.manual_seed(5)
    boxes = model.cutmix.draw(views['unsup_weak'])
    assert boxes.any()
    total = kept = count = 0.0
    for i in range(3):
        partner = (i - 1) % 3
        strong, prob, valid = [], [], []
        for j in (i, partner):
            weak = views['unsup_weak'][j : j + 1]
            with torch.no_grad():
                logits = (
                    sum(teacher.encode_decode(weak, full_image_metas(weak)) for teacher in model.teacher.members) / 2
                )
            prob.append(logits.softmax(1)[0])
            strong.append(views['unsup_strong'][j])
            valid.append(data['data_samples']['unsup_weak'][j].valid.data[0])
        box = boxes[i, 0]
        strong, prob = (torch.where(box, pair[1], pair[0]) for pair in (strong, prob))
        valid = torch.where(box, valid[1], valid[0])
        with torch.no_grad():
            log_prob = model.student.encode_decode(strong[None], full_image_metas(strong[None])).log_softmax(1)[0]
        confidence, labels = prob.max(0)
        use = valid & (confidence >= model.threshold)
        entropy = -log_prob.gather(0, labels[None])[0]
        total += (confidence * entropy)[use].sum().item()
        kept, count = kept + use.sum().item(), count + valid.sum().item()
    assert 0 < kept < count
    ramp = (1 - math.cos(math.pi * 3 / 4)) / 2
    assert found['loss_consistency'].item() == pytest.approx(1.5 * ramp * total / kept, rel=1e-4)
    assert found['kept_share'].item() == pytest.approx(kept / count)
    model.noise.epsilon = 1.0  # it changes the loss by more than two ways to compute it differ
    assert losses(model, data, iteration=5)['loss_consistency'].item() != pytest.approx(
        found['loss_consistency'].item(), rel=1e-4
    )


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('classes', [2, 4])
def test_losses_are_finite_not_zero_and_reach_the_student_only(classes):
    model = build('psmt', threshold=1 / classes, **{'segmentor.decode_head.num_classes': classes})
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.05)
    for iteration in range(8):
        model.train()
        data = batch(seed=iteration, classes=classes)
        if classes == 4:  # all four of them
            for sample in data['data_samples']['sup']:
                sample.gt_sem_seg.data[:, :16] = 1
                sample.gt_sem_seg.data[:, -16:] = 2
        found = losses(model, data, iteration)
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        assert all(p.grad is not None for p in model.student.parameters())
        optimizer.step()
        model.after_step()
        assert all(torch.isfinite(value) for value in found.values())
        expected = {'loss_seg', 'acc_seg'} | ({'loss_consistency', 'kept_share'} if iteration >= 2 else set())
        assert set(found) == expected
        if iteration > 2:
            assert 0 < found['loss_consistency'] < 10 and found['kept_share'] == 1
    assert all(p.grad is None for p in model.teacher.parameters())


@pytest.mark.trained
@pytest.mark.slow
def test_a_sigmoid_head_trains():
    head = {'segmentor.decode_head.out_channels': 1, 'segmentor.decode_head.threshold': 0.5,
            'segmentor.decode_head.loss_decode': [dict(type='CrossEntropyLoss', use_sigmoid=True)]}  # fmt: skip
    history = train(build('psmt', **head), 6)
    assert all(0 < step['loss_consistency'] < 10 for step in history[3:])


@pytest.mark.trained
@pytest.mark.slow
def test_labels_that_are_all_ignored_or_all_background_are_no_trouble():
    model = build('psmt', threshold=0.9999)
    train(model, 5)
    model.train()
    found = losses(model, batch(seed=5), 5)
    assert found['loss_consistency'] == 0 and found['kept_share'] == 0
    model.parse_losses(found)[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.student.parameters())

    for teacher in model.teacher.members:
        teacher.decode_head.conv_seg.weight.zero_()
        teacher.decode_head.conv_seg.bias.copy_(torch.tensor([200.0, 0.0]))
    found = losses(model, batch(seed=6), 6)
    assert found['kept_share'] == 1 and 0 < found['loss_consistency'] < 10

    data = batch(seed=7)
    for sample in data['data_samples']['unsup_weak']:
        sample.valid.data[:] = False
    found = losses(model, data, 7)
    assert found['loss_consistency'] == 0 and found['kept_share'] == 0


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(alternate_every=0), 'alternate_every is 0'),
        (dict(threshold=1.0), 'threshold is 1.0'),
        (dict(cutmix=dict(prob=2.0)), 'CutMix prob is 2.0'),
        (dict(noise=dict(xi=-1)), 'xi is -1'),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        build('psmt', **wrong)


@pytest.mark.trained
@pytest.mark.slow
def test_bfloat16_autocast_trains():
    model = build('psmt')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        history = train(model, 5)
    assert all(math.isfinite(v) for step in history for v in step.values()) and history[-1]['loss_consistency'] > 0


def test_an_ensemble_of_one_is_that_one():
    student = build('psmt').student.eval()
    images = torch.rand(1, 3, SIDE, SIDE)
    ours, theirs = Ensemble([student]).predict(images)[0], student.predict(images)[0]
    assert torch.equal(ours.seg_logits.data, theirs.seg_logits.data)
    assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)
