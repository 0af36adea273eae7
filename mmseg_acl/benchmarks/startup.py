"""The start of a run: reading lists, pairing files and checking them, as the number of images grows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from mmengine.registry import DefaultScope, init_default_scope

from mmseg_acl.benchmarks.measure import Report
from mmseg_acl.datasets import SemiSupervisedDataset

SIZES = (1000, 10_000, 50_000)
LABELLED = 8
SIDE = 16
LOAD_CLASSES = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


def write_frames(folder: Path, count: int, masks: bool) -> None:
    """So many equal images of a few pixels, and as many equal masks of labels 0 and 1, or none."""
    image, mask = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    mask[4:8, 4:8] = 1
    for kind, pixels in (('images', image), ('masks', mask)):
        (folder / kind).mkdir(parents=True)
        data = cv2.imencode('.png', pixels)[1].tobytes()
        for number in range(count if masks or kind == 'images' else 0):
            (folder / kind / f'frame_{number:06d}.png').write_bytes(data)


def polyps(folder: Path, **changes: object) -> dict:
    """A `PolypDataset` of a folder."""
    return dict(type='PolypDataset', data_root=str(folder), **changes)


def class_numbers(folder: Path) -> dict:
    """A data set of mmseg's of a folder."""
    return dict(
        type='BaseSegDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        img_suffix='.png',
        metainfo=dict(classes=('background', 'polyp')),
        pipeline=LOAD_CLASSES,
    )


def starts(few: Path, many: Path, bare: Path) -> dict[str, Callable[[], object]]:
    """What a run may start with, by name.

    Args:
        few: Folder of some frames with masks.
        many: Folder of frames with masks.
        bare: Folder of as many without any.
    """
    labelled = polyps(few)
    return {
        'labelled, all with masks': lambda: SemiSupervisedDataset(polyps(many)),
        'labelled, masks of class numbers': lambda: SemiSupervisedDataset(class_numbers(many)),
        'unlabelled, all with masks': lambda: SemiSupervisedDataset(labelled, polyps(many, labelled=False)),
        'unlabelled, none with masks': lambda: SemiSupervisedDataset(labelled, polyps(bare, labelled=False)),
        'unlabelled, any folder': lambda: SemiSupervisedDataset(
            labelled, dict(type='UnlabelledFolder', folder=str(bare / 'images'))
        ),
    }


def run(repeats: int) -> Report:
    """Measure the start with ever more images."""
    if DefaultScope.get_current_instance() is None:
        init_default_scope('mmseg')
    rows, first = [], {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as place:
            few, many, bare = (Path(place) / name for name in ('few', 'many', 'bare'))
            write_frames(few, LABELLED, masks=True)
            write_frames(many, size, masks=True)
            write_frames(bare, size, masks=False)
            for name, start in starts(few, many, bare).items():
                taken = min(cpu_seconds(start) for _ in range(repeats))
                first.setdefault(name, taken / size)
                rows.append(
                    {
                        'source': name,
                        'images': size,
                        'CPU seconds': taken,
                        'an image, ms': taken / size * 1e3,
                        f'to {SIZES[0]} images': taken / size / first[name],
                    }
                )
    rows.sort(key=lambda row: list(first).index(row['source']))
    return Report(
        title='The start of a run: lists, pairs and checks of files',
        rows=rows,
        notes=[
            f'The last column is the time an image against that of {SIZES[0]} images. A start that is linear in the '
            'number of images stays at 1.',
            f'Images and masks of {SIDE} x {SIDE} pixels, which decode at once: what grows is the work a file. Masks '
            'of class numbers are read up to 2000 a source, so that the time an image falls.',
        ],
    )


def cpu_seconds(start: Callable[[], object]) -> float:
    """Seconds of the processor that a start takes; waiting for a disk does not count."""
    begin = time.process_time()
    start()
    return time.process_time() - begin
