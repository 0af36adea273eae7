"""Teacher, mixing, feature tap, joint pass, pseudo-labels, losses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_acl.models.losses import PolypDiceLoss, affinity_loss, pseudo_label_loss, soft_dice_loss
from mmseg_acl.models.semi.feature_tap import FeatureTap
from mmseg_acl.models.semi.joint_pass import joint_pass, slice_batch, sum_losses
from mmseg_acl.models.semi.mixing import CutMix, mix
from mmseg_acl.models.semi.pseudo_label import hard_labels, mean_dice, probabilities
from mmseg_acl.models.semi.rampup import sigmoid_rampup
from mmseg_acl.models.semi.teacher import ema_decay, ema_update, freeze

HEAD = dict(in_channels=8, in_index=0, channels=6, num_classes=2, align_corners=False)


def tiny_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


# ------------------------------------------------------------------ teacher


def test_ema_averages_parameters_and_float_buffers_and_copies_integers():
    torch.manual_seed(0)
    student, teacher = tiny_net().double(), freeze(tiny_net().double())
    student(torch.rand(2, 3, 8, 8, dtype=torch.double))  # moves running statistics and the batch count
    before = copy.deepcopy(teacher.state_dict())
    ema_update(teacher, student, 0.7)
    theirs = student.state_dict()
    for name, value in teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.7 * before[name] + 0.3 * theirs[name])
        else:
            assert int(value) == int(theirs[name]) == 1
    assert not torch.equal(teacher[1].running_mean, student[1].running_mean)


def test_decay_zero_is_a_hard_copy():
    student, teacher = tiny_net(), freeze(tiny_net())
    ema_update(teacher, student, 0.0)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, student.state_dict()[name])


def test_decay_warms_up_from_a_copy_through_the_mean_to_the_momentum():
    assert ema_decay(-5, 0.99) == ema_decay(0, 0.99) == 0
    assert ema_decay(1, 0.99) == 0.5
    assert ema_decay(98, 0.99) == pytest.approx(1 - 1 / 99)
    assert ema_decay(10_000, 0.99) == 0.99


def test_ema_of_different_modules_names_the_difference():
    with pytest.raises(ValueError, match=r"1 entries, first '2.bias'"):
        ema_update(nn.Sequential(*tiny_net()[:2], nn.Conv2d(4, 2, 1, bias=False)), tiny_net(), 0.5)


def test_sigmoid_rampup():
    assert sigmoid_rampup(0, 100) == pytest.approx(math.exp(-5))
    assert sigmoid_rampup(50, 100) == pytest.approx(math.exp(-1.25))
    assert sigmoid_rampup(100, 100) == sigmoid_rampup(300, 100) == sigmoid_rampup(0, 0) == 1


# ------------------------------------------------------------------ mixing


def test_cutmix_moves_images_labels_validity_and_features_alike():
    torch.manual_seed(3)
    index = torch.arange(4.0).view(4, 1, 1, 1)
    images, labels = index.expand(4, 3, 64, 64), index[:, 0].expand(4, 64, 64)
    features = index.expand(4, 5, 8, 8)
    boxes = CutMix(prob=1.0, stride=8).draw(images)
    mixed, mixed_labels, mixed_features = (mix(x, boxes) for x in (images, labels, features))
    assert torch.equal(mixed[:, 0], mixed_labels)
    # On the feature's grid the very same pixels come from the partner, since boxes are snapped to the stride.
    assert torch.equal(mixed_features[:, 0].repeat_interleave(8, 1).repeat_interleave(8, 2), mixed_labels)
    for i in range(4):
        partner = (i - 1) % 4
        assert set(mixed_labels[i].unique().tolist()) == {float(i), float(partner)}, 'never with itself'
        share = boxes[i].float().mean().item()
        assert 0.02 < share < 0.6
        ys, xs = boxes[i, 0].nonzero().T
        assert boxes[i].sum() == (ys.max() - ys.min() + 1) * (xs.max() - xs.min() + 1), 'one box'


def test_cutmix_probability_and_batch_of_one():
    images = torch.zeros(400, 3, 32, 32)
    torch.manual_seed(0)
    share = CutMix(prob=0.5).draw(images).flatten(1).any(1).float().mean().item()
    assert 0.4 < share < 0.6
    assert not CutMix(prob=0.0).draw(images).any()
    assert not CutMix(prob=1.0).draw(images[:1]).any(), 'one image has no partner'


@pytest.mark.parametrize('wrong', [dict(prob=1.5), dict(area=(0.5, 0.2)), dict(area=(0.0, 0.2))])
def test_cutmix_refuses(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values()))).replace('(', r'\(').replace(')', r'\)')):
        CutMix(**wrong)


def test_mix_refuses_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match='64x64 cannot be laid over a map of 7x7'):
        mix(torch.zeros(2, 1, 7, 7), torch.zeros(2, 1, 64, 64, dtype=torch.bool))


# ------------------------------------------------------------------ pseudo-labels


def test_probabilities_of_softmax_and_sigmoid_heads_agree():
    logit = torch.randn(2, 1, 4, 4)
    two = torch.cat([torch.zeros_like(logit), logit], dim=1)
    torch.testing.assert_close(probabilities(logit), probabilities(two))


def test_hard_labels_ignore_the_unsure_and_the_padding():
    p = torch.tensor([[0.9, 0.6, 0.2, 0.45]]).view(1, 1, 2, 2)
    valid = torch.tensor([[[True, True, False, True]]]).view(1, 2, 2)
    labels = hard_labels(torch.cat([1 - p, p], 1), valid, threshold=0.58)
    assert labels.flatten().tolist() == [1, 1, 255, 255]
    assert hard_labels(torch.cat([1 - p, p], 1), valid).flatten().tolist() == [1, 1, 255, 0]


@pytest.mark.parametrize('classes', [2, 3])
def test_mean_dice_against_loops(classes):
    torch.manual_seed(1)
    prob = torch.rand(2, classes + 1, 6, 6).softmax(1)
    prob[:, -1] = 0  # a class that is never predicted and never there has no say
    target, valid = torch.randint(0, classes, (2, 6, 6)), torch.rand(2, 6, 6) > 0.3
    target[0, 0] = 255
    dice = []
    for label in range(1, classes):
        both = total = 0
        for b, y, x in valid.nonzero().tolist():
            predicted, actual = prob[b, :, y, x].argmax() == label, target[b, y, x] == label
            both += bool(predicted and actual)
            total += bool(predicted) + bool(actual)
        dice.append(200 * both / total)
    assert mean_dice(prob, target, valid).item() == pytest.approx(sum(dice) / len(dice))
    empty = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert mean_dice(empty, torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)) == 100


# ------------------------------------------------------------------ losses (Eqs 12 and 14)


def reference_dice(prob, target, weight, smooth):
    """Loops over images, classes and pixels."""
    batch, classes, height, width = prob.shape
    found = []
    for b in range(batch):
        for c in range(1, classes):
            overlap = total = 0.0
            for y in range(height):
                for x in range(width):
                    w, p, t = (v.item() for v in (weight[b, y, x], prob[b, c, y, x], target[b, c, y, x]))
                    overlap += w * p * t
                    total += w * (p * p + t * t)
            found.append(1 - (2 * overlap + smooth) / (total + smooth))
    return sum(found) / len(found)


@pytest.mark.parametrize('classes', [2, 4])
def test_soft_dice_against_loops(classes):
    torch.manual_seed(0)
    prob = torch.rand(2, classes, 5, 4, dtype=torch.double).softmax(1).requires_grad_()
    target = torch.rand(2, classes, 5, 4, dtype=torch.double).softmax(1)
    weight = torch.rand(2, 5, 4, dtype=torch.double)
    expected = reference_dice(prob, target, weight, 1.0)
    assert soft_dice_loss(prob, target, weight).item() == pytest.approx(expected, abs=1e-12)
    assert torch.autograd.gradcheck(lambda p: soft_dice_loss(p, target, weight), prob)


def test_dice_loss_counts_what_mmseg_hides():
    target = torch.zeros(1, 40, 40, dtype=torch.long)
    target[0, 10:20, 10:20] = 1  # a polyp of 6 %
    nothing = torch.stack([torch.full((1, 40, 40), 20.0), torch.full((1, 40, 40), -20.0)], 1)
    perfect = torch.stack([20.0 - 40 * target, 40.0 * target - 20], 1)
    loss = PolypDiceLoss()
    assert loss(nothing, target) > 0.98, 'a missed polyp costs nearly everything'
    half = target.clone()
    half[:, :, :15] = 255
    assert loss(perfect, half) < 1e-6, 'ignored pixels cost nothing'
    assert loss(nothing, torch.zeros_like(target)) < 1e-6, 'no polyp and none predicted'
    single = perfect[:, 1:] - perfect[:, :1]
    torch.testing.assert_close(loss(single, half), loss(perfect, half))


def test_classes_that_are_absent_have_no_dice_loss():
    torch.manual_seed(1)
    prob = torch.rand(3, 3, 5, 4, dtype=torch.double).softmax(1).requires_grad_()
    labels = torch.zeros(3, 5, 4, dtype=torch.long)
    labels[0, :2], labels[0, 2:4], labels[1, 1:3] = 1, 2, 1  # both, the first alone, none
    labels[1, 0, 0] = 2
    target = F.one_hot(labels, 3).movedim(-1, 1).double()
    weight = torch.rand(3, 5, 4, dtype=torch.double)
    weight[1, 0, 0] = 0  # what is ignored is absent
    found = soft_dice_loss(prob, target, weight)
    present = [(0, 1), (0, 2), (1, 1)]
    expected = sum(
        reference_dice(prob[b : b + 1, [0, c]], target[b : b + 1, [0, c]], weight[b : b + 1], 1.0) for b, c in present
    )
    assert found.item() == pytest.approx(expected / 6, abs=1e-12)
    (gradient,) = torch.autograd.grad(found, prob)
    assert {(b, c) for b, c, *_ in gradient.nonzero().tolist()} == set(present)

    logits = torch.randn(2, 2, 5, 4)
    half = labels[:2].clamp(max=1)
    half[1] = 0
    assert PolypDiceLoss()(logits, half * 0) == 0
    torch.testing.assert_close(PolypDiceLoss()(logits, half), PolypDiceLoss()(logits[:1], half[:1]) / 2)


@pytest.mark.parametrize('weighted', [False, True])
def test_pseudo_label_loss_against_loops_and_with_nothing_to_learn(weighted):
    torch.manual_seed(2)
    logits = torch.randn(2, 2, 5, 5, dtype=torch.double, requires_grad=True)
    prob = torch.rand(2, 2, 5, 5, dtype=torch.double).softmax(1)
    labels = hard_labels(prob, torch.rand(2, 5, 5) > 0.3)
    valid = labels != 255
    weight = torch.rand(2, 5, 5, dtype=torch.double) if weighted else None
    total = count = 0.0
    for b, y, x in valid.nonzero().tolist():
        row = logits[b, :, y, x]
        share = weight[b, y, x].item() if weighted else 1.0
        total += share * (row.exp().sum().log() - row[labels[b, y, x]]).item()
        count += share
    expected = total / count + reference_dice(logits.softmax(1), prob, valid.double(), 1.0)
    assert pseudo_label_loss(logits, prob, labels, weight).item() == pytest.approx(expected, rel=1e-6)
    single = (logits[:, 1:] - logits[:, :1]).detach()
    assert pseudo_label_loss(single, prob, labels, weight).item() == pytest.approx(expected, rel=1e-6)

    ignored = torch.full_like(labels, 255)
    loss = pseudo_label_loss(logits, prob, ignored, weight)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


# ------------------------------------------------------------------ feature tap and joint pass


class Stem(nn.Module):
    """A backbone with one feature map at half size."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        return (self.net(x),)


