"""What PseudoLabelRefinementHook logs and draws, and when."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from steps import batch, build, losses

from mmseg_acl.visualization import PseudoLabelRefinementHook

STAGES = ('teacher', 'high', 'low')


def make_runner(name: str, **changes) -> SimpleNamespace:
    """What the hook sees of a runner; ``drawn`` are the pictures."""
    model, drawn = build(name, **changes), []
    losses(model, batch(), iteration=9)  # beyond the warm-up, so that it refines
    return SimpleNamespace(
        model=model,
        iter=9,
        message_hub=MessageHub(f'test_refinement_hook_{id(drawn)}'),
        visualizer=SimpleNamespace(add_image=lambda name, image, step: drawn.append((name, image.shape, step))),
        drawn=drawn,
    )


def logged(runner: SimpleNamespace) -> dict[str, float]:
    return {key.removeprefix('train/'): buffer.current() for key, buffer in runner.message_hub.log_scalars.items()}


def with_hidden_masks(data: dict) -> dict:
    data = deepcopy(data)
    for sample, labelled in zip(data['data_samples']['unsup_weak'], data['data_samples']['sup'], strict=True):
        sample.hidden_sem_seg = PixelData(data=labelled.gt_sem_seg.data)
    return data


@pytest.mark.slow
def test_labels_are_scored_at_every_stage_and_the_first_image_is_drawn():
    runner = make_runner('aclnet')
    PseudoLabelRefinementHook(interval=5, picture_interval=10).after_train_iter(runner, 9, batch())
    found = logged(runner)
    assert found.keys() == {f'labelled/{stage}' for stage in STAGES}
    assert all(0 <= value <= 100 for value in found.values())
    assert runner.drawn == [('pseudo_label', (64, 7 * 64, 3), 10)]


@pytest.mark.slow
def test_hidden_masks_are_scored_apart():
    runner = make_runner('aclnet')
    PseudoLabelRefinementHook(interval=10, picture_interval=99).after_train_iter(
        runner, 9, with_hidden_masks(batch())
    )
    assert logged(runner).keys() == {f'{images}/{stage}' for images in ('labelled', 'hidden') for stage in STAGES}
    assert runner.drawn == []


@pytest.mark.parametrize(
    ('name', 'changes', 'interval'),
    [
        ('aclnet', {}, 3),  # not due at the tenth iteration
        ('aclnet', dict(warmup_iters=100), 10),  # still warming up
        ('mean_teacher', {}, 10),
    ],
)
def test_nothing_happens_where_nothing_is_refined_or_due(name, changes, interval):
    runner = make_runner(name, **changes)
    state = torch.get_rng_state()
    PseudoLabelRefinementHook(interval=interval, picture_interval=interval).after_train_iter(runner, 9, batch())
    assert not logged(runner) and not runner.drawn and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize('name', ['interval', 'picture_interval'])
def test_intervals_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f'{name} is 0; it must be at least 1'):
        PseudoLabelRefinementHook(**{name: 0})
