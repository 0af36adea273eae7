"""What holds for any number of classes is, for two of them, what it was when there were only two."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmseg_acl.models import ACLHead, CAAHead, PseudoLabelRefiner
from mmseg_acl.models.heads.acl_head import filtered_rows
from mmseg_acl.models.heads.affinity_head import Affinity

# Inputs and results of commit 1a6be0e.
GOLDEN = Path(__file__).parent / 'data' / 'two_classes.npz'
GRID = (4, 4)
REFINERS = dict(
    sequential=dict(schedule='sequential', num_iters=3, gated=True, weighted=True),
    joint=dict(schedule='joint', num_iters=2, gated=True),
    plain=dict(ranged=False, num_iters=2),
)


@pytest.fixture(scope='module')
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def on_grid(golden):
    """Probabilities (B, N, 2) and validity (B, N) of the grid's pixels."""
    pool = torch.nn.functional.adaptive_avg_pool2d
    valid = pool(golden['valid'].float(), GRID).flatten(1) >= 0.5
    return pool(golden['prob'], GRID).flatten(2).transpose(1, 2), valid


def same(found, expected):
    """To a rounding: the last bit is the processor's."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_regions(golden):
    prob, valid = on_grid(golden)
    head = ACLHead(dim=5)
    regions = head.regions(golden['student'], golden['teacher'], prob, valid)
    same(regions.score[..., 0], golden['score'])
    assert torch.equal(regions.foreground, golden['foreground'])
    assert torch.equal(regions.region == 0, golden['background'])
    assert torch.equal(regions.label, (golden['score'] > 0.5).long())
    rows = torch.arange(valid.shape[1])
    for affinity, region, own, expected in zip(
        golden['student'], regions.region, valid, golden['filtered'], strict=True
    ):
        same(filtered_rows(affinity, region, own, rows), expected)


def test_aggregation(golden):
    head = CAAHead(dim=5, num_clusters=3)
    head.clusters.copy_(golden['clusters'])
    head.has_clusters.fill_(True)
    networks = [Affinity(golden[name], golden[f'{name}_vectors']) for name in ('student', 'teacher')]
    same(head(*networks, on_grid(golden)[1]), golden['aggregated'])


@pytest.mark.parametrize('name', REFINERS)
def test_refinement(golden, name):
    refiner = PseudoLabelRefiner(local=dict(dilations=(1, 2)), **REFINERS[name])
    found = refiner(golden['prob'], golden['image'], golden['aggregated'], GRID, golden['valid'])
    same(found.prob, golden[f'{name}_prob'])
    for stage, prob in found.stages.items():
        same(prob[:, 1], golden[f'{name}_{stage}'])
    assert (found.weight is None) == (f'{name}_weight' not in golden)
    if found.weight is not None:
        same(found.weight, golden[f'{name}_weight'])
