"""ACL-Net with four classes: one that is always there, one that is rare and one that never occurs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from steps import SIDE, batch, build, losses

from mmseg_acl.models.semi.pseudo_label import mean_dice
from mmseg_acl.visualization.inspection import draw_inspection

FOUR = {'segmentor.decode_head.num_classes': 4, 'affinity_weight': 1.0}
RARE = 2


def frames(iteration: int) -> dict:
    """Discs of class 1; every fourth step one of them is of class 2, and brighter; class 3 is nowhere."""
    data = batch(seed=iteration)
    if iteration % 4 == 0:
        mask = data['data_samples']['sup'][0].gt_sem_seg.data
        data['inputs']['sup'][0] = (data['inputs']['sup'][0].float() + 60 * mask).clamp(0, 255).byte()
        mask *= RARE
    return data


@pytest.fixture(scope='module')
def trained():
    # Labels alone until discs are seen: a teacher that sees none has nothing to contrast.
    model = build('aclnet', **FOUR, warmup_iters=16)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.01)
    history = []
    for iteration in range(22):
        model.train()
        found = losses(model, frames(iteration), iteration)
        optimizer.zero_grad()
        model.parse_losses(found)[0].backward()
        optimizer.step()
        model.after_step()
        history.append({key: float(value.detach()) for key, value in found.items()})
    return model, history


@pytest.mark.trained
@pytest.mark.slow
def test_every_loss_is_at_work(trained):
    _, history = trained
    for name in ('loss_seg', 'loss_consistency', 'loss_contrast', 'loss_affinity'):
        values = [step[name] for step in history[16:]]
        assert all(math.isfinite(value) for value in values) and max(values) > 0, (name, values)


@pytest.mark.trained
@pytest.mark.slow
def test_banks_fill_by_class(trained):
    model, _ = trained
    fill = model.acl_head.bank.fill.tolist()
    assert len(fill) == 4 and sum(count > 0 for count in fill) >= 2
    assert model.caa_head.has_clusters


@pytest.mark.slow
@pytest.mark.trained
def test_labels_are_refined_on_the_simplex_and_drawn(trained):
    model, _ = trained
    images = torch.rand(2, 3, SIDE, SIDE)
    seen = model.inspect(images, torch.ones(2, SIDE, SIDE, dtype=torch.bool))
    for prob in (seen.prob, seen.refined.prob, *seen.refined.stages.values()):
        assert prob.shape == (2, 4, SIDE, SIDE) and prob.min() >= -1e-6
        torch.testing.assert_close(prob.sum(1), torch.ones(2, SIDE, SIDE))
    truth = torch.zeros(2, SIDE, SIDE, dtype=torch.long)
    truth[:, :9, :9], truth[:, 20:30, 20:30] = 1, 3
    assert 0 <= mean_dice(seen.refined.prob, truth, truth >= 0) <= 100
    picture = draw_inspection(np.zeros((SIDE, SIDE, 3), np.uint8), truth[0].numpy(), seen)
    colours = {tuple(picture[y, SIDE + x]) for y, x in ((4, 4), (25, 25), (50, 50))}
    assert picture.shape == (SIDE, 7 * SIDE, 3) and len(colours) == 3, 'each class has its colour'


def test_masks_of_all_classes_teach_the_affinity():
    """Cells of one class belong together, cells of two do not, whichever classes those are."""
    model = build('aclnet', **FOUR, feature_source=0)
    data = frames(0)
    classes = data['data_samples']['sup'][1].gt_sem_seg.data
    classes[:, : SIDE // 2, : SIDE // 2], classes[:, SIDE // 2 :, SIDE // 2 :] = 1, 3
    features = torch.nn.functional.one_hot(classes[:, ::8, ::8], 4).movedim(-1, 1).float()
    features = features.repeat(1, 4, 1, 1)
    samples = data['data_samples']['sup'][1:2]
    apart = model.labelled_affinity_loss(features, samples)
    alike = model.labelled_affinity_loss(features[:, :, :1, :1].expand_as(features).contiguous(), samples)
    assert 0 < apart < alike
