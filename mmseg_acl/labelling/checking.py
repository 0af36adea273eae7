"""Which masks are probably wrong, by models that were trained without them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmseg_acl.datasets.partitions import entry_of
from mmseg_acl.datasets.semi_supervised import SemiSupervisedDataset
from mmseg_acl.datasets.survey import IGNORED, SourceSurvey
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.evaluation.map_files import read_map
from mmseg_acl.evaluation.result_files import csv_bytes, read_json
from mmseg_acl.inference.predictor import Predictor
from mmseg_acl.inference.sources import read_frame
from mmseg_acl.labelling.doubt import Doubt, doubt_of
from mmseg_acl.labelling.training import CONFIG, train_in

PROBABILITIES, FOLDS, TABLE, SHEET = 'probabilities', 'folds', 'labels.csv', 'labels'
DIVISION = 'division.json'
FULL = 65535


class Mask(NamedTuple):
    """A labelled frame.

    Attributes:
        entry: Its name.
        path: Its file.
        source: Number of the config's labelled source.
        index: Its place in that source.
        read: Reads its labels (H, W), 255 being ignored.
    """

    entry: str
    path: Path
    source: int
    index: int
    read: Callable[[], np.ndarray]


class Checked(NamedTuple):
    """A mask with what speaks against it.

    Attributes:
        mask: It.
        doubt: Of the class of which it is the largest.
        missing: Share of the pixels that are foreground in the mask alone.
        extra: Share of the pixels that are foreground in the prediction alone.
    """

    mask: Mask
    doubt: Doubt
    missing: float
    extra: float


def find_masks(config: Config) -> list[Mask]:
    """The labelled frames that a config trains on, each once.

    Raises:
        FileNotFoundError, ValueError: A file is missing or does not fit, or the data set is of a kind that cannot be
            divided.
    """
    init_default_scope(config.get('default_scope', 'mmseg'))
    dataset = DATASETS.build(config.train_dataloader.dataset)
    sources = dataset.sources[: dataset.num_labelled] if isinstance(dataset, SemiSupervisedDataset) else [dataset]
    for source in sources:
        if not isinstance(source, BaseSegDataset) or source._indices is not None:
            raise ValueError(
                f'the labelled data set {type(source).__name__} cannot be divided into folds: name a data set of '
                'mmseg or of this project without indices, and no wrapper around it'
            )
        source.full_init()
    masks: dict[str, Mask] = {}
    for number, source in enumerate(sources):
        survey = SourceSurvey('', source)
        root = Path(source.data_prefix.get('img_path') or survey.folder)
        for index in range(len(source)):
            info = source.get_data_info(index)
            path = Path(info['img_path'])
            # Several sources may have the same frames, each with other views.
            if str(path) not in masks:
                entry = info.get('name') or entry_of(path.relative_to(root))
                read = lambda survey=survey, index=index: survey.read_labels(index)  # noqa: E731
                masks[str(path)] = Mask(entry, path, number, index, read)
    return list(masks.values())


def draw_folds(count: int, folds: int, seed: int) -> np.ndarray:
    """A fold for each of ``count`` masks, of sizes that differ by at most one.

    Raises:
        ValueError: There are fewer than two folds, or more than masks.
    """
    if not 2 <= folds <= count:
        raise ValueError(f'folds is {folds}; it must lie in 2 to {count}, the number of masks')
    return np.random.default_rng(seed).permutation(np.arange(count) % folds)


def fold_config(config: Config, kept: dict[str, bool], work_dir: Path) -> Config:
    """The config that trains on some of its labelled frames, and validates on none.

    Args:
        config: The whole one.
        kept: Of each labelled frame, by its file, whether it is trained on.
        work_dir: Where the run writes.
    """
    config = copy.deepcopy(config)
    dataset = config.train_dataloader.dataset
    built = DATASETS.build(dataset)
    if isinstance(built, SemiSupervisedDataset):
        sources = built.sources[: built.num_labelled]
        # One config may stand for one source or for a list.
        given = dataset.labelled if isinstance(dataset.labelled, list) else [dataset.labelled]
    else:
        sources, given = [built], [dataset]
    for source, part in zip(sources, given, strict=True):
        paths = [source.get_data_info(index)['img_path'] for index in range(len(source))]
        part.indices = [index for index, path in enumerate(paths) if kept[path]]
    # What is left of the test part says how frames are read.
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.work_dir = str(work_dir)
    return config


def out_of_sample(
    config: Config, masks: Sequence[Mask], folds: int, seed: int, out: Path, train: Path
) -> Iterator[tuple[int, str]]:
    """Train on all folds but one, predict the one, for each.

    The probabilities are written as ``tools/predict.py --prob --tta`` does.

    A fold that has all of its probabilities is not done again, and a training that was stopped goes on.

    Args:
        config: What to train.
        masks: What is divided.
        folds: How many, at least 2.
        seed: Of the division.
        out: Folder for ``probabilities/`` and ``folds/``.
        train: ``tools/train.py``.

    Yields:
        The number of each fold as it begins, and what is done with it.

    Raises:
        ValueError: The folder holds folds of another division.
        RunError: A training failed.
    """
    assigned = draw_folds(len(masks), folds, seed)
    _claim(out, folds=folds, seed=seed, iters=int(config.train_cfg.max_iters), frames=[mask.entry for mask in masks])
    for fold in range(folds):
        held = [mask for mask, number in zip(masks, assigned, strict=True) if number == fold]
        if all(list(_maps(out / PROBABILITIES, mask.entry)) for mask in held):
            yield fold, 'is there'
            continue
        yield fold, f'{len(masks) - len(held)} masks to train on, {len(held)} to predict'
        folder = out / FOLDS / f'{fold}'
        names = {str(mask.path) for mask in held}
        kept = {str(mask.path): str(mask.path) not in names for mask in masks}
        part = fold_config(config, kept, folder)
        checkpoint = train_in(folder, part, train)
        _predict(Predictor([folder / CONFIG, checkpoint], flips=True), held, out / PROBABILITIES)


def _claim(out: Path, **division: object) -> None:
    """Maps of two divisions in one folder would be of models that have seen some of the masks."""
    file = out / FOLDS / DIVISION
    if file.is_file():
        former = read_json(file)
        differing = [key for key, value in division.items() if former.get(key) != value]
        if differing:
            raise ValueError(f"'{out}' holds folds of other {', '.join(differing)}: give another --out, or remove it")
    write_atomically(json.dumps(division, indent=1).encode(), file)


def _predict(predictor: Predictor, held: Sequence[Mask], folder: Path) -> None:
    for mask in held:
        prob = predictor([read_frame(mask.path)])[0].probabilities[1:]
        suffixes = [''] if len(prob) == 1 else [f'_{label}' for label in range(1, len(prob) + 1)]
        for suffix, values in zip(suffixes, prob, strict=True):
            png = cv2.imencode('.png', np.round(values * FULL).astype(np.uint16))[1].tobytes()
            write_atomically(png, folder / f'{mask.entry}{suffix}.png')


def read_probabilities(folder: Path, entry: str) -> np.ndarray:
    """(C, H, W) probabilities of a frame, the background first, from the maps of its foreground classes.

    Raises:
        FileNotFoundError: There are none.
    """
    files = list(_maps(folder, entry))
    if not files:
        raise FileNotFoundError(
            f"'{folder}' has no probabilities of {entry}: it should hold {entry}.png, as tools/predict.py --prob "
            'writes'
        )
    found = [read_map(file) for file in files]
    maps = np.stack([values / np.iinfo(values.dtype).max for values in found])
    return np.concatenate([np.clip(1 - maps.sum(0, keepdims=True), 0, 1), maps])


def _maps(folder: Path, entry: str) -> Iterator[Path]:
    """Files of a frame's foreground classes, in their order."""
    if (folder / f'{entry}.png').is_file():
        yield folder / f'{entry}.png'
        return
    label = 1
    while (file := folder / f'{entry}_{label}.png').is_file():
        yield file
        label += 1


