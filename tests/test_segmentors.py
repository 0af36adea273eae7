"""The semi-supervised base, Mean Teacher and ACL-Net as models."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from steps import SIDE, batch, build, losses, train

from mmseg_acl.models.heads import Affinity
from mmseg_acl.models.losses import affinity_loss, pseudo_label_loss
from mmseg_acl.models.semi.pseudo_label import hard_labels, probabilities
from mmseg_acl.models.semi.rampup import sigmoid_rampup

# ------------------------------------------------------------------ the base


def test_student_and_teacher_start_alike_and_the_teacher_stays_frozen_in_eval():
    model = build('aclnet')
    for teacher, student in model.ema_pairs():
        for name, value in teacher.state_dict().items():
            assert torch.equal(value, student.state_dict()[name])
        assert not any(p.requires_grad for p in teacher.parameters())
    model.train()
    assert model.student.training and model.affinity_head.training
    assert not model.teacher.training and not model.affinity_teacher.training


@pytest.mark.trained
@pytest.mark.slow
def test_warmup_learns_from_labels_alone_and_keeps_the_teacher_a_copy():
    model = build('aclnet', warmup_iters=3)
    assert [set(h) for h in train(model, 3)] == [{'loss_seg', 'acc_seg'}] * 3
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[name]), name
    train(model, 3, start=3)
    weight = next(model.student.parameters())
    assert not torch.equal(next(model.teacher.parameters()), weight)


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('name', ['mean_teacher', 'aclnet'])
def test_losses_are_finite_not_zero_and_reach_the_student_only(name):
    model = build(name)
    history = train(model, 8)[4:]
    keys = {k for k in history[-1] if 'loss' in k}
    assert keys == ({'loss_seg', 'loss_consistency'} | ({'loss_contrast'} if name == 'aclnet' else set()))
    for key in keys:
        values = [h[key] for h in history]
        assert all(0 < v < 100 for v in values), (key, values)
    assert all(p.grad is not None for p in model.student.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())


def test_a_forgotten_hook_is_an_error_not_a_teacher_that_never_learns():
    model = build('mean_teacher')
    with pytest.raises(RuntimeError, match='MeanTeacherHook'):
        model(**model.data_preprocessor(batch(), training=True), mode='loss')


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(teacher_momentum=1.0), r'teacher_momentum is 1.0; it must be in \[0, 1\)'),
        (dict(warmup_iters=-1), 'warmup_iters is -1'),
        (dict(predict_on='ensemble'), "predict_on is 'ensemble'; MeanTeacher has student, teacher"),
        (dict(consistency_wieght=1), 'consistency_wieght'),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build('mean_teacher', **wrong)


def test_the_base_without_a_method_is_refused_when_it_is_built():
    with pytest.raises(TypeError, match='abstract.*semi_supervised_loss'):
        build('mean_teacher', type='SemiSupervisedSegmentor')


@pytest.mark.trained
@pytest.mark.slow
def test_predict_runs_the_network_that_is_asked_for():
    model = build('mean_teacher')
    train(model, 4)
    model.eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    for network in ('student', 'teacher'):
        model.predict_on = network
        expected = getattr(model, network).predict(images)
        for ours, theirs in zip(model.predict(images), expected, strict=True):
            assert torch.equal(ours.seg_logits.data, theirs.seg_logits.data)
    assert not torch.equal(model.student.predict(images)[0].seg_logits.data, expected[0].seg_logits.data)


@pytest.mark.slow
@pytest.mark.parametrize('load', [load_state_dict, lambda m, s: m.load_state_dict(s, strict=False)])
def test_a_plain_mmseg_checkpoint_fills_student_and_teacher(load):
    plain, model = build('supervised'), build('aclnet')
    for value in plain.state_dict().values():
        if value.is_floating_point():
            value.add_(1)
    load(model, plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(model.student.state_dict()[name], value)
        assert torch.equal(model.teacher.state_dict()[name], value)


# ------------------------------------------------------------------ Mean Teacher


@pytest.mark.trained
@pytest.mark.slow
def test_mean_teacher_consistency_is_the_mean_squared_error_of_probabilities():
    model = build('mean_teacher', **{'segmentor.decode_head.dropout_ratio': 0})
    train(model, 4)
    model.eval()  # BatchNorm then treats each image alone, as the reference does
    data = batch(seed=9)
    data['data_samples']['unsup_weak'][1].valid.data[:, :20] = False
    found = losses(model, data, iteration=5)
    views = model.data_preprocessor(data, training=True)['inputs']
    total = count = 0.0
    for name, other in (('sup', 'sup'), ('unsup_weak', 'unsup_strong')):
        for i in range(3):
            with torch.no_grad():
                p = probabilities(model.run_teacher(views[name][i : i + 1]))[0]
                q = probabilities(
                    model.student.encode_decode(views[other][i : i + 1], [dict(img_shape=(SIDE, SIDE))])
                )[0]
            valid = torch.ones(SIDE, SIDE, dtype=torch.bool)
            if name == 'unsup_weak':
                valid = data['data_samples']['unsup_weak'][i].valid.data[0]
            total += ((p - q) ** 2).mean(0)[valid].sum().item()
            count += valid.sum().item()
    ramp = sigmoid_rampup(5 - 2, 4)
    assert found['loss_consistency'].item() == pytest.approx(10 * ramp * total / count, rel=1e-4)


# ------------------------------------------------------------------ ACL-Net


ROWS = {
    'I': dict(use_contrast=False, use_aggregation=False, refinement=dict(low=False, high=False)),
    'II': dict(use_aggregation=False, refinement=dict(low=False, high=False)),
    'III': dict(use_aggregation=False),
    'IV-a': dict(refinement=dict(high=False)),
    'IV-b': dict(refinement=dict(low=False)),
    'V': dict(),
}


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('row', ROWS)
def test_every_row_of_the_ablation_trains(row):
    model = build('aclnet', **ROWS[row])
    last = train(model, 6)[-1]
    assert last['loss_consistency'] > 0
    assert ('loss_contrast' in last) == (row != 'I')
    assert bool(model.caa_head.has_clusters) == (row in ('IV-a', 'IV-b', 'V'))


@pytest.mark.trained
@pytest.mark.slow
def test_row_one_is_plain_self_training_on_the_teachers_labels():
    """Without components, loss_consistency is cross-entropy + Dice with the teacher's own labels."""
    changes = dict(ROWS['I'], **{'segmentor.decode_head.dropout_ratio': 0, 'cutmix': dict(prob=0.0)})
    model = build('aclnet', **changes)
    train(model, 4)
    model.eval()
    data = batch(seed=5)
    found = losses(model, data, iteration=4)
    views = model.data_preprocessor(data, training=True)['inputs']
    prob = probabilities(model.run_teacher(views['unsup_weak']))
    logits = model.student.encode_decode(views['unsup_strong'], [dict(img_shape=(SIDE, SIDE))] * 3)
    labels = hard_labels(prob, torch.ones(3, SIDE, SIDE, dtype=torch.bool))
    torch.testing.assert_close(found['loss_consistency'], 0.5 * pseudo_label_loss(logits, prob, labels))


