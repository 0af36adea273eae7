"""Cosines and the InfoNCE loss (Eqs 4 and 5), for every method that contrasts pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(vectors: Tensor, eps: float = 1e-4, floor: Tensor | None = None) -> Tensor:
    """Scale vectors to length one, smoothly: ``v / sqrt(|v|^2 + eps^2)``.

    Unlike a division by ``max(|v|, eps)`` with the usual tiny ``eps``, the gradient stays below ``1
    / eps`` at the zero vector, which is what every pixel of a constant image is after centring.

    A vector shorter than ``floor`` is divided by ``floor`` in place of its length and has no gradient; up to twice
    that length its gradient grows to the full one, so that none is above ``1 / (2 floor)``.

    Args:
        vectors: (..., d).
        eps: Length below which a vector counts as zero.
        floor: A scalar, see above; :class:`~mmseg_acl.models.semi.length_floor.LengthFloor` has one. None for 0.

    Returns:
        (..., d), of length at most 1.
    """
    if floor is not None:
        still = vectors.detach()
        excess = still.norm(dim=-1, keepdim=True) / floor.clamp(min=torch.finfo(still.dtype).tiny) - 1
        vectors = still + (vectors - still) * excess.clamp(0, 1)
    squares = vectors.square().sum(-1, keepdim=True) + eps**2
    if floor is not None:
        squares = squares.clamp(min=floor.square())
    return vectors * squares.rsqrt()


def info_nce(
    anchors: Tensor, positives: Tensor, negatives: Tensor, tau: float = 0.5, floor: Tensor | None = None
) -> Tensor:
    """InfoNCE with cosine similarity (Oord, Li and Vinyals 2018; Eqs 4 and 5).

    Per anchor ``-log(e^(cos(q, k+) / tau) / (e^(cos(q, k+) / tau) + sum_n e^(cos(q, k_n) /
    tau)))``. As printed, Eq. 4 has ``tau`` outside the exponential, where it cancels. Which vectors
    are negatives of which anchors (Eq. 6) is the caller's choice.

    Args:
        anchors: (A, d) queries. Vectors need not be of length one, here and below.
        positives: (A, d), one an anchor.
        negatives: (n, d) shared by all anchors, or (A, n, d) of their own.
        tau: Temperature, above 0.
        floor: Length of anchors below which they teach nothing; see :func:`unit`.

    Returns:
        (A,) losses, not reduced; each is about log(n) while nothing is learnt.

    Raises:
        ValueError: Shapes that do not fit, or a temperature not above 0.
    """
    num_anchors, dim = anchors.shape
    if positives.shape != anchors.shape:
        raise ValueError(
            f'positives have shape {tuple(positives.shape)}; there must be one an anchor, {tuple(anchors.shape)}'
        )
    if negatives.shape[-1] != dim or negatives.shape[:-2] not in ((), (num_anchors,)):
        raise ValueError(
            f'negatives have shape {tuple(negatives.shape)}; allowed are (n, {dim}) for all '
            f'anchors and ({num_anchors}, n, {dim}) for each its own'
        )
    if tau <= 0:
        raise ValueError(f'tau is {tau}; it must be above 0')
    # Divided by tau here, and the positive added after the sum: with thousands of negatives, each
    # pass over the (A, n) logits takes longer than all the rest.
    anchors, negatives = unit(anchors, floor=floor) / tau, unit(negatives)
    positive = (anchors * unit(positives)).sum(-1)
    if negatives.dim() == 2:
        negative = anchors @ negatives.T
    else:
        negative = torch.einsum('ad,and->an', anchors, negatives)
    return torch.logaddexp(positive, negative.logsumexp(dim=1)) - positive
