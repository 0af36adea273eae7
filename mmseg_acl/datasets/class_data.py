"""Files of mmseg's data sets, checked before a run as those of `PolypDataset` are: folders, pairs, labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from PIL import Image
from torch.utils.data import Dataset

from mmseg_acl.datasets.image_files import inspect_image
from mmseg_acl.datasets.labels import MEND, Labels
from mmseg_acl.datasets.partitions import IMAGE_SUFFIXES
from mmseg_acl.datasets.polyp import NUM_SHOWN_PROBLEMS, PolypDataset
from mmseg_acl.datasets.polyp_masks import LoadPolypMask
from mmseg_acl.datasets.unlabelled_folder import UnlabelledFolder
from mmseg_acl.errors import DataError

# Masks of one source that are read at the start of a run: all of a usual set, in some seconds. Of a larger one an
# even sample; the labels of the others are looked at when they are drawn (LabelRangeHook).
MAX_READ = 2000
# Transforms of others may change labels after they are loaded.
KNOWN_PACKAGES = ('mmcv', 'mmengine', 'mmseg', 'mmseg_acl')
Samples = Sequence[SegDataSample]
WIDE_MODES = ('I', 'I;16', 'I;16B', 'I;16L', 'I;16N', 'F')


# ------------------------------------------------------------------ folders and suffixes


@contextmanager
def folders_explained(*configs: Any) -> Iterator[None]:
    """Where data sets cannot be built, say which folder, list or suffix of a config is at fault, if one is.

    mmseg's own words are "need at least one array to concatenate" or a bare assertion.

    Args:
        *configs: Configs of data sets, of data loaders, or of whatever holds them.

    Raises:
        FileNotFoundError: A folder or list of images does not exist, or holds none with the suffix asked for.
    """
    try:
        yield
    except Exception as error:
        for config in (found for part in configs for found in _class_configs(part)):
            fault = _folder_fault(config)
            if fault:
                raise FileNotFoundError(fault) from error
        raise


def _class_configs(part: Any) -> Iterator[dict]:
    """Configs of mmseg's data sets anywhere within a config."""
    if isinstance(part, dict):
        kind = part.get('type')
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
        if isinstance(kind, type) and issubclass(kind, BaseSegDataset):
            if not issubclass(kind, (PolypDataset, UnlabelledFolder)):
                yield part
            return
        part = part.values()
    if isinstance(part, (str, bytes)) or not hasattr(part, '__iter__'):
        return
    for value in part:
        yield from _class_configs(value)


def _folder_fault(config: dict) -> str | None:
    """What is wrong with the folders of a data set's config, if anything."""
    root = Path(config.get('data_root') or '')
    prefix = config.get('data_prefix') or {}
    name = config['type'] if isinstance(config['type'], str) else config['type'].__name__
    if config.get('backend_args') or any('://' in str(part) for part in (root, *prefix.values())):
        return None
    for key, folder in prefix.items():
        if isinstance(folder, str) and not (root / folder).is_dir():
            return (
                f"folder '{root / folder}' of {name} does not exist: mend its data_root "
                f"('{config.get('data_root') or ''}') or data_prefix ({key}='{folder}')"
            )
    if config.get('ann_file') and not (root / config['ann_file']).exists():
        return (
            f"list '{root / config['ann_file']}' of {name} does not exist: mend its ann_file "
            f"('{config['ann_file']}', below data_root), or leave it out to take all images of the folder"
        )
    try:
        dataset = DATASETS.build(dict(config, lazy_init=True, pipeline=[]))
    except Exception:  # whatever else is wrong is said by the error that led here
        return None
    folder = Path(dataset.data_prefix.get('img_path') or '')
    if not folder.is_dir():
        return f"folder '{folder}' of {name} does not exist: mend its data_root or data_prefix"
    if dataset.ann_file or type(dataset).load_data_list is not BaseSegDataset.load_data_list:
        return None
    names = [path.name for path in folder.rglob('*') if path.is_file()]
    if any(name.endswith(dataset.img_suffix) for name in names):
        return None
    suffixes = _suffixes(names)
    return f"'{folder}' has no image for {name}: img_suffix='{dataset.img_suffix}' was asked for, " + (
        f'there are {suffixes}. Set img_suffix to the end of the names' if names else 'and the folder is empty'
    )


