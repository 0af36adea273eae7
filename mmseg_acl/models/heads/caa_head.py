"""Cross-image affinity aggregation (Eqs 7 and 8)."""

from __future__ import annotations

import torch
from mmengine.dist import broadcast
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_acl.models.heads.affinity_head import Affinity
from mmseg_acl.models.semi.contrast import unit
from mmseg_acl.models.semi.kmeans import cosine_kmeans
from mmseg_acl.models.semi.memory_bank import MemoryBank
from mmseg_acl.models.semi.precision import full_precision


@MODELS.register_module()
class CAAHead(BaseModule):
    """Affinity between the pixels of an image, joined with what clusters of the memory bank say (Eqs 7 and 8).

    It lies on the way of the pseudo-labels, which carries no gradient, and has no parameters. Its
    clusters H are buffers.

    Args:
        dim: Length of the affinity vectors and of the bank's keys.
        num_clusters: k of the k-means.
        tau: Temperature of the assignment, Eq. 7.
        interval: Iterations between two runs of k-means.
        lloyd_steps: Steps of one run; it starts from the clusters of the last.
        max_keys: Most keys of the bank that one run looks at.
        init_cfg: Passed to mmengine's ``BaseModule``.

    Raises:
        ValueError: A number below 1, or ``tau`` not above 0.
    """

    def __init__(
        self,
        dim: int,
        num_clusters: int = 10,
        tau: float = 0.5,
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
        if tau <= 0:
            raise ValueError(f'tau is {tau}; it must be above 0')
        if max_keys < num_clusters:
            raise ValueError(f'max_keys is {max_keys}; {num_clusters} clusters need at least as many keys')
        self.num_clusters = num_clusters
        self.tau = tau
        self.interval = interval
        self.lloyd_steps = lloyd_steps
        self.max_keys = max_keys
        self.register_buffer('clusters', torch.zeros(num_clusters, dim))
        self.register_buffer('has_clusters', torch.zeros((), dtype=torch.bool))

    def update(self, bank: MemoryBank, iteration: int) -> bool:
        """Cluster the bank's keys, every ``interval`` iterations, once two rings have keys and
        there are enough for k clusters.

        In distributed training every rank has to call it; all take over the clusters of rank 0.

        Args:
            bank: The memory bank M.
            iteration: Of the training, from 0.

        Returns:
            Whether k-means ran.
        """
        fill = bank.fill.tolist()
        if iteration % self.interval or sum(count > 0 for count in fill) < 2 or sum(fill) < self.num_clusters:
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
    def forward(self, student: Affinity, teacher: Affinity, valid: Tensor | None = None) -> Tensor:
        """Join the affinity within an image with the affinity across images (Eq. 8).

        ``Aff_CAA = (rownorm(Aff_m) + rownorm(S S^T)) / 2``, with Aff_m the mean of the student's and the teacher's
        map (Eq. 1). As printed, ``concat(Aff_t, S H)`` is not square and cannot weigh pixels in Eq. 11; what its two
        halves say of a pair of pixels can: how alike they are within their image, and whether they are assigned to
        the same clusters of all images. Before there are clusters, or without AG, the first half stands alone.

        The map and not the cosine of vectors, because it is the map that is trained to say what belongs together
        (docs/aclnet.md has what either does to labels).

        Args:
            student: The student's affinity.
            teacher: The teacher's.
            valid: (B, N) bool, false on padding, which no row looks at. None for all.

        Returns:
            (B, N, N) row-stochastic.
        """
        if valid is None:
            valid = torch.ones_like(student.map[..., 0], dtype=torch.bool)
        # Of an image that is nothing but padding, all pixels count: a row has to sum to 1.
        valid = (valid | ~valid.any(1, keepdim=True)).to(student.map.dtype)
        affinity = _rows(student.map + teacher.map, valid)
        if self.has_clusters:
            shares = self.assign(student.vectors)
            affinity = affinity.add_(_rows(shares @ shares.transpose(1, 2), valid)).div_(2)
        return affinity


def _rows(affinity: Tensor, valid: Tensor) -> Tensor:
    """Normalise the rows of positive (B, N, N) affinities over the columns that are 1, not 0, in (B, N) ``valid``."""
    affinity = affinity * valid[:, None]
    return affinity.div_(affinity.sum(-1, keepdim=True).clamp(min=torch.finfo(affinity.dtype).tiny))
