"""Cross-image affinity aggregation (Eqs 7 and 8)."""

from __future__ import annotations

import torch
from mmengine.dist import broadcast
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_acl.models.heads.affinity_head import centre
from mmseg_acl.models.semi.contrast import unit
from mmseg_acl.models.semi.kmeans import cosine_kmeans
from mmseg_acl.models.semi.memory_bank import MemoryBank
from mmseg_acl.models.semi.precision import full_precision


@MODELS.register_module()
class CAAHead(BaseModule):
    """Affinity between the pixels of an image, seen through clusters of the memory bank (Eqs 7 and
    8).

    It lies on the way of the pseudo-labels, which carries no gradient, and has no parameters. Its
    clusters H are buffers.

    Args:
        dim: Length of the affinity vectors and of the bank's keys.
        num_clusters: k of the k-means.
        tau: Temperature of the assignment, Eq. 7.
        temperature: Of the row softmax that turns cosines into the affinity of Eq. 8.
        interval: Iterations between two runs of k-means.
        lloyd_steps: Steps of one run; it starts from the clusters of the last.
        max_keys: Most keys of the bank that one run looks at.
        init_cfg: Passed to mmengine's ``BaseModule``.

    Raises:
        ValueError: A number below 1, or a temperature not above 0.
    """

    def __init__(
        self,
        dim: int,
        num_clusters: int = 10,
        tau: float = 0.5,
        temperature: float = 0.05,
        interval: int = 50,
        lloyd_steps: int = 10,
        max_keys: int = 4096,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        counts = dict(num_clusters=num_clusters, interval=interval, lloyd_steps=lloyd_steps, max_keys=max_keys)
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f'{name} is {value}; it must be at least 1')
        for name, value in dict(tau=tau, temperature=temperature).items():
            if value <= 0:
                raise ValueError(f'{name} is {value}; it must be above 0')
        if max_keys < num_clusters:
            raise ValueError(f'max_keys is {max_keys}; {num_clusters} clusters need at least as many keys')
        self.num_clusters = num_clusters
        self.tau = tau
        self.temperature = temperature
        self.interval = interval
        self.lloyd_steps = lloyd_steps
        self.max_keys = max_keys
        self.register_buffer('clusters', torch.zeros(num_clusters, dim))
        self.register_buffer('has_clusters', torch.zeros((), dtype=torch.bool))

    def update(self, bank: MemoryBank, iteration: int) -> bool:
        """Cluster the bank's keys, every ``interval`` iterations, once every ring has keys and
        there are enough for k clusters.

        In distributed training every rank has to call it; all take over the clusters of rank 0.

        Args:
            bank: The memory bank M.
            iteration: Of the training, from 0.

        Returns:
            Whether k-means ran.
        """
        if iteration % self.interval or int(bank.fill.min()) == 0 or int(bank.fill.sum()) < self.num_clusters:
            return False
        start = self.clusters if self.has_clusters else None
        clusters = cosine_kmeans(bank.sample(self.max_keys), self.num_clusters, self.lloyd_steps, start)
        broadcast(clusters)
        self.clusters.copy_(clusters)
        self.has_clusters.fill_(True)
        return True

    @torch.no_grad()
    @full_precision
    def assign(self, vectors: Tensor) -> Tensor:
        """Compare pixels with the clusters: ``S = softmax_k(cos(Z_s, H) / tau)`` (Eq. 7).

        Args:
            vectors: (B, N, d), the student's, centred.

        Returns:
            (B, N, k) with rows that sum to 1.
        """
        return (unit(vectors) @ self.clusters.T / self.tau).softmax(-1)

    @torch.no_grad()
    @full_precision
    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Aggregate the affinity across images: ``E = concat(Z_t, Z_s + S H)``, pairwise
        ``softmax_j(cos(E_i, E_j) / temperature)`` (Eq. 8).

        As printed, the concatenation is not square and cannot weigh pixels in Eq. 11; the cosines
        between its rows can. Its second half is the student's vector enriched by what the clusters
        add, like any attention with its residual: the paper wants "intra-image context from both
        student and teacher" in it, and S H alone has lost it. Ten clusters of smoothed keys lie
        nearly on one line, so alone they say little more than on which side of it a pixel is
        (docs/aclnet.md has what that does to labels). All parts are centred per
        image and of length one before they are joined, so that none drowns another. Before there
        are clusters, or without AG, S H is zero.

        Args:
            student: (B, N, d) vectors, centred.
            teacher: (B, N, d) vectors, centred.
            valid: (B, N) bool, false on padding, which no row looks at. None for all.

        Returns:
            (B, N, N) row-stochastic.
        """
        context = unit(student)
        if self.has_clusters:
            context = context + unit(centre(self.assign(student) @ self.clusters, valid))
        joined = unit(torch.cat([unit(teacher), unit(context)], dim=-1))
        logits = torch.bmm(joined, joined.transpose(1, 2)).div_(self.temperature)
        if valid is not None:
            logits.masked_fill_((~valid & valid.any(1, keepdim=True))[:, None], float('-inf'))
        return logits.softmax(-1)
