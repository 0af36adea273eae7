"""Affinity contrastive learning between student and teacher (Eqs 2 to 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_acl.models.heads.affinity_head import Affinity
from mmseg_acl.models.semi.contrast import info_nce
from mmseg_acl.models.semi.memory_bank import MemoryBank
from mmseg_acl.models.semi.precision import full_precision

# A score whose spread is smaller than this has nothing to be stretched.
_FLAT = 1e-6


class Regions(NamedTuple):
    """What the affinity says of each pixel (Eq. 2).

    Attributes:
        score: (B, N) foreground score in [0, 1].
        foreground: (B, N) bool, reliably foreground.
        background: (B, N) bool, reliably background. A pixel in neither is uncertain.
    """

    score: Tensor
    foreground: Tensor
    background: Tensor

    @property
    def reliable(self) -> Tensor:
        """(B, N) bool: foreground or background."""
        return self.foreground | self.background


@MODELS.register_module()
class ACLHead(BaseModule):
    """The loss L_tra that aligns the student's affinity with the teacher's (Eqs 2 to 6).

    It has no parameters; its memory bank, one ring of teacher keys for background and one for
    foreground, is in its buffers.

    Args:
        dim: Length of the affinity vectors (for ``vectors='rows'`` the number of pixels).
        bank_size: Keys a ring holds.
        min_keys: Keys every ring must hold before there is a loss.
        num_anchors: Most anchors, and so most keys stored, a class and step.
        tau: Temperature of Eq. 4.
        beta: Thresholds (beta_l, beta_h) of Eq. 2, 0 < beta_l < beta_h < 1.
        init_cfg: Passed to mmengine's ``BaseModule``.

    Raises:
        ValueError: Thresholds out of order, or more ``min_keys`` than a ring holds.
    """

    def __init__(
        self,
        dim: int,
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
        if num_anchors < 1:
            raise ValueError(f'num_anchors is {num_anchors}; it must be at least 1')
        self.min_keys = min_keys
        self.num_anchors = num_anchors
        self.tau = tau
        self.beta = (low, high)
        self.bank = MemoryBank(num_classes=2, size=bank_size, dim=dim)

    @torch.no_grad()
    @full_precision
    def regions(self, student: Tensor, teacher: Tensor, p_fg: Tensor, valid: Tensor | None = None) -> Regions:
        """Split pixels into foreground, background and uncertain ones (Eq. 2).

        The score is ``a = rownorm(Aff_m) @ p_fg`` with Aff_m the mean of both maps, stretched per
        image to [0, 1]; Eq. 2 compares it with the thresholds. The stretch is unconditional: an
        image on which the teacher sees no polyp still shows where it would be likeliest, and were
        it left out, a weak teacher would never fill the foreground's ring.

        Args:
            student: (B, N, N) map in (0, 1).
            teacher: (B, N, N) map in (0, 1).
            p_fg: (B, N) the teacher's foreground probability.
            valid: (B, N) bool, false on padding, which gives no weight and is never reliable. None
                for all.

        Returns:
            The regions.
        """
        valid = _all_valid(valid, p_fg)
        weight = valid.to(p_fg.dtype)
        # Averages with each map apart; the mean of the maps would be one more N x N tensor.
        sums = torch.stack([p_fg * weight, weight], dim=-1)
        score = torch.bmm(student, sums) + torch.bmm(teacher, sums)
        score = score[..., 0] / score[..., 1].clamp(min=torch.finfo(score.dtype).tiny)
        low = score.masked_fill(~valid, float('inf')).amin(1, keepdim=True)
        high = score.masked_fill(~valid, float('-inf')).amax(1, keepdim=True)
        spread = high - low
        score = torch.where(spread > _FLAT, (score - low) / spread.clamp(min=_FLAT), score)
        score = score.clamp(0, 1)
        return Regions(score, (score >= self.beta[1]) & valid, (score <= self.beta[0]) & valid)

    @staticmethod
    def filter(affinity: Tensor, regions: Regions, valid: Tensor | None = None) -> Tensor:
        """Cut the affinity between reliable pixels of different regions (Eq. 2).

        ``M = rownorm(Aff_m * G)`` with G_ij = 0 where i is reliably foreground and j reliably
        background or the reverse, else 1.

        Args:
            affinity: (B, N, N) map Aff_m in (0, 1).
            regions: Of the same pixels.
            valid: (B, N) bool, false on padding, which no row looks at. None for all.

        Returns:
            (B, N, N) row-stochastic; a row is zero where nothing is left of it.
        """
        valid = _all_valid(valid, regions.score)
        return torch.stack(
            [
                _filtered_rows(affinity[b], regions.foreground[b], regions.background[b], valid[b], slice(None))
                for b in range(len(affinity))
            ]
        )

    @full_precision
    def queries_keys(
        self,
        student: Affinity,
        teacher: Affinity,
        regions: Regions,
        valid: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute affinity queries and keys, ``Q = M @ Z_student`` and ``K = M @ Z_teacher``.

        Only the rows asked for are computed: the loss needs a few hundred of the thousands of
        pixels.

        Args:
            student: The student's affinity.
            teacher: The teacher's; no gradient flows into it.
            regions: Of the same pixels.
            valid: (B, N) bool, false on padding. None for all.
            rows: (n,) indices into the B * N pixels of the batch, ascending. None for all.

        Returns:
            Queries (n, d), and keys (n, d) without gradient.
        """
        batch, pixels, _ = student.vectors.shape
        if rows is None:
            rows = torch.arange(batch * pixels, device=student.vectors.device)
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
            filtered = _filtered_rows(part, regions.foreground[b], regions.background[b], valid[b], own % pixels)
            queries.append(filtered @ vectors)
            keys.append(filtered.detach() @ teacher.vectors[b])
        return torch.cat(queries), torch.cat(keys)

    @full_precision
    def forward(
        self, student: Affinity, teacher: Affinity, p_fg: Tensor, valid: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Store the teacher's keys of one batch of unlabelled images, and compute L_tra (Eq. 4).

        Anchors are drawn among reliable pixels, at most ``num_anchors`` a class; the positive of an
        anchor is the same location in the keys, its negatives are all bank keys of the other label
        (Eq. 6); a pixel's label is [score > 0.5] (Eq. 3).

        Args:
            student: The student's affinity.
            teacher: The teacher's, of the same geometry.
            p_fg: (B, N) the teacher's foreground probability.
            valid: (B, N) bool, false on padding. None for all.

        Returns:
            ``loss_contrast``, the mean over anchors, which is a zero that reaches the student while a
            ring holds fewer than ``min_keys`` keys; and, to be watched, ``reliable_share`` (of
            valid pixels), ``foreground_share`` (of reliable pixels), ``positive_cosine`` (mean of
            anchors with their positives; 0 before there is a loss), ``bank_foreground`` and
            ``bank_background`` (fill, in [0, 1]).
        """
        valid = _all_valid(valid, p_fg)
        regions = self.regions(student.map.detach(), teacher.map.detach(), p_fg.detach(), valid)
        rows = torch.cat([self._draw(regions.background), self._draw(regions.foreground)])
        rows = rows.sort().values
        queries, keys = self.queries_keys(student, teacher, regions, valid, rows)
        labels = (regions.score.flatten()[rows] > 0.5).long()
        # Before the loss: the keys of these very images, of the other label, are negatives too.
        self.bank.enqueue(keys, labels)

        if len(rows) and int(self.bank.fill.min()) >= self.min_keys:
            losses = [
                info_nce(
                    queries[labels == label],
                    keys[labels == label],
                    self.bank.negatives(label),
                    self.tau,
                )
                for label in (0, 1)
            ]
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
            bank_foreground=fill[1],
        )

    def _draw(self, mask: Tensor) -> Tensor:
        """Draw at most ``num_anchors`` pixels of a (B, N) mask: (n,) indices into its entries."""
        candidates = mask.flatten().nonzero().squeeze(1)
        order = torch.randperm(len(candidates), device=candidates.device)
        return candidates[order[: self.num_anchors]]


def _filtered_rows(
    affinity: Tensor,
    foreground: Tensor,
    background: Tensor,
    valid: Tensor,
    rows: Tensor | slice,
) -> Tensor:
    """Filter (n, N) rows of one image's map; the masks are (N,), ``rows`` says which rows."""
    cut = (foreground[rows, None] & background) | (background[rows, None] & foreground) | ~valid
    affinity = affinity.masked_fill(cut, 0)
    return affinity / affinity.sum(-1, keepdim=True).clamp(min=torch.finfo(affinity.dtype).tiny)


def _all_valid(valid: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones_like(like, dtype=torch.bool) if valid is None else valid
