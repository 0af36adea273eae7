"""What checkpoints predict on chosen images, for figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from rich.progress import track
from torch import nn
from torch.utils.data import Dataset

from mmseg_acl.engine import load_config
from mmseg_acl.evaluation.cross_dataset import OWN, build_loaders, load_model
from mmseg_acl.evaluation.curves import overlap
from mmseg_acl.evaluation.polyp_metric import foreground_probability
from mmseg_acl.models.networks import is_semi_supervised
from mmseg_acl.shipped import shipped_path
from mmseg_acl.visualization.pictures import read_image

RUN_FORM = '[NAME=]CONFIG.py:CHECKPOINT.pth[@NETWORK]'
RUN_PATTERN = re.compile(
    r'(?:(?P<name>[^=]+)=)?(?P<config>.+?\.py):(?P<checkpoint>.+?\.pth)(?:@(?P<network>\w+))?', re.DOTALL
)

# An image by the name of its set and its own.
Key = tuple[str, str]


class TrainedRun(NamedTuple):
    """A trained network.

    Attributes:
        name: How figures call it.
        config: Its config file.
        checkpoint: Its weights.
        network: Which of the model's networks; None takes the one that the model predicts on.
    """

    name: str
    config: str
    checkpoint: str
    network: str | None = None


class Prediction(NamedTuple):
    """One image's mask and what was predicted.

    Attributes:
        key: Set and name of the image.
        path: Its file.
        mask: (H, W) bool, the ground truth.
        found: (H, W) bool, the prediction.
    """

    key: Key
    path: str
    mask: np.ndarray
    found: np.ndarray

    @property
    def dice(self) -> float:
        """In percent, as protocol `image` of `PolypMetric` scores it."""
        areas = ((self.mask & self.found).sum(), self.found.sum(), self.mask.sum())
        return 100 * float(overlap(*(np.array([area]) for area in areas), both_empty=1.0)[0][0])

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8, BGR."""
        return read_image(self.path)


def parse_run(text: str) -> TrainedRun:
    """A run from its form on a command line; the name is the folder of the config unless it is given.

    Raises:
        ValueError: The text has another form.
    """
    match = RUN_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(
            f'{text!r} has not the form {RUN_FORM}, e.g. '
            'ACL-Net=configs/aclnet/mbv2_kvasir_eighth.py:work_dirs/aclnet/mbv2_kvasir_eighth/iter_1200.pth@teacher'
        )
    name = match['name'] or Path(shipped_path(match['config'])).resolve().parent.name
    return TrainedRun(name, match['config'], match['checkpoint'], match['network'])


def open_run(run: TrainedRun) -> tuple[Config, nn.Module]:
    """The config and the model of a run, in eval mode, set to predict on the run's network.

    Raises:
        FileNotFoundError: Config or checkpoint is missing.
        ValueError: They do not fit, or the model has no such network.
    """
    config = load_config(run.config)
    model = load_model(config, run.checkpoint)
    if is_semi_supervised(model):
        model.predict_on = run.network or model.predict_on
    elif run.network not in (None, 'student'):
        raise ValueError(f'{run.config} builds a plain segmentor, without a {run.network}: leave @{run.network} out')
    return config, model


def open_sets(config: Config, datasets: Sequence[str] | None) -> dict[str, Dataset]:
    """Test sets by name, as the config reads them; None takes the config's own.

    Raises:
        FileNotFoundError: A set or a file of it is missing.
        ValueError: A name is unknown.
    """
    loaders = build_loaders(config, list(datasets or [OWN]))
    return {name: loader.dataset for name, loader in loaders.items()}


def list_images(sets: dict[str, Dataset]) -> dict[Key, int]:
    """All images of some sets with their places in them."""
    return {
        (name, Path(dataset.get_data_info(i)['img_path']).stem): i
        for name, dataset in sets.items()
        for i in range(len(dataset))
    }


def choose_images(known: Sequence[Key], names: Sequence[str] | None, first: int) -> list[Key]:
    """Images by name, or the first of each set.

    Args:
        known: All images.
        names: `IMAGE`, or `SET/IMAGE` where several sets have an image of that name. None takes the first ones.
        first: How many of each set, where no names are given.

    Raises:
        ValueError: A name is unknown or ambiguous, or no image is chosen.
    """
    if names is None:
        sets = dict.fromkeys(name for name, _ in known)
        chosen = [key for name in sets for key in [key for key in known if key[0] == name][: max(first, 0)]]
        if not chosen:
            raise ValueError(f'--first {first} chooses no image: give a number of at least 1, or names')
        return chosen
    found = []
    for name in names:
        fitting = [key for key in known if name in (key[1], f'{key[0]}/{key[1]}')]
        if not fitting:
            examples = ', '.join('/'.join(key) for key in list(known)[:3])
            raise ValueError(f'there is no image {name!r}; there are {len(known)}, such as {examples}')
        if len(fitting) > 1:
            raise ValueError(f'{name!r} is in several sets: write {" or ".join("/".join(key) for key in fitting)}')
        found += fitting
    return found


@torch.no_grad()
def predict(
    run: TrainedRun, datasets: Sequence[str] | None = None, keys: Sequence[Key] | None = None
) -> Iterator[Prediction]:
    """What a run predicts at probability 0.5, at the original size, image by image.

    Args:
        run: The run.
        datasets: Test sets; None takes the config's own.
        keys: Images; None takes all.

    Raises:
        FileNotFoundError, ValueError: Something is missing or does not fit.
    """
    config, model = open_run(run)
    sets = open_sets(config, datasets)
    known = list_images(sets)
    for key in keys or ():
        if key not in known:
            raise ValueError(f'{run.config} has no image {"/".join(key)} in its test set: give --datasets')
    wanted = list(keys or known)
    for key in track(wanted, description=run.name):
        sample = sets[key[0]][known[key]]
        output = model.test_step(pseudo_collate([sample]))[0].to_dict()
        path = output['img_path']
        yield Prediction(key, path, read_truth(sample), foreground_probability(output, path) > 0.5)


def read_truth(sample: dict) -> np.ndarray:
    """The mask of a test sample, (H, W) bool, at the image's original size.

    Raises:
        ValueError: It has none, or one of another size.
    """
    found = sample['data_samples']
    if 'gt_sem_seg' not in found:
        raise ValueError(f'{found.img_path} has no mask: choose a set with masks, and load them in the test pipeline')
    mask = found.gt_sem_seg.data[0].numpy() == 1
    if mask.shape != tuple(found.ori_shape[:2]):
        raise ValueError(
            f'{found.img_path} is {found.ori_shape[1]} x {found.ori_shape[0]}, its mask {mask.shape[1]} x '
            f'{mask.shape[0]}: load masks after Resize in the test pipeline, so that they keep their size'
        )
    return mask