def _suffixes(names: Sequence[str]) -> str:
    """The suffixes of files with their numbers, the most frequent first."""
    counts: dict[str, int] = {}
    for name in names:
        suffix = Path(name).suffix or name
        counts[suffix] = counts.get(suffix, 0) + 1
    shown = sorted(counts, key=counts.get, reverse=True)[:NUM_SHOWN_PROBLEMS]
    return ', '.join(f"{counts[suffix]} with '{suffix}'" for suffix in shown)


# ------------------------------------------------------------------ pairs and labels


def leaves(dataset: Dataset) -> Iterator[Dataset]:
    """The data sets that a data set wraps or joins, or itself."""
    inner = next((getattr(dataset, key) for key in ('sources', 'datasets') if hasattr(dataset, key)), None)
    if inner is None and hasattr(dataset, 'dataset'):
        inner = [dataset.dataset]
    if inner is None:
        yield dataset
        return
    for part in inner:
        yield from leaves(part)


def check_labelled(sources: Sequence[Dataset], what: str, learns: bool) -> bool:
    """Check files and labels of labelled data sets before a run, as far as they are mmseg's.

    Of every image and mask: is it there; of images also what `PolypDataset` looks at. Of up to ``MAX_READ`` masks of
    each: do its labels fit the classes, and its shape the image. Of all together: is there any foreground.

    Args:
        sources: Loaded data sets, which may wrap or join others.
        what: What they are for the message, such as ``'labelled images'``.
        learns: Whether a model is to learn from them. Frames without foreground alone teach nothing; as a test set
            they show false alarms.

    Returns:
        Whether there is foreground for sure.

    Raises:
        FileNotFoundError: The folder of the masks is missing.
        ValueError: An image or a mask is missing or cannot be used, or nothing is left of the labels but background
            and ignored pixels.
    """
    found = [leaf for source in sources for leaf in leaves(source)]
    seen = [_check_leaf(leaf) for leaf in found]
    if None in seen:
        return False
    total = Labels(max(labels.num_classes for labels in seen), any(labels.reduced for labels in seen))
    for labels in seen:
        total.update(labels)
    if total.only_ignored:
        raise ValueError(total.ignored_foreground(f'the {total.masks} masks of the {what}'))
    all_read = total.masks == sum(map(len, found))
    if learns and all_read and not total.has_foreground and total.num_classes > 1:
        example = found[0].get_data_info(0).get('seg_map_path')
        raise ValueError(
            f'none of the {total.masks} masks of the {what} has a polyp pixel, such as {example}: save polyps with '
            'value 255 on a background of 0'
            if all(isinstance(leaf, PolypDataset) for leaf in found)
            else f'the {total.masks} masks of the {what} have no label but 0, such as {example}: there is nothing to '
            'learn from them. Add images with foreground, or mend the masks'
        )
    if all_read:
        _warn_of_missing_classes(found[0], total, what)
    return total.has_foreground


def _warn_of_missing_classes(source: Dataset, seen: Labels, what: str) -> None:
    classes = source.metainfo.get('classes') or ()
    missing = [str(name) for label, name in enumerate(classes) if label not in seen.found]
    if missing:
        reduced = ' (reduce_zero_label=True makes label 1 of a file the class 0)' if seen.reduced else ''
        print_log(
            f'no mask of the {what} has the classes {", ".join(missing)}{reduced}',
            logger='current',
            level=logging.WARNING,
        )