@pytest.mark.trained
@pytest.mark.slow
def test_the_total_is_the_weighted_sum_of_its_terms():
    """``L = L_seg + consistency_weight L_con + contrast_weight L_tra`` (Eq. 13)."""
    model = build('aclnet')
    train(model, 8)
    model.eval()
    state = deepcopy(model.state_dict())  # a step fills the bank

    def step(consistency_weight, contrast_weight):
        model.load_state_dict(state)
        model.consistency_weight, model.contrast_weight = consistency_weight, contrast_weight
        return losses(model, batch(seed=5), iteration=8)

    terms = step(1, 1)
    total, _ = model.parse_losses(step(0.3, 0.7))
    assert terms['loss_consistency'] > 0 and terms['loss_contrast'] > 0
    torch.testing.assert_close(
        total, terms['loss_seg'] + 0.3 * terms['loss_consistency'] + 0.7 * terms['loss_contrast']
    )


@pytest.mark.trained
@pytest.mark.slow
def test_affinities_of_labelled_images_are_taught_by_their_masks():
    """loss_affinity is that of the student's map on the labelled views; a cell on a boundary has no say."""
    model = build('aclnet', affinity_weight=2.0, **{'segmentor.decode_head.dropout_ratio': 0})
    train(model, 4)
    model.eval()
    data = batch(seed=5)
    for sample in data['data_samples']['sup']:
        sample.gt_sem_seg.data[:, :12] = 255
    found = losses(model, data, iteration=4)

    pure = torch.zeros(2, 3, SIDE // 8, SIDE // 8, dtype=torch.bool)
    for i, sample in enumerate(data['data_samples']['sup']):
        for y in range(SIDE // 8):
            for x in range(SIDE // 8):
                cell = sample.gt_sem_seg.data[0, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
                valid = (cell != 255).float().mean() >= 0.5
                pure[1, i, y, x] = valid and (cell == 1).float().mean() > 0.9
                pure[0, i, y, x] = valid and (cell == 1).float().mean() < 0.1
    assert pure.flatten(1).any(1).all() and not pure[:, :, 0].any()
    views = model.data_preprocessor(data, training=True)['inputs']
    with model.student_tap:
        model.student(torch.cat([views['sup'], views['unsup_strong']]))
    feature = model._on_grid(model.student_tap.pop(), views['sup'])[:3]
    valid = torch.ones(3, SIDE // 8, SIDE // 8, dtype=torch.bool)
    valid[:, 0] = False  # the second row of cells is half known
    members = pure.flatten(2).movedim(0, -1)
    expected = affinity_loss(model.affinity_head(feature, valid.flatten(1)).map, members)
    torch.testing.assert_close(found['loss_affinity'], 2 * expected)


@pytest.mark.trained
@pytest.mark.slow
def test_the_loss_of_labelled_affinities_teaches_those_of_other_images():
    """By that loss alone, as loss_seg makes of the affinity what it likes, and from a map that is all wrong."""
    model = build('aclnet', affinity_weight=1.0, warmup_iters=99)
    model.affinity_head.key.weight.data.neg_()
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01, momentum=0.9)

    def of_other_images() -> float:
        return losses(model.eval(), batch(seed=99), iteration=0)['loss_affinity'].item()

    before = of_other_images()
    for iteration in range(12):
        model.train()
        optimizer.zero_grad()
        losses(model, batch(seed=iteration), iteration)['loss_affinity'].backward()
        optimizer.step()
    assert 0 < of_other_images() < 0.75 * before


@pytest.mark.trained
@pytest.mark.slow
def test_the_loss_of_labelled_affinities_is_a_switch_of_its_own():
    """With the contrast, and without it, where the head learns from this loss alone."""
    for rows in ({}, ROWS['I']):
        model = build('aclnet', affinity_weight=2.0, **rows)
        before = deepcopy(model.affinity_head.state_dict())
        assert train(model, 4)[-1]['loss_affinity'] > 0
        assert not torch.equal(model.affinity_head.query.weight, before['query.weight'])
    assert 'loss_affinity' not in train(build('aclnet', **ROWS['I']), 4)[-1]


@pytest.mark.slow
def test_affinities_are_taught_during_the_warm_up_too():
    """The same loss on the labelled views alone, and nothing else of ACL-Net yet."""
    model = build('aclnet', affinity_weight=2.0)
    model.eval()
    data = batch(seed=5)
    found = losses(model, data, iteration=0)
    assert {name for name in found if name.startswith('loss')} == {'loss_seg', 'loss_affinity'}
    views = model.data_preprocessor(data, training=True)['inputs']
    with model.student_tap:
        model.student(views['sup'])
    feature = model._on_grid(model.student_tap.pop(), views['sup'])
    torch.testing.assert_close(
        found['loss_affinity'], model.labelled_affinity_loss(feature, data['data_samples']['sup'])
    )


def test_refinement_waits_for_the_affinity():
    model = build('aclnet', refine_after=3)
    assert [model.before_step(i) or model.refining for i in range(7)] == [False] * 5 + [True] * 2


@pytest.mark.trained
@pytest.mark.slow
def test_inspect_changes_nothing_and_shows_every_stage():
    model = build('aclnet')
    train(model, 5)
    model.train()
    images = torch.rand(2, 3, SIDE, SIDE)
    before = deepcopy(model.state_dict())
    seen = model.inspect(images, torch.ones(2, SIDE, SIDE, dtype=torch.bool))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.training and model.student.training and not model.teacher.training
    pixels = (SIDE // 8) ** 2
    assert list(seen.refined.stages) == ['high', 'low']
    assert seen.student.map.shape == seen.teacher.map.shape == seen.aggregated.shape == (2, pixels, pixels)
    torch.testing.assert_close(seen.aggregated.sum(-1), torch.ones(2, pixels))


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('part', ['affinities', 'aggregate', 'refine'])
def test_training_and_inspection_go_the_same_way(part, monkeypatch):
    """What is changed on the way of the pseudo-labels changes in both."""

    def outcome(model):
        found = losses(model, batch(seed=5), iteration=5)
        seen = model.inspect(torch.rand(2, 3, SIDE, SIDE), torch.ones(2, SIDE, SIDE, dtype=torch.bool))
        return found['loss_consistency'].detach(), seen.refined.prob

    model = build('aclnet')
    train(model, 5)
    before, state = deepcopy(model.state_dict()), torch.get_rng_state()
    plain = outcome(model)
    model.load_state_dict(before)
    torch.set_rng_state(state)
    unchanged = getattr(model, part)

    def changed(*args):
        found = unchanged(*args)
        if part == 'affinities':  # pixels are alike that were not
            return found._replace(teacher=Affinity(1 - found.teacher.map, found.teacher.vectors))
        if part == 'aggregate':  # every pixel says what the next one is
            return found.roll(1, dims=1)
        return found._replace(prob=found.prob.flip(1))

    monkeypatch.setattr(model, part, changed)
    for ours, theirs in zip(plain, outcome(model), strict=True):
        assert not torch.allclose(ours, theirs), part


@pytest.mark.trained
@pytest.mark.slow
def test_padding_has_no_say_in_affinities_and_labels():
    """What lies under the padding, the images' values there, must not reach the valid pixels' affinities."""
    model = build('aclnet', feature_source=0)
    train(model, 5)
    feature = torch.rand(1, 16, 8, 8)
    other = feature.clone()
    other[..., 4:] = 9 * torch.rand(1, 16, 8, 4)
    valid = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    valid[..., SIDE // 2 :] = False
    found = []
    for content in (feature, other):
        model.student_tap.pop = model.teacher_tap.pop = lambda content=content: content
        seen = model.inspect(torch.zeros(1, 3, SIDE, SIDE), valid)
        kept = (torch.arange(64) % 8) < 4
        found.append((seen.student.map[:, kept][:, :, kept], seen.aggregated[:, kept][:, :, kept]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.trained
@pytest.mark.slow
def test_rows_as_vectors_need_and_take_the_number_of_pixels():
    changes = {'affinity': dict(vectors='rows')}
    with pytest.raises(ValueError, match='contrast=dict'):
        build('aclnet', **changes)
    model = build('aclnet', **changes, **{'contrast.dim': (SIDE // 8) ** 2})
    assert train(model, 5)[-1]['loss_contrast'] > 0


@pytest.mark.trained
@pytest.mark.slow
@pytest.mark.parametrize('changes', [dict(feature_source=1), {'affinity': dict(num_heads=2)}])
def test_other_features_and_more_heads_train(changes):
    model = build('aclnet', **changes)
    assert train(model, 5)[-1]['loss_contrast'] > 0


@pytest.mark.slow
def test_mean_teacher_takes_more_classes():
    model = build('mean_teacher', **{'segmentor.decode_head.num_classes': 4})
    for iteration in range(4):
        found = losses(model, batch(seed=iteration, classes=4), iteration)
        assert all(torch.isfinite(value).all() for value in found.values())
    assert found['loss_consistency'] > 0


def test_aggregation_without_contrast_is_refused():
    with pytest.raises(ValueError, match='use_aggregation=True needs use_contrast=True'):
        build('aclnet', use_contrast=False)


@pytest.mark.trained
@pytest.mark.slow
def test_bfloat16_autocast_trains():
    model = build('aclnet')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        history = train(model, 5)
    assert all(v == v and v < 100 for h in history for v in h.values())


# ------------------------------------------------------------------ what methods share


def test_a_batch_has_all_strong_views_that_the_pipeline_makes():
    model, data = build('mean_teacher'), batch()
    for part in data.values():
        part['unsup_strong_2'] = deepcopy(part['unsup_strong'])
    data['inputs']['unsup_strong_2'] = [255 - image for image in data['inputs']['unsup_strong_2']]
    data = model.data_preprocessor(data, training=True)
    made = model.make_batch(data['inputs'], data['data_samples'])
    first, second = made.strong_views
    assert made.strong is first is data['inputs']['unsup_strong'] and second is data['inputs']['unsup_strong_2']
    found = model.run_student(made, torch.cat(made.strong_views))
    assert len(found.logits.labelled) == 3 and len(found.logits.unlabelled) == 6 and found.features is None


@pytest.mark.parametrize('view', ['unsup_weak', 'unsup_strong'])
def test_a_missing_view_is_named(view):
    model, data = build('aclnet'), batch()
    for part in data.values():
        del part[view]
    with pytest.raises(ValueError, match=f"ACLNet needs '{view}', too: let the pipeline .* end in dict.type='Views'"):
        losses(model, data, iteration=5)


@pytest.mark.slow
def test_the_student_pass_has_the_tapped_feature_of_either_part():
    model, data = build('aclnet').eval(), batch()
    data = model.data_preprocessor(data, training=True)
    made = model.make_batch(data['inputs'], data['data_samples'])
    found = model.run_student(made, made.weak[:2])
    for part, images in ((found.features.labelled, made.labelled), (found.features.unlabelled, made.weak[:2])):
        with model.student_tap:
            model.student(images)
        torch.testing.assert_close(part, model.student_tap.pop())
    assert found.features.all.shape[:2] == (5, model.student_tap.channels)
    assert [len(level) for level in found.encoded.unlabelled] == [2, 2, 2]