if 'TestStem' not in MODELS:
    MODELS.register_module(name='TestStem', module=Stem)


def segmentor(kind: str = 'FCNHead', cascade: bool = False, aux: bool = False) -> nn.Module:
    norm = dict(type='BN')
    head = dict(HEAD, type=kind, norm_cfg=norm, num_convs=1, dropout_ratio=0.5)
    config = dict(type='EncoderDecoder', backbone=dict(type='TestStem'), decode_head=head)
    if cascade:
        second = dict(HEAD, type='OCRHead', ocr_channels=4, norm_cfg=norm, dropout_ratio=0.5)
        config.update(type='CascadeEncoderDecoder', num_stages=2, decode_head=[head, second])
    if aux:
        config['auxiliary_head'] = dict(head)
    torch.manual_seed(0)
    return MODELS.build(dict(config, train_cfg={}, test_cfg=dict(mode='whole')))


def labelled(count: int = 2) -> list[SegDataSample]:
    torch.manual_seed(4)
    masks = torch.randint(0, 2, (count, 1, 16, 16))
    return [SegDataSample(gt_sem_seg=PixelData(data=m), metainfo=dict(img_shape=(16, 16))) for m in masks]


def test_tap_catches_before_dropout_and_only_inside_its_context():
    model = segmentor()
    tap, images = FeatureTap(model), torch.rand(2, 3, 16, 16)
    model.train()
    with pytest.raises(RuntimeError, match='with tap'):
        tap.pop()
    with tap:
        logits = model(images)
    feature = tap.pop()
    assert feature.shape == (2, tap.channels, 8, 8) and tap.channels == 6
    assert not torch.allclose(model.decode_head.conv_seg(feature), logits), 'the logits saw dropout'
    model.eval()
    with tap:
        logits = model(images)
    torch.testing.assert_close(model.decode_head.conv_seg(tap.pop()), logits)
    model(images)
    with pytest.raises(RuntimeError):
        tap.pop()