def _check_leaf(dataset: Dataset) -> Labels | None:
    """Check one data set.

    Returns:
        Its labels; None where they are not known before they are drawn.
    """
    if isinstance(dataset, PolypDataset):  # has checked itself
        labels = Labels(2)
        labels.found, labels.masks = ({0, 1} if dataset.has_polyps else {0}), len(dataset)
        return labels
    if not isinstance(dataset, BaseSegDataset) or dataset.backend_args:  # foreign, or files of another machine
        return None
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    steps = list(getattr(dataset.pipeline, 'transforms', []))
    problems = _image_problems(infos, steps)  # by the image's number, so that each counts once
    loader = next((step for step in steps if type(step) in (LoadAnnotations, LoadPolypMask)), None)
    labels, mend = None, 'Mend or add these files.'
    if loader is not None:
        asked = f"seg_map_suffix='{dataset.seg_map_suffix}'"
        problems = _missing_masks(infos, asked) | problems
        if not problems:
            labels, problems = _read(dataset, infos, loader)
            lossy = type(loader) is LoadAnnotations and any(_is_jpeg(infos[number]) for number in problems)
            mend = f'{MEND}.' + (' JPEG changes numbers: save masks as PNG.' if lossy else '')
    if problems:
        shown = '\n  '.join([problems[number] for number in sorted(problems)][:NUM_SHOWN_PROBLEMS])
        more = len(problems) - NUM_SHOWN_PROBLEMS
        folder = dataset.ann_file or dataset.data_prefix.get('img_path') or dataset.data_root
        raise ValueError(
            f"{len(problems)} of the {len(infos)} images of {type(dataset).__name__} '{folder}' cannot be used:\n  "
            f'{shown}' + (f'\n  and {more} more' if more > 0 else '') + f'\n{mend}'
        )
    foreign = any(type(step).__module__.split('.')[0] not in KNOWN_PACKAGES for step in steps)
    return None if foreign else labels


def _is_jpeg(info: dict) -> bool:
    return info['seg_map_path'].lower().endswith(('.jpg', '.jpeg'))


def _image_problems(infos: Sequence[dict], steps: Sequence[Any]) -> dict[int, str]:
    """Images that are missing or damaged, as far as they are files that mmcv's own step reads."""
    loader = next((step for step in steps if type(step) is LoadImageFromFile), None)
    if loader is None or loader.backend_args or loader.imdecode_backend not in ('cv2', 'pillow'):
        return {}
    problems = {}
    for number, path in enumerate(Path(info['img_path']) for info in infos):
        if not path.is_file():
            problems[number] = f'{path}: no such image'
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            try:
                inspect_image(path)
            except ValueError as error:
                problems[number] = str(error)
    return problems


def _missing_masks(infos: Sequence[dict], asked: str) -> dict[int, str]:
    """Masks that are not there, with the files that could be meant.

    Raises:
        FileNotFoundError: The folder of all of them is not there.
    """
    listed: dict[Path, dict[str, list[str]]] = {}
    problems = {}
    for number, info in enumerate(infos):
        if not info.get('seg_map_path'):
            problems[number] = f'{info["img_path"]}: no mask is named for it, as data_prefix has no seg_map_path'
            continue
        path = Path(info['seg_map_path'])
        if path.is_file():
            continue
        hint = ''
        if len(problems) < NUM_SHOWN_PROBLEMS:
            if path.parent not in listed:
                listed[path.parent] = _by_stem(path.parent)
            near = listed[path.parent].get(Path(info['img_path']).stem)
            hint = f' ({asked} was asked for, there is {", ".join(near)})' if near else ''
        problems[number] = f'{path}: no such mask{hint}'
    folders = {Path(info.get('seg_map_path') or '').parent for info in infos}
    gone = sorted(folder for folder in folders if not folder.is_dir())
    if problems and len(gone) == len(folders):
        raise FileNotFoundError(
            f"folder '{gone[0]}' of masks does not exist: mend data_root or data_prefix (seg_map_path='...')"
        )
    return problems


