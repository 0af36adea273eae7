"""What is done to images before a checkpoint is scored on them."""

import pytest
import torch

from mmseg_acl.evaluation.shifts import SHIFTS


@pytest.fixture
def pair():
    """An image with a bright square, and its mask."""
    masks = torch.zeros(1, 60, 80, dtype=torch.long)
    masks[0, 20:40, 30:50] = 1
    return torch.randn(1, 3, 60, 80, generator=torch.Generator().manual_seed(0)) * 0.01 + 5 * masks[:, None], masks


@pytest.mark.parametrize('name', SHIFTS)
def test_every_shift_keeps_sizes_and_leaves_its_input_alone(name, pair):
    images, masks = pair
    before = images.clone(), masks.clone()
    seen, truth = SHIFTS[name](images, masks)
    assert seen.shape == images.shape and truth.shape == masks.shape and truth.dtype == masks.dtype
    assert torch.equal(images, before[0]) and torch.equal(masks, before[1])
    assert (seen == images).all() == (name == 'none')


def test_a_shrunk_mask_stays_on_its_polyp_and_has_half_the_area(pair):
    seen, truth = SHIFTS['shrunk'](*pair)
    assert int(truth.sum()) == pytest.approx(0.49 * 400, rel=0.1)
    inside, outside = seen[0, 0][truth[0] == 1], seen[0, 0][truth[0] == 0]
    assert inside.mean() > 4 and outside.mean() < 0.2
    rows, columns = (truth[0] == 1).nonzero(as_tuple=True)
    assert rows.float().mean() == pytest.approx(29.5, abs=1) and columns.float().mean() == pytest.approx(39.5, abs=1)


def test_colours_and_sharpness(pair):
    images, _ = pair
    red = SHIFTS['redder'](*pair)[0] - images
    assert red[0, 0].mean() > 0 > red[0, 1].mean() and red[0, 2].mean() < 0
    grey = SHIFTS['grey'](*pair)[0]
    torch.testing.assert_close(grey[0, 2], images[0].mean(0))
    blurred = SHIFTS['blurred'](*pair)[0]
    torch.testing.assert_close(blurred[0, :, 10, 10], images[0, :, 8:13, 8:13].mean((1, 2)))
