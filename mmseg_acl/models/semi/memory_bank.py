"""The memory bank M: teacher keys of past images, by class (used in Eqs 4, 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn

from mmseg_acl.models.semi.contrast import unit


class MemoryBank(nn.Module):
    """One first-in-first-out ring of keys a class.

    Rings and their positions are buffers: they are saved and resumed with the model. In distributed
    training every rank stores the keys of all ranks, so the rings stay equal.

    Args:
        num_classes: Number of rings.
        size: Keys a ring holds; one number for all rings or one each.
        dim: Length of a key.

    Attributes:
        sizes: Keys each ring holds. Rings lie in one buffer, as long as the longest.

    Raises:
        ValueError: A number below 1, or another number of sizes than of rings.
    """

    def __init__(self, num_classes: int, size: int | Sequence[int], dim: int) -> None:
        super().__init__()
        self.sizes = [size] * num_classes if isinstance(size, int) else list(size)
        for name, values in dict(num_classes=[num_classes], size=self.sizes, dim=[dim]).items():
            if min(values, default=0) < 1:
                raise ValueError(f'{name} is {min(values, default=0)}; a memory bank needs at least 1')
        if len(self.sizes) != num_classes:
            raise ValueError(
                f'{len(self.sizes)} sizes are given for {num_classes} rings; give one number, or one each'
            )
        self.register_buffer('keys', torch.zeros(num_classes, max(self.sizes), dim))
        self.register_buffer('fill', torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer('cursor', torch.zeros(num_classes, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Tensor) -> None:
        """Store keys in the rings of their labels, the oldest giving way.

        In distributed training every rank has to call it, with no keys if it has none.

        Args:
            keys: (n, d); they are stored L2-normalised. Of more keys of one label than a ring
                holds, the last stay.
            labels: (n,) integers in [0, num_classes).

        Raises:
            ValueError: Keys of another length, or a label without a ring.
        """
        num_classes, _, dim = self.keys.shape
        if keys.dim() != 2 or keys.shape[1] != dim or labels.shape != keys.shape[:1]:
            raise ValueError(
                f'keys have shape {tuple(keys.shape)} and labels {tuple(labels.shape)}; this bank '
                f'takes (n, {dim}) and (n,)'
            )
        keys, labels = _from_all_ranks(unit(keys.to(self.keys.dtype)), labels.long())
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(
                f'labels reach from {int(labels.min())} to {int(labels.max())}; allowed are 0 to {num_classes - 1}'
            )
        for label, size in enumerate(self.sizes):
            new = keys[labels == label][-size:]
            slots = (self.cursor[label] + torch.arange(len(new), device=new.device)) % size
            self.keys[label, slots] = new
            self.cursor[label] = (self.cursor[label] + len(new)) % size
            self.fill[label] = (self.fill[label] + len(new)).clamp(max=size)

    @torch.no_grad()
    def keep(self, counts: Tensor) -> None:
        """Forget all but the newest keys of each ring.

        Args:
            counts: (num_classes,) integers, how many keys of each label stay; where there are fewer, all do.
        """
        for label, (count, size) in enumerate(zip(counts.tolist(), self.sizes, strict=True)):
            count = min(count, int(self.fill[label]))
            slots = (self.cursor[label] - count + torch.arange(count, device=self.keys.device)) % size
            self.keys[label, :count] = self.keys[label, slots]
            self.cursor[label] = count % size
            self.fill[label] = count

    def negatives(self, label: int, most: int | None = None) -> Tensor:
        """Return keys of every other label (Eq. 6).

        Args:
            label: The anchors' label.
            most: How many at most; where there are more they are drawn, each key equally likely. None for all.

        Returns:
            (n, d), of length one each.
        """
        return _draw(torch.cat([self.ring(other) for other in range(len(self.keys)) if other != label]), most)

    def ring(self, label: int) -> Tensor:
        """Return the keys of one label, (n, d), in the order of their slots."""
        return self.keys[label, : int(self.fill[label])]

    def sample(self, num_keys: int) -> Tensor:
        """Draw keys of all labels, each key equally likely.

        Args:
            num_keys: How many are wanted.

        Returns:
            (n, d), n the smaller of ``num_keys`` and the number of keys stored.
        """
        return _draw(torch.cat([self.ring(label) for label in range(len(self.keys))]), num_keys)


def _draw(keys: Tensor, most: int | None) -> Tensor:
    """``most`` of (n, d) keys, in random order; all of them, in theirs, where there are no more."""
    if most is None or len(keys) <= most:
        return keys
    return keys[torch.randperm(len(keys), device=keys.device)[:most]]


def _from_all_ranks(keys: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Join (n, d) keys and (n,) labels of all ranks in order; n may differ between ranks."""
    if get_world_size() == 1:
        return keys, labels
    count = torch.tensor([len(keys)], device=keys.device)
    counts = [int(other) for other in all_gather(count)]
    padding = max(counts) - len(keys)
    padded_keys = torch.cat([keys, keys.new_zeros(padding, keys.shape[1])])
    padded_labels = torch.cat([labels, labels.new_zeros(padding)])
    all_keys, all_labels = all_gather(padded_keys), all_gather(padded_labels)
    return (
        torch.cat([part[:n] for part, n in zip(all_keys, counts, strict=True)]),
        torch.cat([part[:n] for part, n in zip(all_labels, counts, strict=True)]),
    )
