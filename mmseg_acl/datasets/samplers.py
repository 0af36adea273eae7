"""A sampler that mixes labelled and unlabelled images in a fixed ratio."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler


class Draw(int):
    """An index of the data set that knows which draw it is.

    `SemiSupervisedDataset` seeds the sample's augmentations from it, so they depend neither on the
    number of workers nor on what was drawn before.

    Args:
        index (int): Index into the data set.
        number (int): Position in the stream of all draws from this source, over all ranks.
        seed (int): Seed of the sampler.
    """

    number: int
    seed: int

    def __new__(cls, index: int, number: int, seed: int) -> Draw:
        draw = super().__new__(cls, index)
        draw.number = number
        draw.seed = seed
        return draw

    def __getnewargs__(self) -> tuple[int, int, int]:
        # Pickling calls __new__ with these on the way to a worker process.
        return int(self), self.number, self.seed


@DATA_SAMPLERS.register_module()
class SourceRatioSampler(Sampler):
    """Endless draws in blocks: `ratio[0]` indices of source 0, then `ratio[1]` of source 1.

    Each source is a stream of its own that runs through a fresh permutation per pass, so over a
    pass every image comes up exactly once whatever the ratio. The ranks share the streams: block b
    of rank r holds the draws of source s from number `(b * world_size + r) * ratio[s]` on. Every
    draw follows from its number alone, so a position is reached without generating those before.

    Args:
        dataset (Dataset): A data set with `source_sizes`, such as `SemiSupervisedDataset`.
        ratio: Draws of each source in a block; the batch size should be a multiple of their sum.
        seed: Seed, equal on all ranks. `None` lets the ranks agree on a random one.
        shuffle: Whether passes are permuted.

    Raises:
        TypeError: The data set has no `source_sizes`.
        ValueError: The ratio does not fit the sources or is not positive.
    """

    def __init__(
        self,
        dataset,
        ratio: Sequence[int] = (4, 4),
        seed: int | None = None,
        shuffle: bool = True,
    ) -> None:
        sizes = getattr(dataset, 'source_sizes', None)
        if sizes is None:
            raise TypeError(
                f'{type(dataset).__name__} has no `source_sizes`: use SourceRatioSampler with a SemiSupervisedDataset'
            )
        if len(ratio) != len(sizes) or min(ratio) < 1:
            raise ValueError(
                f'ratio={tuple(ratio)} must be {len(sizes)} positive numbers, one for each '
                'source of the data set: the labelled ones first, then the unlabelled ones'
            )
        self.ratio = tuple(ratio)
        self.sizes = tuple(sizes)
        self.seed = sync_random_seed() if seed is None else seed
        self.shuffle = shuffle
        self.rank, self.world_size = get_dist_info()
        self._start = 0
        # The slot of a block position: which source, and which of its draws in the block.
        self._slots = [(source, k) for source, count in enumerate(self.ratio) for k in range(count)]
        self._offsets = [0, *itertools.accumulate(self.sizes)]
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def skip(self, num_samples: int) -> None:
        """Begin the next iteration behind the first `num_samples` draws of this rank, in O(1).

        Args:
            num_samples: Draws of this rank to leave out, counted from the start of the stream.

        Raises:
            ValueError: It is negative.
        """
        if num_samples < 0:
            raise ValueError(f'num_samples={num_samples} must not be negative')
        self._start = num_samples

    def __iter__(self) -> Iterator[Draw]:
        return map(self._draw, itertools.count(self._start))

    def __len__(self) -> int:
        """Number of images, as mmengine's `InfiniteSampler` has it; the iteration is endless."""
        return sum(self.sizes)

    def _draw(self, position: int) -> Draw:
        block, slot = divmod(position, len(self._slots))
        source, k = self._slots[slot]
        number = (block * self.world_size + self.rank) * self.ratio[source] + k
        passed, within = divmod(number, self.sizes[source])
        index = int(self._order(source, passed)[within])
        return Draw(self._offsets[source] + index, number, self.seed)

    def _order(self, source: int, passed: int) -> np.ndarray:
        """The order of one pass through a source; only the current one is kept."""
        kept = self._orders.get(source)
        if kept is None or kept[0] != passed:
            size = self.sizes[source]
            if self.shuffle:
                order = np.random.default_rng([self.seed, source, passed]).permutation(size)
            else:
                order = np.arange(size)
            kept = self._orders[source] = (passed, order)
        return kept[1]
