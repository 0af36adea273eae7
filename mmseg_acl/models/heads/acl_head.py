"""Affinity contrastive learning between student and teacher (Eqs 2 to 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_acl.models.heads.affinity_head import Affinity
from mmseg_acl.models.semi.contrast import info_nce
from mmseg_acl.models.semi.length_floor import LengthFloor
from mmseg_acl.models.semi.memory_bank import MemoryBank
from mmseg_acl.models.semi.precision import full_precision

# A score whose spread is smaller than this has nothing to be stretched.
_FLAT = 1e-6
# The region of a pixel that is in none.
UNCERTAIN = -1


class Regions(NamedTuple):
    """What the affinity says of each pixel (Eq. 2).

    Attributes:
        score: (B, N, K) score in [0, 1] of each of the K foreground classes.
        region: (B, N) integers: the class a pixel is reliably of, 0 for background; -1 where it is uncertain.
    """

    score: Tensor
    region: Tensor

    @property
    def label(self) -> Tensor:
        """(B, N) integers: the class of the highest score, 0 where none is above one half (Eq. 3)."""
        top, best = self.score.max(-1)
        return torch.where(top > 0.5, best + 1, 0)

    @property
    def foreground(self) -> Tensor:
        """(B, N) bool: reliably of a foreground class."""
        return self.region > 0

    @property
    def reliable(self) -> Tensor:
        """(B, N) bool: foreground or background."""
        return self.region != UNCERTAIN


@MODELS.register_module()
class ACLHead(BaseModule):
    """The loss L_tra that aligns the student's affinity with the teacher's (Eqs 2 to 6).

    It has no parameters; its memory bank, one ring of teacher keys for each class, is in its buffers.

    The paper has two classes, background and polyp. With more, every foreground class has its own score, ring,
    anchors and loss; with two, all is as the paper has it. A class that is rare, or never there, holds up no
    other.

    Args:
        dim: Length of the affinity vectors (for ``vectors='rows'`` the number of pixels).
        num_classes: Classes with the background, at least 2.
        bank_size: Keys a ring holds; also the most negatives that an anchor is compared with.
        min_keys: Keys that the ring of a class, and those of all others together, must hold before the class has
            a loss.
        num_anchors: Most anchors, and so most keys stored, a class and step.
        tau: Temperature of Eq. 4.
        beta: Thresholds (beta_l, beta_h) of Eq. 2, 0 < beta_l < beta_h < 1.
        init_cfg: Passed to mmengine's ``BaseModule``.

    Raises:
        ValueError: Thresholds out of order, more ``min_keys`` than a ring holds, or fewer than two classes.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int = 2,
        bank_size: int = 8192,
        min_keys: int = 1024,
        num_anchors: int = 256,
        tau: float = 0.5,
        beta: tuple[float, float] = (0.45, 0.75),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        low, high = beta
        if not 0 < low < high < 1:
            raise ValueError(f'beta is {tuple(beta)}; needed is 0 < beta[0] < beta[1] < 1')
        if not 1 <= min_keys <= bank_size:
            raise ValueError(f'min_keys is {min_keys}; it must be between 1 and bank_size, which is {bank_size}')
        if num_classes < 2:
            raise ValueError(f'num_classes is {num_classes}; regions need a background and at least one foreground')
        if num_anchors < 1:
            raise ValueError(f'num_anchors is {num_anchors}; it must be at least 1')
        self.min_keys = min_keys
        self.num_anchors = num_anchors
        self.tau = tau
        self.beta = (low, high)
        self.bank = MemoryBank(num_classes, bank_size, dim)
        self.query_floor, self.key_floor = LengthFloor(), LengthFloor()

    @torch.no_grad()
    @full_precision
    def regions(self, student: Tensor, teacher: Tensor, prob: Tensor, valid: Tensor | None = None) -> Regions:
        """Split pixels into reliable ones of a class and uncertain ones (Eq. 2).

        The score of a foreground class c is ``a_c = rownorm(Aff_m) @ p_c`` with Aff_m the mean of both maps,
        stretched per image to [0, 1]. A pixel is reliably of the class of its highest score where that is at
        least ``beta_h``, and reliably background where every score is at most ``beta_l``.

        With two classes the stretch is unconditional: an image on which the teacher sees no polyp still shows
        where it would be likeliest, and were it left out, a weak teacher would never fill the foreground's ring.
        With more, only classes that the teacher's arg max shows in the image are stretched: of the many that are
        not there, each would be "reliable" at its best spot.

        Args:
            student: (B, N, N) map in (0, 1).
            teacher: (B, N, N) map in (0, 1).
            prob: (B, N, C) the teacher's probabilities.
            valid: (B, N) bool, false on padding, which gives no weight and is never reliable. None
                for all.

        Returns:
            The regions.
        """
        valid = _all_valid(valid, prob)
        weight = valid.to(prob)[..., None]
        # Averages with each map apart; the mean of the maps would be one more N x N tensor.
        sums = torch.cat([prob[..., 1:] * weight, weight], dim=-1)
        score = torch.bmm(student, sums) + torch.bmm(teacher, sums)
        score = score[..., :-1] / score[..., -1:].clamp(min=torch.finfo(score.dtype).tiny)
        padding = ~valid[..., None]
        low = score.masked_fill(padding, float('inf')).amin(1, keepdim=True)
        high = score.masked_fill(padding, float('-inf')).amax(1, keepdim=True)
        spread = high - low
        stretched = spread > _FLAT
        if prob.shape[-1] > 2:
            shown = prob.argmax(-1).masked_fill(~valid, 0)
            stretched &= F.one_hot(shown, prob.shape[-1])[..., 1:].any(1, keepdim=True)
        score = torch.where(stretched, (score - low) / spread.clamp(min=_FLAT), score).clamp(0, 1)
        top, best = score.max(-1)
        region = torch.where(top >= self.beta[1], best + 1, UNCERTAIN)
        return Regions(score, region.masked_fill(top <= self.beta[0], 0).masked_fill(~valid, UNCERTAIN))

    @full_precision
    def queries_keys(
        self,
        student: Affinity,
        teacher: Affinity,
        regions: Regions,
        rows: Tensor,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute affinity queries and keys, ``Q = M @ Z_student`` and ``K = M @ Z_teacher``.

        M is the mean of both maps, filtered (:func:`filtered_rows`). Only the rows asked for are computed: the loss
        needs a few hundred of the thousands of pixels.

        Args:
            student: The student's affinity.
            teacher: The teacher's; no gradient flows into it.
            regions: Of the same pixels.
            rows: (n,) indices into the B * N pixels of the batch, ascending.
            valid: (B, N) bool, false on padding. None for all.

        Returns:
            Queries (n, d), and keys (n, d) without gradient.
        """
        batch, pixels, _ = student.vectors.shape
        valid = _all_valid(valid, regions.score)
        teacher = teacher.detach()
        # One selection for all images: the gradient of one is a tensor of the size of all maps.
        affinity = student.map.flatten(0, 1).index_select(0, rows)
        affinity = (affinity + teacher.map.flatten(0, 1).index_select(0, rows)) / 2
        counts = (rows // pixels).bincount(minlength=batch).tolist()
        queries, keys = [], []
        for b, (own, part, vectors) in enumerate(
            zip(rows.split(counts), affinity.split(counts), student.vectors.unbind(), strict=True)
        ):
            filtered = filtered_rows(part, regions.region[b], valid[b], own % pixels)
            queries.append(filtered @ vectors)
            keys.append(filtered.detach() @ teacher.vectors[b])
        return torch.cat(queries), torch.cat(keys)

    @full_precision
    def forward(
        self, student: Affinity, teacher: Affinity, prob: Tensor, valid: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Store the teacher's keys of one batch of unlabelled images, and compute L_tra (Eq. 4).

        Anchors are drawn among reliable pixels, at most ``num_anchors`` a class; the positive of an
        anchor is the same location in the keys, its negatives are the bank keys of all other labels
        (Eq. 6), ``bank_size`` of them at most; a pixel's label is that of Eq. 3.

        Args:
            student: The student's affinity.
            teacher: The teacher's, of the same geometry.
            prob: (B, N, C) the teacher's probabilities.
            valid: (B, N) bool, false on padding. None for all.

        Returns:
            ``loss_contrast``, the mean over anchors, which is a zero that reaches the student while no class has
            a loss; and, to be watched, ``reliable_share`` (of
            valid pixels), ``foreground_share`` (of reliable pixels), ``positive_cosine`` (mean of
            anchors with their positives; 0 before there is a loss), ``bank_foreground`` (mean of the foreground
            classes) and ``bank_background`` (fill, in [0, 1]).
        """
        valid = _all_valid(valid, prob)
        regions = self.regions(student.map.detach(), teacher.map.detach(), prob.detach(), valid)
        classes = range(len(self.bank.sizes))
        rows = torch.cat([self._draw(regions.region == label) for label in classes])
        rows = rows.sort().values
        queries, keys = self.queries_keys(student, teacher, regions, rows, valid)
        labels = regions.label.flatten()[rows]
        floor, clear = self._floors(queries, keys)
        # An anchor does not learn from a key whose direction is noise.
        queries = queries.where(clear[:, None], queries.detach())
        # Before the loss: the keys of these very images, of the other labels, are negatives too.
        self.bank.enqueue(keys[clear], labels[clear])

        ready = self._ready()
        losses = [
            info_nce(
                queries[labels == label],
                keys[labels == label],
                self.bank.negatives(label, self.bank.sizes[label]),
                self.tau,
                floor,
            )
            for label in classes
            if ready[label]
        ]
        if sum(map(len, losses)):
            loss = torch.cat(losses).mean()
            cosine = torch.cosine_similarity(queries.detach(), keys).mean()
        else:
            loss = 0 * (student.map.sum() + student.vectors.sum())
            cosine = torch.zeros_like(loss)

        reliable = regions.reliable.sum()
        fill = self.bank.fill / self.bank.keys.shape[1]
        return dict(
            loss_contrast=loss,
            reliable_share=reliable / valid.sum().clamp(min=1),
            foreground_share=regions.foreground.sum() / reliable.clamp(min=1),
            positive_cosine=cosine,
            bank_background=fill[0],
            bank_foreground=fill[1:].mean(),
        )

    def _floors(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The least length of queries that are to learn, and which keys (n,) are long enough to teach."""
        lengths = keys.norm(dim=1)
        return self.query_floor(queries.detach().norm(dim=1)), lengths > self.key_floor(lengths)

    def _ready(self) -> list[bool]:
        """For each class, whether its own ring and those of all others together hold enough keys for a loss."""
        fill = self.bank.fill.tolist()
        return [min(own, sum(fill) - own) >= self.min_keys for own in fill]

    def _draw(self, mask: Tensor) -> Tensor:
        """Draw at most ``num_anchors`` pixels of a (B, N) mask: (n,) indices into its entries."""
        candidates = mask.flatten().nonzero().squeeze(1)
        order = torch.randperm(len(candidates), device=candidates.device)
        return candidates[order[: self.num_anchors]]


def filtered_rows(affinity: Tensor, region: Tensor, valid: Tensor, rows: Tensor) -> Tensor:
    """Cut the affinity of one image between reliable pixels of different regions (Eq. 2).

    ``M = rownorm(Aff_m * G)`` with G_ij = 0 where i and j are reliably of different classes, else 1.

    Args:
        affinity: (n, N) rows of the map Aff_m in (0, 1).
        region: (N,) as in :class:`Regions`.
        valid: (N,) bool, false on padding, which no row looks at.
        rows: (n,) which pixels the rows are of.

    Returns:
        (n, N) with rows that sum to 1; a row is zero where nothing is left of it.
    """
    reliable = region != UNCERTAIN
    cut = (reliable[rows, None] & reliable & (region[rows, None] != region)) | ~valid
    affinity = affinity.masked_fill(cut, 0)
    return affinity / affinity.sum(-1, keepdim=True).clamp(min=torch.finfo(affinity.dtype).tiny)


def _all_valid(valid: Tensor | None, like: Tensor) -> Tensor:
    """``valid`` (B, N), or all pixels of ``like`` (B, N, any)."""
    return torch.ones_like(like[..., 0], dtype=torch.bool) if valid is None else valid
