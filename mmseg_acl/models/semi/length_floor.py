"""Which vectors are too short for their direction to say something."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

# A length below this share of the mean has no say in what is usual: it is that of a constant image, or of rounding.
_NONE = 0.01


class LengthFloor(nn.Module):
    """A share of the length that vectors usually have; shorter ones are to teach nothing.

    The gradient of a cosine is that of an angle over the vector's length: a pixel whose centred feature has a
    thousandth of the usual length, as on a black frame or in a layer that is dying, would teach a thousand times as
    much as any other, and what it taught would be noise.

    Usual is the lower quartile of the batches so far. The quartile and not the mean, since a small polyp's vectors
    are ten times as long as those around it once they are centred; the batches so far, since in one where all is
    short nothing would stand out. They are followed by at most ``1 / memory`` a batch, whatever it holds: a network
    that changes its scale for good is followed, one that collapses within some iterations is not. What is usual is a
    buffer: saved, resumed, and averaged by a teacher. In ``eval`` mode it stays as it is.

    Args:
        share: Of the usual length, in [0, 1).
        memory: Batches that it takes to follow a change of scale by a factor of e.

    Raises:
        ValueError: A share or memory out of range.
    """

    optional_state = ('usual',)

    def __init__(self, share: float = 0.25, memory: int = 100) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f'share is {share}; a share of the usual length is in [0, 1)')
        if memory < 1:
            raise ValueError(f'memory is {memory}; it must be at least 1')
        self.share, self.memory = share, memory
        self.register_buffer('usual', torch.zeros(()))

    @torch.no_grad()
    def forward(self, lengths: Tensor, valid: Tensor | None = None) -> Tensor:
        """The floor; in training, after these lengths were taken in.

        In distributed training every rank has to call it, and all have the same floor.

        Args:
            lengths: Not negative, of any shape.
            valid: Bool, of a shape that spreads over it; the others do not count. None for all.

        Returns:
            A scalar without gradient; 0 before there was a batch.
        """
        if self.training:
            self._follow(lengths.flatten() if valid is None else lengths[valid.expand_as(lengths)])
        return self.share * self.usual.to(lengths)

    def _follow(self, lengths: Tensor) -> None:
        lengths = lengths[lengths > _NONE * lengths.mean()].sort().values
        # The quartile and whether there is one, over all ranks.
        quartile = lengths[len(lengths) // 4] if len(lengths) else lengths.new_zeros(())
        found = torch.stack([quartile, quartile > 0])
        all_reduce(found)
        quartile, ranks = found
        if ranks > 0:
            quartile = quartile / ranks
            step = (quartile / self.usual).log().clamp(-1, 1) / self.memory
            self.usual.copy_(torch.where(self.usual > 0, self.usual * step.exp(), quartile))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Take a checkpoint from before there was a floor: nothing is known of lengths yet."""
        state_dict.setdefault(f'{prefix}usual', torch.zeros(()))
        super()._load_from_state_dict(state_dict, prefix, *args)