def _by_stem(folder: Path) -> dict[str, list[str]]:
    """Names of a folder's files by their stems; none where there is no folder."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        found.setdefault(path.stem, []).append(path.name)
    return found


def _read(
    dataset: BaseSegDataset, infos: Sequence[dict], loader: LoadAnnotations | LoadPolypMask
) -> tuple[Labels, dict[int, str]]:
    """The labels of a data set's masks, and what is wrong with them."""
    chosen = range(len(infos))
    if len(infos) > MAX_READ:
        chosen = np.linspace(0, len(infos) - 1, MAX_READ).astype(int).tolist()
        print_log(
            f'{MAX_READ} of the {len(infos)} masks of {type(dataset).__name__} were read to check their labels; the '
            'others are checked when they are drawn',
            logger='current',
        )
    labels = Labels(len(dataset.metainfo.get('classes') or ()) or 256, dataset.reduce_zero_label)
    problems = {}
    for number in chosen:
        info = infos[number]
        path = info['seg_map_path']
        fault = _file_fault(path)
        if fault is None:
            try:
                read = loader.transform(info)['gt_seg_map']
            except (OSError, ValueError, SyntaxError) as error:
                fault = f'cannot be read ({error})'
            else:
                fault = labels.add(read) or _shape_fault(info['img_path'], read)
        if fault:
            problems[number] = f'{path} {fault}'
    return labels, problems


def _file_fault(path: str) -> str | None:
    """What mmseg would read over in a mask's file: it keeps the last 8 bits of each label."""
    try:
        with Image.open(path) as image:
            highest = int(np.max(image)) if image.mode in WIDE_MODES else 0
    except (OSError, ValueError, SyntaxError) as error:
        return f'is not a readable image ({error})'
    if highest > 255:
        return f'has labels up to {highest}, of which only the last 8 bits would be read: save it with 8 bits'
    return None


def _shape_fault(image: str, labels: np.ndarray) -> str | None:
    """Whether a mask is of other proportions than its image; one that is larger or smaller is resized with it."""
    try:
        with Image.open(image) as file:
            sizes = [file.size, file.size[::-1]] if file.getexif().get(274, 1) > 4 else [file.size]
    except (OSError, ValueError, SyntaxError):  # of a kind that another step of the pipeline reads
        return None
    height, width = labels.shape
    if any(abs(width * size[1] - height * size[0]) <= max(size) for size in sizes):
        return None
    return f'is {width} x {height}, its image {image} is {sizes[0][0]} x {sizes[0][1]}'


# ------------------------------------------------------------------ labels as they are drawn


def labels_to_check(dataset: Dataset, num_classes: int = 0) -> Labels | None:
    """What :func:`check_samples` fills for samples of a data set.

    Args:
        dataset: A loaded data set.
        num_classes: To be taken where the data set does not name its classes.

    Returns:
        None where the masks need no look, as those of `PolypDataset`, or the number of classes is unknown.
    """
    found = list(leaves(dataset))
    num_classes = len((getattr(dataset, 'metainfo', None) or {}).get('classes') or ()) or num_classes
    if not num_classes or all(isinstance(leaf, PolypDataset) for leaf in found):
        return None
    return Labels(num_classes, any(getattr(leaf, 'reduce_zero_label', False) for leaf in found))


def check_samples(labels: Labels | None, samples: Samples | dict[str, Samples]) -> None:
    """Look at the masks of data samples, by view or not, as a data loader gives them out.

    Raises:
        DataError: A mask has colours, or a label that is neither a class nor 255.
    """
    for sample in sum(samples.values(), []) if isinstance(samples, dict) else samples:
        if labels is None or 'gt_sem_seg' not in sample:
            continue
        mask = sample.gt_sem_seg.data.cpu().numpy()
        fault = labels.add(mask[0] if len(mask) == 1 else mask)
        if fault:
            raise DataError(f'the mask of {sample.get("img_path")} {fault}. {MEND}')