def check_masks(masks: Sequence[Mask], probabilities: Path) -> list[Checked]:
    """Judge masks by probabilities of models that have not seen them, the most doubtful first.

    Args:
        masks: The masks.
        probabilities: Folder of the maps, named by the masks' entries.

    Raises:
        FileNotFoundError, ValueError: A map is missing or does not fit.
    """
    checked = []
    for mask in masks:
        labels, prob = mask.read(), read_probabilities(probabilities, mask.entry)
        if labels.shape != prob.shape[1:]:
            raise ValueError(
                f'{mask.entry}: its mask is {labels.shape[1]} x {labels.shape[0]}, its probabilities '
                f'{prob.shape[2]} x {prob.shape[1]}'
            )
        known = labels != IGNORED
        given = labels[known].astype(int)
        if given.size and given.max() >= len(prob):
            raise ValueError(f'{mask.entry} has the label {given.max()}, but there are {len(prob)} classes')
        predicted = prob[:, known].argmax(0)
        missing, extra = ((given > 0) & (predicted == 0)).mean(), ((given == 0) & (predicted > 0)).mean()
        # Pixels to be ignored are in no mask and in no prediction.
        doubts = [doubt_of(prob[label] * known, labels == label) for label in range(1, len(prob))]
        worst = max(doubts, key=lambda doubt: doubt.total)
        checked.append(Checked(mask, worst, float(missing), float(extra)))
    return sorted(checked, key=lambda found: (-found.doubt.total, found.mask.entry))


def write_table(checked: Sequence[Checked], out: Path) -> Path:
    """``labels.csv``, the most doubtful first."""
    rows: list[list] = [['rank', 'frame', 'doubt', *Doubt._fields, 'in the mask alone', 'predicted alone', 'file']]
    for rank, found in enumerate(checked, 1):
        doubts = (f'{value:.4f}' for value in (found.doubt.total, *found.doubt))
        shares = (f'{100 * share:.2f} %' for share in (found.missing, found.extra))
        rows.append([rank, found.mask.entry, *doubts, *shares, found.mask.path])
    write_atomically(csv_bytes(rows), out / TABLE)
    return out / TABLE
