"""What the data sets of a config hold: how many images of which sizes, and how much of them is of each class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from prettytable import PrettyTable
from rich.progress import track
from torch.utils.data import Dataset

from mmseg_acl.datasets.image_files import inspect_image
from mmseg_acl.datasets.polyp_masks import LoadPolypMask
from mmseg_acl.datasets.semi_supervised import SemiSupervisedDataset

IGNORED = 255
PARTS = {'train_dataloader': 'training', 'val_dataloader': 'validation', 'test_dataloader': 'test'}


@dataclass
class SourceSurvey:
    """What one source of a config holds.

    Attributes:
        name: What it is for, and which one it is.
        dataset: It.
        sizes: Number of images of each (width, height).
        shares: (images, 256), the share of an image's pixels that has each label, 0 to 1; None without labels.
    """

    name: str
    dataset: Dataset
    sizes: Counter = field(default_factory=Counter)
    shares: np.ndarray | None = None

    @property
    def folder(self) -> str:
        """The folder that all of its images are in, or below."""
        paths = (self.dataset.get_data_info(i)['img_path'] for i in range(len(self.dataset)))
        return os.path.commonpath({os.path.dirname(path) for path in paths})

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.dataset.metainfo.get('classes') or ())

    @property
    def labels(self) -> list[int]:
        """The labels that are classes or occur, 255 (ignored) last."""
        return [i for i in range(256) if i < len(self.classes) or self.shares[:, i].any()]

    @property
    def foreground(self) -> np.ndarray:
        """The share of each image that is of another class than the first, (images,)."""
        return 1 - self.shares[:, 0] - self.shares[:, IGNORED]

    def name_of(self, label: int) -> str:
        """What a label is called."""
        if label < len(self.classes):
            return self.classes[label]
        return 'ignored' if label == IGNORED else f'{label}, no class'

    def read_labels(self, index: int) -> np.ndarray | None:
        """The labels of an image (H, W), as the data set's pipeline loads them; None where it loads none."""
        sample = self.dataset.get_data_info(index)
        loaders = [step for step in self.dataset.pipeline.transforms if _loads_labels(step)]
        if not loaders or sample.get('seg_map_path') is None:
            return None
        labels = loaders[0](sample)['gt_seg_map']
        if labels.ndim != 2:
            raise ValueError(
                f"mask '{sample['seg_map_path']}' has colours: save class numbers as grey values or as a palette PNG"
            )
        return labels


def survey_data(config: Config) -> list[SourceSurvey]:
    """Read every mask, and the header of every image, that a config names.

    Args:
        config: Of a run; its data sets are built, which checks them as the start of a run does.

    Raises:
        FileNotFoundError, ValueError: A file is missing or does not fit.
    """
    init_default_scope(config.get('default_scope', 'mmseg'))
    parts: dict[str, dict] = {}
    for key, name in PARTS.items():
        dataset = (config.get(key) or {}).get('dataset')
        same = next((other for other, known in parts.items() if known == dataset), None)
        if same:
            parts[f'{same} and {name}'] = parts.pop(same)
        elif dataset:
            parts[name] = dataset
    if not parts:
        raise ValueError(f'{config.filename} names no data set: a config of a run has a train_dataloader')
    return [_survey(source) for name, part in parts.items() for source in _sources(name, DATASETS.build(part))]


def format_survey(surveys: list[SourceSurvey]) -> str:
    """Counts and sizes, and a table of each labelled source's classes."""
    return '\n\n'.join(map(_format, surveys))


def _sources(name: str, dataset: Dataset) -> Iterator[SourceSurvey]:
    """The data sets that have images of their own, whatever wraps them."""
    if isinstance(dataset, SemiSupervisedDataset):
        for kind, source in zip(dataset.names, dataset.sources, strict=True):
            yield from _sources(f'{name}, {kind}', source)
    elif hasattr(dataset, 'datasets'):  # mmengine's ConcatDataset
        for number, source in enumerate(dataset.datasets, 1):
            yield from _sources(f'{name} {number} of {len(dataset.datasets)}', source)
    elif hasattr(dataset, 'dataset'):  # mmengine's RepeatDataset and others
        yield from _sources(name, dataset.dataset)
    else:
        dataset.full_init()
        yield SourceSurvey(name, dataset)


def _survey(source: SourceSurvey) -> SourceSurvey:
    shares = []
    for index in track(range(len(source.dataset)), description=source.name):
        source.sizes[inspect_image(Path(source.dataset.get_data_info(index)['img_path'])).size] += 1
        labels = source.read_labels(index)
        if labels is not None:
            shares.append(np.bincount(labels.ravel(), minlength=256) / labels.size)
    source.shares = np.array(shares) if shares else None
    return source


def _loads_labels(step: object) -> bool:
    return isinstance(step, LoadAnnotations) or isinstance(step, LoadPolypMask) and not step.hidden


def _format(source: SourceSurvey) -> str:
    sizes = [f'{width} x {height}' for width, height in sorted(source.sizes, key=lambda size: size[0] * size[1])]
    span = f'of {sizes[0]}' if len(sizes) == 1 else f'of {len(sizes)} sizes, {sizes[0]} to {sizes[-1]}'
    head = f'{source.name}: {len(source.dataset)} images {span}, in {source.folder}'
    if source.shares is None:
        return f'{head}, without labels'
    table = PrettyTable(['class', 'mean share of an image', 'least', 'median', 'most', 'images that have it'])
    table.align = 'r'
    table.align['class'] = 'l'
    for label in source.labels:
        shares = 100 * source.shares[:, label]
        numbers = (shares.mean(), shares.min(), np.median(shares), shares.max())
        table.add_row([source.name_of(label), *(f'{x:.1f} %' for x in numbers), np.count_nonzero(shares)])
    return f'{head}\n{table}'
