"""Images and masks that a list names, wherever they lie."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_acl.datasets.unlabelled_folder import check_readable

COLUMNS = ('image', 'mask')


@DATASETS.register_module()
class ListedFrames(BaseSegDataset):
    """Images, and their masks where they have some, as a CSV file names them.

    Names, folders and suffixes may be any. Which masks can be read depends on the pipeline, as of mmseg's data sets:
    `LoadPolypMask` for object and background, `LoadAnnotations` for class numbers.

    Args:
        ann_file (str): The CSV file, with the columns `image` and `mask`; a row without a mask is an unlabelled
            image.
        data_root (str): What relative paths in it count from.
        metainfo (dict): Names of the classes, such as `dict(classes=('background', 'polyp'))`.
        **kwargs (Any): Arguments of `mmseg.datasets.BaseSegDataset`.

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: It has no such columns or no row, or masks for some of its images alone; unlabelled images cannot
            be read.
    """

    def _join_prefix(self) -> None:
        """Nothing to join: the list has whole paths, or those below `data_root`."""

    def load_data_list(self) -> list[dict]:
        """One dictionary a row: `img_path`, `name`, `seg_map_path` where there is a mask, and mmseg's own keys."""
        path = Path(self.ann_file)
        if not path.is_file():
            raise FileNotFoundError(f"there is no list '{path}' of images: mend ann_file")
        with path.open(encoding='utf-8-sig', newline='') as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        if not rows or not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise ValueError(f"list '{path}' must begin with the line {','.join(COLUMNS)}, and have a line an image")
        labelled = [bool(row['mask']) for row in rows]
        if len(set(labelled)) > 1:
            raise ValueError(
                f"list '{path}' names masks for {sum(labelled)} of its {len(rows)} images: labelled and unlabelled "
                'images are two sources, with a list each'
            )
        root = Path(self.data_root or '')
        samples = []
        for row in rows:
            sample = dict(
                name=row['image'],
                img_path=str(root / row['image']),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            if row['mask']:
                sample['seg_map_path'] = str(root / row['mask'])
            samples.append(sample)
        if not any(labelled):  # labelled ones are looked at with their masks
            check_readable([Path(sample['img_path']) for sample in samples], f"list '{path}'")
        return samples


def write_frame_list(path: Path, root: Path, rows: Iterable[Sequence[Path | None]]) -> None:
    """Write a list for `ListedFrames`.

    Args:
        path: The CSV file; its folder is made if needed.
        root: Folder that paths are written below, where they lie there.
        rows: An image and its mask, or None, each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([['' if part is None else _below(part, root) for part in row] for row in rows])


def _below(path: Path, root: Path) -> str:
    path = Path(os.path.abspath(path))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
