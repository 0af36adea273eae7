"""Spherical k-means on clusters that are known."""

import pytest
import torch

from mmseg_acl.models.semi.contrast import unit
from mmseg_acl.models.semi.kmeans import cosine_kmeans


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def blobs(counts, dim=8, spread=0.05):
    """Keys around the first axes, one cluster an axis."""
    axes = torch.eye(dim, dtype=torch.float64)[: len(counts)]
    keys = axes.repeat_interleave(torch.tensor(counts), 0)
    return unit(keys + spread * torch.randn(len(keys), dim, dtype=torch.float64))


def reference_step(keys, centres):
    """One Lloyd step where no cluster is empty, key by key."""
    sums = torch.zeros_like(centres)
    for key in keys:
        nearest = max(range(len(centres)), key=lambda k: float(key @ centres[k]))
        sums[nearest] += key
    return torch.stack([total / total.norm() for total in sums])


def test_steps_are_those_of_the_loops():
    keys = unit(torch.randn(60, 5, dtype=torch.float64))
    start = keys[:4]
    expected = start
    for _ in range(3):
        expected = reference_step(keys, expected)
    torch.testing.assert_close(cosine_kmeans(keys, 4, steps=3, centres=start), expected)


@pytest.mark.parametrize('seed', range(10))
def test_known_clusters_are_found(seed):
    torch.manual_seed(seed)
    keys = blobs([50, 20, 20, 10], spread=0.01)
    centres = cosine_kmeans(keys, 4, steps=10)
    similarity = centres @ torch.eye(8, dtype=torch.float64)[:4].T
    assert sorted(similarity.argmax(1).tolist()) == [0, 1, 2, 3]
    assert similarity.max(1).values.min() > 0.99
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_an_empty_cluster_takes_the_worst_key():
    """Two starts on one side: the one that wins no key jumps to the cluster nobody stands for."""
    keys = blobs([30, 30])
    start = torch.stack([keys[0], -unit(keys.sum(0))])
    worst = keys[(keys @ start.T).max(1).values.argmin()]
    once = cosine_kmeans(keys, 2, steps=1, centres=start)
    torch.testing.assert_close(once[1], worst)
    centres = cosine_kmeans(keys, 2, steps=3, centres=start)
    assert (centres @ torch.eye(8, dtype=torch.float64)[:2].T).max(0).values.min() > 0.99


def test_several_empty_clusters_take_different_keys():
    keys = blobs([20, 20, 20])
    away = -unit(keys.sum(0)).expand(2, 8)
    worst = (keys @ keys[0]).argsort()[:2]
    once = cosine_kmeans(keys, 3, steps=1, centres=torch.stack([away[0], keys[0], away[1]]))
    torch.testing.assert_close(once[[0, 2]], keys[worst])


def test_warm_start_goes_on():
    keys = blobs([40, 30, 30])
    centres = cosine_kmeans(keys, 3, steps=10)
    torch.testing.assert_close(cosine_kmeans(keys, 3, steps=1, centres=centres), centres)


def test_equal_keys_and_as_many_clusters_as_keys():
    keys = unit(torch.ones(6, 3))
    centres = cosine_kmeans(keys, 4)
    torch.testing.assert_close(centres, keys[:4])
    assert cosine_kmeans(unit(torch.randn(3, 4)), 3).isfinite().all()


def test_a_seed_fixes_the_result():
    keys = unit(torch.randn(50, 6))
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(cosine_kmeans(keys, 5))
    assert torch.equal(*results)


def test_errors():
    with pytest.raises(ValueError, match='3 keys cannot form 4 clusters'):
        cosine_kmeans(torch.eye(3), 4)
    with pytest.raises(ValueError, match='centres have shape'):
        cosine_kmeans(torch.eye(3), 2, centres=torch.eye(3))
