"""Learning on the images to validate on how far a model's probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from rich.progress import track
from torch.utils.data import Dataset

from mmseg_acl.datasets.labels import IGNORE
from mmseg_acl.engine.best import image_files
from mmseg_acl.evaluation.calibration import (
    calibration_gaps,
    expected_calibration_error,
    expected_dice,
    fit_temperature,
    with_temperature,
)
from mmseg_acl.evaluation.curves import overlap
from mmseg_acl.inference.predictor import Prediction, Predictor
from mmseg_acl.inference.reliability import Calibration, write_calibration
from mmseg_acl.inference.runs import find_run
from mmseg_acl.inference.sources import read_frame
from mmseg_acl.inference.trained import TrainedModel

# Drawn from each image; what a temperature is fitted to need not be all pixels.
PIXELS_AN_IMAGE = 4000
# Of the images to validate on, the share that would be looked at.
LOOKED_AT = 0.2
FEWEST = 10
MEND = (
    'name others, such as --cfg-options val_dataloader.dataset.ann_file=LIST, where LIST is a text file with the '
    'names of labelled images that are neither trained nor tested on'
)


class Fit(NamedTuple):
    """A calibration, and what it changes on the images that it was learnt on.

    Attributes:
        calibration: It.
        file: Where it is stored.
        error: Expected calibration error of the foreground before and after.
        dice: Mean Dice of all frames, in percent.
        looked_at: That of the frames that should be looked at; None where there are none.
    """

    calibration: Calibration
    file: Path
    error: tuple[float, float]
    dice: float
    looked_at: float | None


def calibrate(
    words: Sequence[str], network: str | None = None, device: str | None = None, options: dict | None = None
) -> Fit:
    """Fit a temperature to a config's ``val_dataloader``, and store it beside the checkpoint.

    Args:
        words: The run; see :func:`~mmseg_acl.inference.runs.find_run`.
        network: Which network; by default the one that the model predicts with.
        device: By default the best there is.
        options: Overrides of the config.

    Raises:
        ValueError: There are no images to validate on, too few of them, some are test images, or a mask does not fit.
    """
    run = find_run(words)
    if run.config is None:
        raise ValueError(f'{run.checkpoint} is exported: calibrate the run that it was made of, and export it then')
    predictor = Predictor(TrainedModel(run, network, device, options))
    config = predictor.model.config
    init_default_scope(config.get('default_scope', 'mmseg'))
    dataset = _images_to_validate_on(config)
    temperature = fit_temperature(*_draw_pixels(predictor, dataset))
    gaps: dict[str, list[np.ndarray]] = {'before': [], 'after': []}
    trusted, dice = [], []
    for prediction, truth in _predictions(predictor, dataset, 'checking'):
        calibrated = with_temperature(prediction.probabilities, temperature)
        valid, real, mask = truth != IGNORE, (truth > 0) & (truth != IGNORE), prediction.labels > 0
        for name, probabilities in (('before', prediction.probabilities), ('after', calibrated)):
            gaps[name].append(calibration_gaps((1 - probabilities[0])[valid], real[valid]))
        trusted.append(expected_dice(1 - calibrated[0], mask))
        areas = (np.array([area]) for area in ((mask & real).sum(), mask.sum(), real.sum()))
        dice.append(100 * float(overlap(*areas, both_empty=1.0)[0][0]))
    look_below = float(np.quantile(trusted, LOOKED_AT))
    calibration = Calibration(temperature, look_below, len(dataset))
    flagged = [score for score, trust in zip(dice, trusted, strict=True) if trust < look_below]
    return Fit(
        calibration,
        write_calibration(run.checkpoint, predictor.network, calibration),
        (expected_calibration_error(gaps['before']), expected_calibration_error(gaps['after'])),
        float(np.mean(dice)),
        float(np.mean(flagged)) if flagged else None,
    )


def _images_to_validate_on(config: Config) -> Dataset:
    """What a config validates on, which is not what it tests on."""
    loader = config.get('val_dataloader')
    if not loader:
        raise ValueError(
            f'{config.filename} has no val_dataloader, the images that a temperature is fitted to: {MEND}'
        )
    dataset = DATASETS.build(deepcopy(loader['dataset']))
    if len(dataset) < FEWEST:
        raise ValueError(f'there are {len(dataset)} images to validate on; at least {FEWEST} are needed: {MEND}')
    tests = config.get('test_dataloader')
    if tests and (tested := image_files(dataset) & image_files(DATASETS.build(deepcopy(tests['dataset'])))):
        raise ValueError(
            f'{len(tested)} of the {len(dataset)} images to validate on are test images, whose scores would no '
            f'longer be those of unseen ones: {MEND}'
        )
    return dataset


def _predictions(predictor: Predictor, dataset: Dataset, doing: str) -> Iterator[tuple[Prediction, np.ndarray]]:
    """A prediction of each image with its mask, (H, W) integers."""
    for index in track(range(len(dataset)), description=doing):
        sample = dataset[index]['data_samples']
        truth = sample.gt_sem_seg.data[0].numpy()
        frame = read_frame(Path(sample.img_path))
        if truth.shape != frame.shape[:2]:
            raise ValueError(
                f'{sample.img_path} is {frame.shape[1]} x {frame.shape[0]}, its mask {truth.shape[1]} x '
                f'{truth.shape[0]}: load masks after Resize in val_dataloader, so that they keep their size'
            )
        yield predictor([frame])[0], truth


def _draw_pixels(predictor: Predictor, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (C, N) and classes (N,) of pixels of all images."""
    rng = np.random.default_rng(0)
    drawn, classes = [], []
    for prediction, truth in _predictions(predictor, dataset, 'predicting'):
        valid = np.flatnonzero(truth.ravel() != IGNORE)
        chosen = rng.choice(valid, min(PIXELS_AN_IMAGE, len(valid)), replace=False)
        drawn.append(prediction.probabilities.reshape(len(prediction.probabilities), -1)[:, chosen])
        classes.append(truth.ravel()[chosen].astype(np.int64))
    return np.concatenate(drawn, axis=1), np.concatenate(classes)
