"""The supervised baseline at a semi-supervised method's cost: eight labelled images a step, half strong."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from steps import CONFIGS, batch, build, losses
from tool_process import ROOT

from mmseg_acl.datasets.semi_supervised import random_scope
from mmseg_acl.engine import load_config


@pytest.fixture
def loader(synthetic_root, monkeypatch):
    """The data loader of the tests' config."""
    monkeypatch.setenv('MMSEG_ACL_DATA', str(synthetic_root))
    return load_config(str(CONFIGS / 'supervised_strong.py')).train_dataloader


def test_a_step_has_eight_images_of_which_each_half_runs_through_all(loader):
    batches = iter(Runner.build_dataloader(loader, seed=0))
    drawn = [next(batches) for _ in range(5)]
    assert all(step['inputs'].keys() == {'sup'} and len(step['inputs']['sup']) == 8 for step in drawn)
    for half in (slice(0, 4), slice(4, 8)):
        names = [sample.img_path for step in drawn for sample in step['data_samples']['sup'][half]]
        passes = [set(names[i : i + 5]) for i in range(0, 20, 5)]
        assert all(len(images) == 5 for images in passes), 'five images, each once a pass'
    orders = [
        [[s.img_path for s in step['data_samples']['sup'][half]] for step in drawn]
        for half in (slice(4), slice(4, 8))
    ]
    assert orders[0] != orders[1], 'the halves are drawn on their own'


def test_the_second_half_has_strong_colours_and_the_same_geometry(loader):
    dataset = DATASETS.build(loader.dataset)
    changed = 0
    for index in range(5):
        with random_scope([index]):
            weak = dataset.sources[0][index]
        with random_scope([index]):
            strong = dataset.sources[1][index]
        masks = [view['data_samples']['sup'].gt_sem_seg.data for view in (weak, strong)]
        assert torch.equal(*masks)
        changed += not torch.equal(weak['inputs']['sup'], strong['inputs']['sup'])
    assert changed >= 4  # none of three changes is made to every tenth image


@pytest.mark.slow
def test_it_learns_as_the_plain_segmentor_does():
    """Same loss, same gradients; a teacher that differs changes nothing."""
    model, plain = build('supervised_strong').train(), build('supervised').train()
    plain.load_state_dict({k[8:]: v for k, v in model.state_dict().items() if k.startswith('student.')}, strict=False)
    for p in model.teacher.parameters():
        p.add_(torch.randn_like(p))
    data = batch(images=4)
    found = losses(model, data, 0)
    sup = dict(inputs=data['inputs']['sup'], data_samples=data['data_samples']['sup'])
    torch.manual_seed(0)
    expected = plain(**plain.data_preprocessor(deepcopy(sup), training=True), mode='loss')
    total = sum(value for key, value in expected.items() if 'loss' in key)
    torch.testing.assert_close(found['loss_seg'], total)
    found['loss_seg'].backward(), total.backward()
    pairs = zip(model.student.named_parameters(), plain.named_parameters(), strict=True)
    assert all(name == other for (name, _), (other, _) in pairs)
    for mine, theirs in zip(model.student.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert all(p.grad is None for p in model.teacher.parameters())


def test_the_teacher_is_the_average_of_the_students():
    model = build('supervised_strong', teacher_momentum=0.5).train()
    students = []
    for iteration in range(3):
        with torch.no_grad():
            for p in model.student.parameters():
                p.add_(1.0)
        model.before_step(iteration)
        model.after_step()
        students.append(next(model.student.parameters()).detach().clone())
    mean = students[0] * 0.5 + (students[0] - 1) * 0.5  # it starts as a copy
    for student in students[1:]:
        mean = 0.5 * mean + 0.5 * student
    torch.testing.assert_close(next(model.teacher.parameters()).detach(), mean)


@pytest.mark.slow
def test_views_of_unlabelled_images_are_neither_needed_nor_used():
    model = build('supervised_strong').train()
    both = batch(images=4)
    alone = {key: {'sup': views['sup']} for key, views in both.items()}
    found = [losses(deepcopy(model), data, 5) for data in (both, alone)]
    assert found[0].keys() == found[1].keys()
    torch.testing.assert_close(found[0]['loss_seg'], found[1]['loss_seg'], rtol=0, atol=0)


def test_a_partition_needs_one_data_set_behind_its_sources(loader):
    labelled = loader.dataset.labelled
    with pytest.raises(ValueError, match="partition='kvasir/quarter' divides one data set, not several sources"):
        DATASETS.build(
            dict(loader.dataset, labelled=[labelled[0], dict(labelled[1], folder='x')], partition='kvasir/quarter')
        )
    config = load_config(
        str(ROOT / 'configs' / 'supervised_strong' / 'mbv2_kvasir_eighth.py')
    ).train_dataloader.dataset
    assert len(config.labelled) == 2 and config.partition == 'kvasir/eighth' and config.unlabelled is None
    assert len({source.type for source in config.labelled}) == 1
