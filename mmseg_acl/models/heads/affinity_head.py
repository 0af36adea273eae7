"""The affinity of an image with itself: a symmetric map and vectors (Eq. 1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.models.semi.contrast import unit
from mmseg_acl.models.semi.length_floor import LengthFloor
from mmseg_acl.models.semi.precision import full_precision


class Affinity(NamedTuple):
    """What the non-local block makes of one network's features.

    Attributes:
        map: (B, N, N) in (0, 1), symmetric; N = h * w pixels, row by row.
        vectors: (B, N, d), centred per image. The paper writes Aff for both: the map serves Eqs 1
            and 2, the vectors Eqs 3 to 8.
    """

    map: Tensor
    vectors: Tensor

    def detach(self) -> Affinity:
        """Return the same values without a gradient."""
        return Affinity(self.map.detach(), self.vectors.detach())


def centre(vectors: Tensor, valid: Tensor | None = None) -> Tensor:
    """Subtract the mean over an image's pixels.

    Args:
        vectors: (B, N, d).
        valid: (B, N) bool; the mean is over these pixels. None for all.

    Returns:
        (B, N, d).
    """
    if valid is None:
        return vectors - vectors.mean(dim=1, keepdim=True)
    weight = valid[..., None].to(vectors.dtype)
    return vectors - (vectors * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)


@MODELS.register_module()
class AffinityHead(BaseModule):
    """A non-local block whose attention logits become a symmetric affinity map (Eq. 1).

    With ``x`` the features, reduced by a 1x1 convolution where they have more than ``channels``
    channels::

        A   = s * cos(W_q c(x), W_k c(x))        logits; c subtracts the image's mean, s is learnt,
        one a head Aff = sigmoid(conv1x1(A + A^T))          the map; the convolution joins the heads
        Z   = c(x + W_o(softmax(A) W_v x))       the vectors

    It is meaningful before any training: reduction and ``W_q = W_k`` start (semi-)orthogonal and so
    keep the geometry of the features, the convolution starts as a mean over heads, ``s`` at 5,
    ``W_o`` at zero (Wang et al. 2018). A freshly drawn block with plain dot products gives a nearly
    constant map, and labels made from it are noise.

    Args:
        in_channels: Channels of the features.
        channels: Width to reduce wider features to.
        num_heads: Attention heads; they must divide the width.
        vectors: ``'features'`` for Z as above; ``'rows'`` for the rows of the map itself (d = N),
            which is the more literal reading of Eqs 4 to 8 but ties the banks to one input size.
        init_cfg: Passed to mmengine's ``BaseModule``.

    Attributes:
        dim: Length d of the vectors; None with ``'rows'``, where it is the number of pixels.

    Raises:
        ValueError: An unknown ``vectors``, or heads that do not divide the width.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 128,
        num_heads: int = 1,
        vectors: str = 'features',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        width = min(in_channels, channels)
        if vectors not in ('features', 'rows'):
            raise ValueError(f"vectors is {vectors!r}; allowed are 'features' and 'rows'")
        if num_heads < 1 or width % num_heads:
            raise ValueError(f'num_heads is {num_heads}; it must divide the width of {width} channels')
        self.num_heads = num_heads
        self.vectors = vectors
        self.dim = width if vectors == 'features' else None
        self.reduce = nn.Conv2d(in_channels, width, 1, bias=False) if in_channels > width else nn.Identity()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.scale = nn.Parameter(torch.full((num_heads, 1, 1), 5.0))
        self.combine = nn.Conv2d(num_heads, 1, 1)
        self.floor = LengthFloor()
        if vectors == 'features':
            self.value = nn.Linear(width, width, bias=False)
            self.out = nn.Linear(width, width, bias=False)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        if isinstance(self.reduce, nn.Conv2d):
            nn.init.orthogonal_(self.reduce.weight)
        nn.init.orthogonal_(self.query.weight)
        self.key.weight.data.copy_(self.query.weight.data)
        # A + A^T counts each pair twice.
        nn.init.constant_(self.combine.weight, 0.5 / self.num_heads)
        nn.init.zeros_(self.combine.bias)
        if self.vectors == 'features':
            nn.init.orthogonal_(self.value.weight)
            nn.init.zeros_(self.out.weight)

    @full_precision
    def forward(self, features: Tensor, valid: Tensor | None = None) -> Affinity:
        """Compute the affinity of each image with itself, in float32 even under autocast.

        Args:
            features: (B, C, h, w).
            valid: (B, N) bool, N = h * w, false on padding: means are taken over valid pixels
                alone. None for all.

        Returns:
            The affinity.
        """
        x = self.reduce(features).flatten(2).transpose(1, 2)
        centred = centre(x, valid)
        query, key = (self._split(project(centred)) for project in (self.query, self.key))
        lengths = torch.stack([query.detach().norm(dim=-1), key.detach().norm(dim=-1)])
        floor = self.floor(lengths, None if valid is None else valid[:, None])
        query, key = unit(query, floor=floor), unit(key, floor=floor)
        logits = (query * self.scale) @ key.transpose(-1, -2)
        affinity = self.combine(logits + logits.transpose(-1, -2)).sigmoid().squeeze(1)
        if self.vectors == 'rows':
            return Affinity(affinity, centre(affinity, valid))
        if valid is not None:
            logits = logits.masked_fill(~valid[:, None, None, :] & valid.any(1)[:, None, None, None], float('-inf'))
        context = logits.softmax(-1) @ self._split(self.value(x))
        context = context.transpose(1, 2).flatten(2)
        return Affinity(affinity, centre(x + self.out(context), valid))

    def _split(self, vectors: Tensor) -> Tensor:
        """Split (B, N, d) into heads: (B, heads, N, d / heads)."""
        batch, pixels, _ = vectors.shape
        return vectors.view(batch, pixels, self.num_heads, -1).transpose(1, 2)