def test_tap_on_a_stage_of_the_backbone():
    model, images = segmentor().train(), torch.rand(2, 3, 16, 16)
    statistics = model.backbone.net[1].running_mean.clone()
    tap = FeatureTap(model, 0)
    assert tap.channels == 8 and model.backbone.training
    assert torch.equal(model.backbone.net[1].running_mean, statistics), 'asking for channels changes nothing'
    with tap:
        model(images)
    torch.testing.assert_close(tap.pop(), model.backbone(images)[0])
    for wrong in (1, -1, 'neck'):
        with pytest.raises(ValueError, match='the source of features is'):
            FeatureTap(model, wrong)


def test_tap_refuses_a_head_without_classifier():
    model = segmentor()
    model.decode_head.conv_seg = nn.Identity()
    with pytest.raises(ValueError, match='FCNHead has no conv_seg'):
        FeatureTap(model)


@pytest.mark.parametrize('shape', [dict(), dict(aux=True), dict(cascade=True), dict(cascade=True, aux=True)])
def test_joint_pass_equals_mmsegs_own_losses_and_logits(shape):
    """In eval mode batch composition does not matter, so two passes of mmseg must give the same."""
    model, samples = segmentor(**shape).eval(), labelled()
    sup, other = torch.rand(2, 3, 16, 16), torch.rand(3, 3, 16, 16)
    losses, logits, encoded, _ = joint_pass(model, sup, samples, other)
    plain = model.loss(sup, samples)
    decode = {k: v for k, v in plain.items() if k.startswith('decode')}
    torch.testing.assert_close(losses['loss_seg'], sum_losses(decode))
    assert ('loss_aux' in losses) == bool(shape.get('aux'))
    if shape.get('aux'):
        torch.testing.assert_close(
            losses['loss_aux'], sum_losses({k: plain[k] for k in plain.keys() - decode.keys()})
        )
    metas = [dict(img_shape=(16, 16), ori_shape=(16, 16))] * 5
    torch.testing.assert_close(logits.all, model.encode_decode(torch.cat([sup, other]), metas))
    assert torch.equal(logits.labelled, logits.all[:2]) and torch.equal(logits.unlabelled, logits.all[2:])
    for part, images in ((encoded.labelled, sup), (encoded.unlabelled, other)):
        torch.testing.assert_close(part, model.extract_feat(images))


