"""A trained model as a function from frames to masks."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch import Tensor

from mmseg_acl.engine import load_config
from mmseg_acl.evaluation.cross_dataset import load_model
from mmseg_acl.inference.runs import find_run
from mmseg_acl.models.networks import is_semi_supervised, networks_of, predicting, predictor

# Steps of a test pipeline that read what only a data set has.
LABELS = ('LoadAnnotations', 'LoadPolypMask')
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
        run: A work dir; or a config and a checkpoint, as two words. See
            :func:`~mmseg_acl.inference.runs.find_run`.
        network: Which of the model's networks; by default the one that the model predicts with, the teacher where
            there is one.
        device: Such as ``'cpu'`` or ``'cuda:1'``; by default the best there is.
        threshold: With two classes, foreground is what is more probable than this; within (0, 1).
        flips: Whether to average over the frame and its mirror images (four passes instead of one).

    Attributes:
        network: Name of the network that runs.
        classes: Names of the classes, the background first.
        run: Config and checkpoint.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Config and checkpoint do not fit, there is no such network, or the threshold is out of range.
    """

    def __init__(
        self,
        run: str | Path | Sequence[str | Path],
        network: str | None = None,
        device: str | None = None,
        threshold: float = 0.5,
        flips: bool = False,
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f'threshold is {threshold}; it is a probability, within (0, 1)')
        self.run = find_run([str(run)] if isinstance(run, (str, Path)) else [str(word) for word in run])
        config = load_config(str(self.run.config))
        init_default_scope(config.get('default_scope', 'mmseg'))
        self.pipeline = _pipeline_of_frames(config)
        self.model = load_model(config, str(self.run.checkpoint), device)
        networks = networks_of(self.model)
        default = self.model.predict_on if is_semi_supervised(self.model) else next(iter(networks))
        self.network = network or default
        with predicting(self.model, self.network):  # says which there are, where there is none of that name
            segmentor = predictor(self.model)
        count = max(getattr(segmentor, 'num_classes', 2), 2)
        dataset = config.get('test_dataloader', {}).get('dataset', {})
        named = (dataset.get('metainfo') or {}).get('classes') or ('background', 'polyp')
        self.classes = tuple(named) if len(named) == count else tuple(f'class {label}' for label in range(count))
        self.threshold, self.flips = threshold, flips

    @torch.no_grad()
    def __call__(self, frames: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict frames (H, W, 3) uint8, BGR, of any sizes; those that the model sees at one size go together."""
        samples = [self.pipeline(dict(img=np.ascontiguousarray(frame))) for frame in frames]
        found: dict[int, Prediction] = {}
        shapes = [tuple(sample['inputs'].shape) for sample in samples]
        for shape in dict.fromkeys(shapes):
            places = [place for place, own in enumerate(shapes) if own == shape]
            maps = self._probabilities([samples[place] for place in places])
            found.update(zip(places, map(self._prediction, maps), strict=True))
        return [found[place] for place in range(len(frames))]

    def _probabilities(self, samples: list[dict]) -> list[Tensor]:
        """(C, H, W) of each sample, at its frame's size."""
        total: list[Tensor] | None = None
        with predicting(self.model, self.network):
            for flip in FLIPS if self.flips else FLIPS[:1]:
                batch = [
                    dict(sample, inputs=sample['inputs'].flip(flip) if flip else sample['inputs'])
                    for sample in samples
                ]
                outputs = self.model.test_step(pseudo_collate(deepcopy(batch)))
                maps = [_class_probabilities(output.seg_logits.data) for output in outputs]
                maps = [each.flip(flip) if flip else each for each in maps]
                total = maps if total is None else [sum(pair) for pair in zip(total, maps, strict=True)]
        return [each / (len(FLIPS) if self.flips else 1) for each in total]

    def _prediction(self, prob: Tensor) -> Prediction:
        labels = (prob[1] > self.threshold) if len(prob) == 2 else prob.argmax(0)
        return Prediction(prob.cpu().numpy(), labels.cpu().numpy().astype(np.uint8))


def _pipeline_of_frames(config: Config) -> Compose:
    """The test pipeline of a config, for frames that are there already."""
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    steps = dataset.get('pipeline')
    if not steps or steps[0].get('type') != 'LoadImageFromFile':
        raise ValueError(
            f'{config.filename} has no test_dataloader.dataset.pipeline that begins with LoadImageFromFile, so it is '
            'not known how frames are to be prepared'
        )
    kept = [step for step in steps[1:] if step.get('type') not in LABELS]
    return Compose([dict(type='LoadImageFromNDArray'), *kept])


def _class_probabilities(scores: Tensor) -> Tensor:
    """(C, H, W) probabilities from logits, or from the probability that mmseg gives out for one channel."""
    scores = scores.float()
    return torch.cat([1 - scores, scores]) if len(scores) == 1 else scores.softmax(0)
