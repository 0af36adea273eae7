"""Files for labelling tools, read by the tools' own libraries in environments of their own: `make test-readers`.

Their pins go with neither our Pillow nor our OpenCV, so this file is run three times, each by another Python:
`write` by ours, `datumaro` (which reads for CVAT) and `labelstudio` by one that has that library and NumPy.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np

EXPECTED = 'expected.npz'


def write(folder: Path) -> None:
    """Write the cases of test_labelling_formats.py in all formats, and what they are."""
    from test_labelling_formats import cases
    from test_labelling_formats import write as write_format

    folder.mkdir(parents=True, exist_ok=True)
    for kind in ('coco', 'cvat', 'labelstudio'):
        print(f'written: {write_format(kind, folder)}')
    np.savez(folder / EXPECTED, **{str(case.file.with_suffix('')): case.read() for case in cases()})


def datumaro(folder: Path) -> None:
    """Read CVAT's zip, unpacked as CVAT does, and COCO's JSON."""
    from datumaro import Dataset

    with zipfile.ZipFile(folder / 'cvat.zip') as archive:
        archive.extractall(folder / 'cvat')
    for part in ('annotations', 'images'):  # it asks for the latter, and reads none
        (folder / 'coco' / part).mkdir(parents=True, exist_ok=True)
    text = (folder / 'coco.json').read_text()
    (folder / 'coco' / 'annotations' / 'instances_default.json').write_text(text)
    for kind, name in (('voc_segmentation', 'cvat'), ('coco_instances', 'coco')):
        dataset = Dataset.import_from(str(folder / name), kind)
        label_names = [label.name for label in dataset.categories()[_label_type()]]
        found = {item.id: _labels(item, label_names) for item in dataset}
        compare(folder, found, f'datumaro, {kind}')


def _label_type() -> object:
    from datumaro.components.annotation import AnnotationType

    return AnnotationType.label


def _labels(item: object, names: list[str]) -> np.ndarray:
    """The polyps of an item (H, W), of no size where it has none."""
    shapes = [
        each for each in item.annotations if names[each.label] == 'polyp' and hasattr(each, 'image')
    ]  # no boxes
    masks = [np.asarray(each.image) > 0 for each in shapes]
    return np.any(masks, axis=0) if masks else np.zeros((0, 0), bool)


def labelstudio(folder: Path) -> None:
    """Read the tasks' run lengths."""
    from label_studio_sdk.converter.brush import decode_rle

    found = {}
    for task in json.loads((folder / 'tasks.json').read_text()):
        shapes = task['predictions'][0]['result']
        sizes = [(shape['original_height'], shape['original_width'], 4) for shape in shapes]
        masks = [
            decode_rle(shape['value']['rle']).reshape(size)[..., 3] > 0
            for shape, size in zip(shapes, sizes, strict=True)
        ]
        found[str(Path(task['data']['frame']).with_suffix(''))] = (
            np.any(masks, axis=0) if masks else np.zeros((0, 0), bool)
        )
    compare(folder, found, 'label-studio-sdk')


def compare(folder: Path, found: dict[str, np.ndarray], reader: str) -> None:
    """Whether a reader has found every frame, and every pixel."""
    with np.load(folder / EXPECTED) as content:
        expected = dict(content)
    assert sorted(found) == sorted(expected), (sorted(found), sorted(expected))
    for name, labels in expected.items():
        mask = found[name] if found[name].size else np.zeros(labels.shape, bool)
        assert mask.shape == labels.shape and (mask == (labels > 0)).all(), f'{reader}: {name} differs'
    print(f'{reader}: {len(expected)} frames are as they were written')


if __name__ == '__main__':
    dict(write=write, datumaro=datumaro, labelstudio=labelstudio)[sys.argv[1]](Path(sys.argv[2]))