def test_joint_pass_shows_batchnorm_both_parts():
    model = segmentor().train()
    sup, other = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16) + 5
    joint_pass(model, sup, labelled(), other)
    expected = model.backbone.net[0](torch.cat([sup, other])).mean(dim=(0, 2, 3))
    torch.testing.assert_close(model.backbone.net[1].running_mean, 0.1 * expected)


def test_slice_batch_slices_nested_outputs():
    x = torch.arange(4)
    out = slice_batch([x, (x, {'a': x}), 'name'], slice(1, 3))
    assert out[0].tolist() == out[1][0].tolist() == out[1][1]['a'].tolist() == [1, 2] and out[2] == 'name'


# ------------------------------------------------------------------ affinities of labelled images


def known_pixels(*labels: list[int], classes: int = 2) -> torch.Tensor:
    """Members (B, N, C) of the classes; a pixel of label -1 is unknown."""
    return torch.tensor(labels)[..., None] == torch.arange(classes)


def slow_affinity_loss(affinity: torch.Tensor, labels: list[list[int]]) -> float:
    images = []
    for image, known in zip(affinity.tolist(), labels, strict=True):
        costs: dict[tuple[int, int], list[float]] = {}
        for i, one in enumerate(known):
            for j, two in enumerate(known):
                if -1 not in (one, two):
                    cost = -math.log(image[i][j] if one == two else 1 - image[i][j])
                    costs.setdefault((min(one, two), max(one, two)), []).append(cost)
        same = [sum(cost) / len(cost) for (one, two), cost in costs.items() if one == two]
        apart = [sum(cost) / len(cost) for (one, two), cost in costs.items() if one != two]
        images.append(sum(same) / max(2, len(same)) / 2 + (sum(apart) / len(apart) / 2 if apart else 0))
    return sum(images) / len(images)


