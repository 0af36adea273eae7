"""Labelled and unlabelled images as one data set."""

from __future__ import annotations

import copy
import itertools
import os
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from mmseg.registry import DATASETS
from torch.utils.data import Dataset

from mmseg_acl.datasets.class_data import check_labelled, folders_explained
from mmseg_acl.datasets.partitions import FRACTIONS, is_partition, read_list
from mmseg_acl.datasets.samplers import Draw


@DATASETS.register_module()
class SemiSupervisedDataset(Dataset):
    """One or several labelled sources, followed by unlabelled ones.

    Any mmseg data set can be a source. With a `Draw` as index the sample is built under generators
    seeded from the draw, so it is the same with any number of workers and after a resume.

    Args:
        labelled: Config of the labelled source, or a list of them.
        unlabelled: Config of the unlabelled source, or a list of them; `None` for supervised training.
        partition: A shipped partition such as `kvasir/quarter`: the labelled source takes this
            list, the unlabelled one the rest of `kvasir/train`. Both must be `PolypDataset`s
            without an `ann_file`. Several labelled sources must differ in their pipelines alone.
            `None` leaves the configs as they are.

    Raises:
        FileNotFoundError: There is no such partition.
        ValueError: There is no labelled source, a source is empty, labelled ones differ in their classes, have images
            or masks that cannot be used or no foreground in all of them together, labelled and unlabelled ones share
            an image, the partition is no part of a training list, or a source has an `ann_file` beside it.

    Attributes:
        has_foreground: Whether the labelled sources are known to have any; None before they have been checked.
    """

    def __init__(
        self,
        labelled: dict | Sequence[dict],
        unlabelled: dict | Sequence[dict] | None = None,
        partition: str | None = None,
    ) -> None:
        if partition is not None:
            labelled, unlabelled = _with_partition(labelled, unlabelled, partition)
        configs = [_as_list(labelled), _as_list(unlabelled)]
        if not configs[0]:
            raise ValueError('labelled=[] has no source: give the config of a labelled data set, or a list of them')
        self.names = [
            f'{kind} source' + (f' {i} of {len(group)}' if len(group) > 1 else '')
            for kind, group in zip(('labelled', 'unlabelled'), configs, strict=True)
            for i in range(1, len(group) + 1)
        ]
        self.num_labelled = len(configs[0])
        self.has_foreground: bool | None = None
        with folders_explained(configs):
            self.sources = [DATASETS.build(config) for group in configs for config in group]
            for source in self.sources:
                source.full_init()
        self.full_init()

    def full_init(self) -> None:
        """Check the sources, the first time."""
        if self.has_foreground is not None:
            return
        for name, size in zip(self.names, self.source_sizes, strict=True):
            if size == 0:
                raise ValueError(f'the {name} has no image: check its list')
        for name, source in zip(self.names[: self.num_labelled], self.sources, strict=False):
            if source.metainfo.get('classes') != self.metainfo.get('classes'):
                raise ValueError(
                    f'the {name} has the classes {source.metainfo.get("classes")}, the first has '
                    f'{self.metainfo.get("classes")}: give all of them the same metainfo'
                )
        self._check_disjoint()
        self.has_foreground = check_labelled(self.sources[: self.num_labelled], 'labelled images', learns=True)

    @property
    def metainfo(self) -> dict:
        """Meta information of the first labelled source: classes and palette."""
        return self.sources[0].metainfo

    @property
    def source_sizes(self) -> list[int]:
        """Number of images of each source."""
        return [len(source) for source in self.sources]

    def __len__(self) -> int:
        return sum(self.source_sizes)

    def get_data_info(self, index: int) -> dict:
        """Information on one image, as its source gives it."""
        source, local = self._locate(index)
        return self.sources[source].get_data_info(local)

    def __getitem__(self, index: int) -> dict:
        source, local = self._locate(index)
        if not isinstance(index, Draw):
            return self.sources[source][local]
        with random_scope([index.seed, source, index.number]):
            return self.sources[source][local]

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f'index {int(index)} is outside 0 to {len(self) - 1}')
        starts = [0, *itertools.accumulate(self.source_sizes)]
        source = bisect_right(starts, index) - 1
        return source, int(index) - starts[source]

    def _check_disjoint(self) -> None:
        # One file may be reached by two paths: relative and absolute ones, links.
        paths = [
            [os.path.realpath(source.get_data_info(i)['img_path']) for i in range(len(source))]
            for source in self.sources
        ]
        known = set(itertools.chain(*paths[: self.num_labelled]))
        shared = [path for path in itertools.chain(*paths[self.num_labelled :]) if path in known]
        if shared:
            raise ValueError(
                f'{len(shared)} images are both labelled and unlabelled, the first is {shared[0]}: '
                "leave the labelled list out of the unlabelled source with exclude=['<list>']"
            )


def _as_list(configs: dict | Sequence[dict] | None) -> list[dict]:
    """A source's config as a list of one, and None as none."""
    if configs is None:
        return []
    return [configs] if isinstance(configs, dict) else list(configs)


def _with_partition(
    labelled: dict | Sequence[dict], unlabelled: dict | None, partition: str
) -> tuple[list[dict], dict | None]:
    labelled = _as_list(labelled)
    # Several labelled sources are one data set if they differ in nothing but what is done to an image.
    one = all({**source, 'pipeline': None} == {**labelled[0], 'pipeline': None} for source in labelled)
    if not one or not isinstance(unlabelled, dict | None):
        raise ValueError(
            f"partition='{partition}' divides one data set, not several sources: set partition=None and give each "
            'source its own ann_file and exclude'
        )
    group, _, part = partition.rpartition('/')
    if part != 'train' and not is_partition(part):
        raise ValueError(
            f"partition='{partition}' must end in one of {', '.join(FRACTIONS)}, train, as 'kvasir/quarter' "
            'does; for a list of your own set partition=None and give the labelled source '
            'ann_file=<list>, the unlabelled one exclude=[<list>]'
        )
    read_list(partition)  # an unknown data set is named here, with the lists there are
    labelled, unlabelled = copy.deepcopy(labelled), copy.deepcopy(unlabelled)
    for config in filter(None, (*labelled, unlabelled)):
        if config.get('ann_file'):
            raise ValueError(
                f"partition='{partition}' and ann_file='{config['ann_file']}' both name a list: "
                "set partition=None or ann_file=''"
            )
    for source in labelled:
        source['ann_file'] = partition
    if unlabelled is not None:
        unlabelled['ann_file'] = f'{group}/train'
        unlabelled['exclude'] = [*unlabelled.get('exclude', ()), partition]
    return labelled, unlabelled


_spare_generators: list[np.random.MT19937] = []


@contextmanager
def random_scope(key: Sequence[int]) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators; restore their states at the end."""
    # NumPy's generator is exchanged: to read and write its state takes forty times as long.
    generator = _spare_generators.pop() if _spare_generators else np.random.MT19937(0)
    states = random.getstate(), np.random.get_bit_generator(), torch.get_rng_state()
    python_seed, numpy_seed, torch_seed = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(python_seed)
    np.random.set_bit_generator(generator)
    np.random.seed(numpy_seed)
    # Not torch.manual_seed: it would seed accelerators too, whose state is not restored here.
    torch.default_generator.manual_seed(torch_seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_bit_generator(states[1])
        _spare_generators.append(generator)
        torch.set_rng_state(states[2])
