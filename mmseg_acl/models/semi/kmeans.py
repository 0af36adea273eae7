"""k-means on the sphere: the cluster features H that Eq. 7 compares pixels with."""

from __future__ import annotations

import torch
from torch import Tensor

from mmseg_acl.models.semi.contrast import unit


@torch.no_grad()
def cosine_kmeans(keys: Tensor, num_clusters: int, steps: int = 10, centres: Tensor | None = None) -> Tensor:
    """Cluster keys by cosine similarity with Lloyd's algorithm (spherical k-means, Dhillon and
    Modha 2001).

    A cluster that loses all its keys takes over the key that fits its own centre worst. Draws only
    from torch's generator.

    Args:
        keys: (n, d), of length one each.
        num_clusters: k, at most n.
        steps: Lloyd steps.
        centres: (k, d) to start from; by default k-means++ seeds among the keys.

    Returns:
        (k, d) centres of length one.

    Raises:
        ValueError: Fewer keys than clusters, or ``centres`` of another shape.
    """
    if len(keys) < num_clusters:
        raise ValueError(
            f'{len(keys)} keys cannot form {num_clusters} clusters; give more keys or ask for fewer clusters'
        )
    if centres is None:
        centres = _seeds(keys, num_clusters)
    elif centres.shape != (num_clusters, keys.shape[1]):
        raise ValueError(f'centres have shape {tuple(centres.shape)}; needed is {(num_clusters, keys.shape[1])}')
    for _ in range(steps):
        similarity, nearest = (keys @ centres.T).max(dim=1)
        # A product with the one-hot assignment, unlike a scatter, sums in the same order on every
        # device.
        members = torch.nn.functional.one_hot(nearest, num_clusters).to(keys.dtype)
        centres = unit(members.T @ keys)
        empty = members.sum(0) == 0
        worst = similarity.topk(num_clusters, largest=False).indices
        taken = worst[(empty.cumsum(0) - 1).clamp(min=0)]
        centres = torch.where(empty[:, None], keys[taken], centres)
    return centres


def _seeds(keys: Tensor, num_clusters: int) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii 2007): the odds of a key grow with its distance."""
    first = torch.randint(len(keys), (1,), device=keys.device)
    seeds = keys[first]
    closest = keys @ seeds[0]
    for _ in range(num_clusters - 1):
        # The constant keeps the draw defined where all keys are equal.
        odds = (1 - closest).clamp(min=0) + 1e-6
        seed = keys[torch.multinomial(odds, 1)]
        seeds = torch.cat([seeds, seed])
        closest = torch.maximum(closest, keys @ seed[0])
    return seeds
