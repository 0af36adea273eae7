"""Supervised training with the affinity loss: the warm-up of ACL-Net+, and no more."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from steps import SIDE, batch, build, losses, train

from mmseg_acl.engine import load_config
from mmseg_acl.models import SupervisedPlus

CORNERS = range(0, SIDE, 8)


def slow_affinity_loss(affinity: torch.Tensor, truth: torch.Tensor) -> float:
    """Pair by pair: half the weight to pairs of one class, half to pairs of two; cells of both say nothing."""
    total = 0.0
    for image, mask in zip(affinity, truth, strict=True):
        cells = [mask[y : y + 8, x : x + 8].float().mean().item() for y in CORNERS for x in CORNERS]
        known = {i: int(share > 0.9) for i, share in enumerate(cells) if share > 0.9 or share < 0.1}
        costs = {'background': [], 'polyp': [], 'mixed': []}
        for i, first in known.items():
            for j, second in known.items():
                kind = 'mixed' if first != second else ('background', 'polyp')[first]
                likelihood = image[i, j] if first == second else 1 - image[i, j]
                costs[kind].append(-likelihood.log().item())
        means = {kind: sum(found) / len(found) for kind, found in costs.items()}
        total += means['background'] / 4 + means['polyp'] / 4 + means['mixed'] / 2
    return total / len(truth)


@pytest.mark.slow
def test_the_loss_is_what_the_masks_say_of_each_pair():
    model = build('supervised_plus', affinity_weight=1.5).train()
    data = batch(images=2)
    found = losses(model, data, 0)
    samples = data['data_samples']['sup']
    truth = torch.cat([sample.gt_sem_seg.data for sample in samples])
    assert set(truth.unique().tolist()) == {0, 1}
    # The same pass once more, for its features: the network has neither dropout nor a memory.
    images = model.data_preprocessor(deepcopy(data), training=True)['inputs']['sup']
    with model.student_tap:
        model.student(images)
    affinity = model.affinity_head(model._on_grid(model.student_tap.pop(), images))
    assert found['loss_affinity'].item() == pytest.approx(1.5 * slow_affinity_loss(affinity.map, truth), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('iteration', [0, 5])
def test_a_step_is_one_of_the_warm_up_of_aclnet_plus(iteration):
    """Same losses, same gradients, at every iteration."""
    plus = build('supervised_plus').train()
    whole = build('aclnet_plus', warmup_iters=99).train()
    missing, _ = plus.load_state_dict(whole.state_dict(), strict=False)
    assert not missing
    data = batch(images=4)
    found, expected = (losses(model, data, iteration) for model in (plus, whole))
    assert found.keys() == expected.keys() and found['loss_affinity'] > 0
    for name in found:
        torch.testing.assert_close(found[name], expected[name])
    for model, each in ((plus, found), (whole, expected)):
        model.parse_losses(each)[0].backward()
    theirs = dict(whole.named_parameters())
    for name, parameter in plus.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad)


@pytest.mark.slow
def test_nothing_but_the_affinity_loss_is_added():
    plain, plus = build('supervised_strong').train(), build('supervised_plus').train()
    plus.load_state_dict(plain.state_dict(), strict=False)
    data = batch(images=4)
    found, expected = losses(plus, data, 0), losses(plain, data, 0)
    assert found.keys() - expected.keys() == {'loss_affinity'}
    torch.testing.assert_close(found['loss_seg'], expected['loss_seg'], rtol=0, atol=0)


@pytest.mark.trained
@pytest.mark.slow
def test_the_affinity_is_learnt():
    model = build('supervised_plus')
    history = train(model, 25)
    first, last = (sum(step['loss_affinity'] for step in part) for part in (history[:5], history[-5:]))
    assert last < first


@pytest.mark.slow
def test_a_weight_of_none_is_another_method():
    for weight in (0, -1.0):
        with pytest.raises(ValueError, match=f'affinity_weight is {weight}.*above 0.*SupervisedEMA'):
            build('supervised_plus', affinity_weight=weight)


@pytest.mark.slow
@pytest.mark.parametrize('backbone', ['mbv2', 'r50', 'swin'])
def test_its_settings_are_those_of_aclnet_plus(backbone):
    """What the two share is the same, so that what is between them is the unlabelled images' part."""
    plus, whole, strong = (
        load_config(f'configs/{method}/{backbone}_kvasir_eighth.py')
        for method in ('supervised_plus', 'aclnet_plus', 'supervised_strong')
    )
    assert plus.model.type == SupervisedPlus.__name__
    for key in ('affinity', 'affinity_weight', 'feature_source', 'teacher_momentum', 'segmentor'):
        assert plus.model[key] == whole.model[key], key
    for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'custom_hooks'):
        assert plus[key] == strong[key], key