def random_affinity(images: int, pixels: int) -> torch.Tensor:
    logits = torch.randn(images, pixels, pixels, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    return (logits + logits.transpose(1, 2)).sigmoid()


def test_affinity_loss_against_loops():
    labels = [[1, 0, 0, -1, 1, 0], [0, 0, 0, 0, -1, 0], [1, 1, 1, 1, 1, 1], [-1] * 6, [0, 2, 2, 3, 3, -1]]
    affinity = random_affinity(5, 6)
    for some, classes in ((labels[:4], 2), (labels, 4)):
        maps, known = affinity[: len(some)], known_pixels(*some, classes=classes)
        assert affinity_loss(maps, known).item() == pytest.approx(slow_affinity_loss(maps, some), rel=1e-12)
    torch.autograd.gradcheck(lambda a: affinity_loss(a, known), affinity.requires_grad_())


def test_affinity_loss_wants_ones_within_a_class_and_zeros_between_classes():
    members = known_pixels([1, 1, 0, 0])
    truth = (members[:, :, None] == members[:, None]).all(-1).float()
    assert affinity_loss(truth, members) < 1e-6
    wrong = (1 - truth).requires_grad_()
    loss = affinity_loss(wrong, members)
    loss.backward()
    assert 10 < loss < 20 and wrong.grad.isfinite().all()  # bounded where the map is sure and wrong


def test_affinity_loss_counts_few_foreground_pixels_as_much_as_many_background_ones():
    blurred = torch.full((1, 10, 10), 0.5)
    few, many = (affinity_loss(blurred, known_pixels([1] * n + [0] * (10 - n))) for n in (1, 5))
    torch.testing.assert_close(few, many)
