"""A trained model as a function from frames to masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from mmseg_acl.inference.exported import ExportedModel
from mmseg_acl.inference.runs import RunFiles, find_run
from mmseg_acl.inference.trained import TrainedModel

Found = TypeVar('Found')
FLIPS = ((), (-1,), (-2,), (-1, -2))


class Prediction(NamedTuple):
    """What a model says of one frame.

    Attributes:
        probabilities: (C, H, W) float32 at the frame's own size, summing to 1 over the classes.
        labels: (H, W) uint8, the class of each pixel; with two classes 1 where the foreground has more than the
            threshold.
    """

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def confidence(self) -> float:
        """Mean probability of the class that each pixel was given, in [0, 1]."""
        chosen = np.take_along_axis(self.probabilities, self.labels[None].astype(np.int64), axis=0)
        return float(chosen.mean())


class Predictor:
    """A trained model that takes frames as they are and gives back masks of their size.

    Example::

        from mmseg_acl.inference import Predictor
        predictor = Predictor('work_dirs/aclnet/mbv2_kvasir_eighth')
        mask = predictor([cv2.imread('frame.png')])[0].labels

    Args:
        run: A work dir; a config and a checkpoint, as two words; or an exported model. See
            :func:`~mmseg_acl.inference.runs.find_run`. Or a model that is open already.
        network: Which of the model's networks; by default the one that the model predicts with, the teacher where
            there is one.
        device: Such as ``'cpu'`` or ``'cuda:1'``; by default the best there is, of an exported model the CPU.
        threshold: With two classes, foreground is what is more probable than this; within (0, 1). By default 0.5, or
            what an exported model was written with.
        flips: Whether to average over the frame and its mirror images (four passes instead of one).
        smooth: For frames that follow one another, as of a video: the weight of the past in each frame's
            probabilities, within [0, 1). It fades from frame to frame, and ends where the size changes.

    Attributes:
        network: Name of the network that runs.
        classes: Names of the classes, the background first.
        run: Its files.
        threshold: The threshold in use; it may be set anew between frames.
        calibration: What ``tools/calibrate.py`` found of the network; None where it was not run.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Config and checkpoint do not fit, there is no such network, or a value is out of range.
        ImportError: An exported model needs a library that is missing.
    """

    def __init__(
        self,
        run: str | Path | Sequence[str | Path] | TrainedModel | ExportedModel,
        network: str | None = None,
        device: str | None = None,
        threshold: float | None = None,
        flips: bool = False,
        smooth: float = 0.0,
    ) -> None:
        if threshold is not None:
            check_threshold(threshold)
        if not 0 <= smooth < 1:
            raise ValueError(f'smooth is {smooth}; it is the weight of the past, within [0, 1)')
        if not isinstance(run, (TrainedModel, ExportedModel)):
            words = [str(run)] if isinstance(run, (str, Path)) else [str(word) for word in run]
            run = open_model(find_run(words), network, device)
        self.model, self.run, self.network, self.classes = run, run.run, run.network, run.classes
        self.threshold = run.threshold if threshold is None else threshold
        self.flips, self.smooth = flips, smooth
        self.calibration = run.calibration
        self._past: Tensor | None = None

    @property
    def identity(self) -> dict[str, object]:
        """What tells its predictions from those of another model or with other settings."""
        optional = dict(smooth=self.smooth, calibration=self.calibration and self.calibration._asdict())
        used = {name: value for name, value in optional.items() if value}
        return dict(self.model.identity, threshold=self.threshold, flips=self.flips, **used)

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict frames (H, W, 3) uint8, BGR, of any sizes; those that the model sees at one size go together."""
        samples = [self.model.prepare(np.ascontiguousarray(frame)) for frame in frames]
        return [self._prediction(prob) for prob in by_size(self.model, samples, self._probabilities)]

    def _probabilities(self, samples: list) -> list[Tensor]:
        """(C, H, W) of each sample, at its frame's size."""
        if not self.flips:
            return self.model.probabilities(samples)
        views = [self.model.probabilities(samples, flip) for flip in FLIPS]
        return [sum(maps) / len(FLIPS) for maps in zip(*views, strict=True)]

    def _prediction(self, prob: Tensor) -> Prediction:
        if self.smooth and self._past is not None and self._past.shape == prob.shape:
            prob = self.smooth * self._past + (1 - self.smooth) * prob
        self._past = prob if self.smooth else None
        prob = prob.cpu().numpy()
        return Prediction(prob, to_labels(prob, self.threshold))


def open_model(run: RunFiles, network: str | None = None, device: str | None = None) -> TrainedModel | ExportedModel:
    """The model of a run, whichever kind it is."""
    if run.config is None:
        return ExportedModel(run, network, device)
    return TrainedModel(run, network, device)


def by_size(
    model: TrainedModel | ExportedModel, samples: Sequence, run: Callable[[list], Sequence[Found]]
) -> list[Found]:
    """What ``run`` makes of samples, in their order; those that the model sees at one size go through it together."""
    found: dict[int, Found] = {}
    sizes = [model.size(sample) for sample in samples]
    for size in dict.fromkeys(sizes):
        places = [place for place, own in enumerate(sizes) if own == size]
        found.update(zip(places, run([samples[place] for place in places]), strict=True))
    return [found[place] for place in range(len(samples))]


def to_labels(prob: np.ndarray, threshold: float) -> np.ndarray:
    """The class of each pixel (H, W), uint8, from probabilities (C, H, W)."""
    return ((prob[1] > threshold) if len(prob) == 2 else prob.argmax(0)).astype(np.uint8)


def check_threshold(threshold: float) -> None:
    """Refuse what is no threshold.

    Raises:
        ValueError: It is not within (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f'threshold is {threshold}; it is a probability, within (0, 1)')
