"""How far a prediction can be trusted: what ``tools/calibrate.py`` stores with a run, and what follows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.evaluation.calibration import expected_dice, with_temperature

CALIBRATION = 'calibration.json'


class Calibration(NamedTuple):
    """What was learnt on the images to validate on.

    Attributes:
        temperature: Logits are divided by it.
        look_below: A frame whose expected Dice is below this should be looked at.
        images: How many there were.
    """

    temperature: float
    look_below: float
    images: int


class Reliability(NamedTuple):
    """How far a frame's mask can be trusted.

    Attributes:
        confidence: Mean calibrated probability of the class that each pixel was given, in [0, 1].
        dice: Expected Dice of the foreground, in [0, 1].
        look: Whether to look at this one.
    """

    confidence: float
    dice: float
    look: bool


def assess(probabilities: np.ndarray, labels: np.ndarray, calibration: Calibration) -> Reliability:
    """How far a mask can be trusted.

    Args:
        probabilities: (C, H, W), not calibrated.
        labels: (H, W) the class that each pixel was given.
        calibration: Of the network that predicted it.
    """
    calibrated = with_temperature(probabilities, calibration.temperature)
    chosen = np.take_along_axis(calibrated, labels[None].astype(np.int64), axis=0)
    dice = expected_dice(1 - calibrated[0], labels > 0)
    return Reliability(float(chosen.mean()), dice, dice < calibration.look_below)


def read_calibration(checkpoint: Path, network: str) -> Calibration | None:
    """What is stored beside a checkpoint for one of its networks; None where that is nothing.

    Raises:
        ValueError: The file is damaged.
    """
    file = checkpoint.parent / CALIBRATION
    if not file.is_file():
        return None
    found = _read(file).get(_content(checkpoint), {}).get(network)
    return found and Calibration(**found)


def write_calibration(checkpoint: Path, network: str, calibration: Calibration) -> Path:
    """Store it beside the checkpoint, under the content of the checkpoint; returns the file."""
    file = checkpoint.parent / CALIBRATION
    known = _read(file) if file.is_file() else {}
    known.setdefault(_content(checkpoint), {})[network] = calibration._asdict()
    write_atomically(json.dumps(known, indent=1).encode(), file)
    return file


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f'{file} is damaged ({error}): remove it, and run tools/calibrate.py anew') from error


def _content(checkpoint: Path) -> str:
    return hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]
