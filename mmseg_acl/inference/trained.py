"""A config and a checkpoint as a function from frames to probabilities."""

from __future__ import annotations

import hashlib
from copy import copy

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmseg_acl.engine import load_config
from mmseg_acl.engine.export import dataset_of_frames
from mmseg_acl.evaluation.cross_dataset import load_model
from mmseg_acl.inference.maps import frame_probabilities
from mmseg_acl.inference.reliability import Calibration, read_calibration
from mmseg_acl.inference.runs import RunFiles
from mmseg_acl.models.data_preprocessor import MultiViewSegDataPreprocessor
from mmseg_acl.models.networks import is_semi_supervised, networks_of, predicting, predictor

# Steps of a test pipeline that read what only a data set has.
LABELS = ('LoadAnnotations', 'LoadPolypMask')
THRESHOLD = 0.5


class TrainedModel:
    """A trained model with one of its networks chosen.

    Args:
        run: Its files.
        network: Which of its networks; by default the one that the model predicts with.
        device: By default the best there is.
        options: Overrides of the config, by dotted key.

    Attributes:
        config: Its config.
        model: The method or segmentor.
        networks: Names of all its networks.
        network: Name of the network that runs.
        classes: Names of the classes, the background first.
        threshold: Where the foreground's probability is cut if nobody says otherwise.
    """

    threshold = THRESHOLD

    def __init__(
        self, run: RunFiles, network: str | None = None, device: str | None = None, options: dict | None = None
    ) -> None:
        self.run = run
        self.config = load_config(str(run.config), options=options)
        init_default_scope(self.config.get('default_scope', 'mmseg'))
        self.pipeline = _pipeline_of_frames(self.config)
        self.model = load_model(self.config, str(run.checkpoint), device)
        self.networks = tuple(networks_of(self.model))
        default = self.model.predict_on if is_semi_supervised(self.model) else self.networks[0]
        self.network = network or default
        with predicting(self.model, self.network):  # says which there are, where there is none of that name
            self.segmentor: nn.Module = predictor(self.model)
        count = max(getattr(self.segmentor, 'num_classes', 2), 2)
        dataset = dataset_of_frames(self.config)
        named = (dataset.get('metainfo') or {}).get('classes') or ('background', 'polyp')
        self.classes = tuple(named) if len(named) == count else tuple(f'class {label}' for label in range(count))

    def running(self, network: str) -> TrainedModel:
        """The same model, in the same memory, with another of its networks chosen."""
        other = copy(self)
        other.network = network
        with predicting(self.model, network):
            other.segmentor = predictor(self.model)
        return other

    @property
    def calibration(self) -> Calibration | None:
        """What ``tools/calibrate.py`` stored of the network; None where that is nothing."""
        return read_calibration(self.run.checkpoint, self.network)

    @property
    def preprocessor(self) -> nn.Module:
        """The mmseg data preprocessor, which normalises frames."""
        outer = self.model.data_preprocessor
        return outer.data_preprocessor if isinstance(outer, MultiViewSegDataPreprocessor) else outer

    @property
    def identity(self) -> dict[str, object]:
        """What tells its predictions from those of another model."""
        return dict(
            config=hashlib.sha256(self.run.config.read_bytes()).hexdigest()[:16],
            checkpoint=str(self.run.checkpoint.resolve()),
            changed=self.run.checkpoint.stat().st_mtime_ns,
            network=self.network,
        )

    def prepare(self, frame: np.ndarray) -> dict:
        """A frame (H, W, 3) uint8, BGR, as the network takes it."""
        return self.pipeline(dict(img=frame))

    @staticmethod
    def size(sample: dict) -> tuple[int, int]:
        """Height and width at which the network sees a frame."""
        return tuple(sample['inputs'].shape[1:])

    @torch.no_grad()
    def probabilities(self, samples: list[dict], flip: tuple[int, ...] = ()) -> list[Tensor]:
        """(C, H, W) of each frame at its own size, predicted from its mirror image along ``flip`` and turned back.

        Args:
            samples: Prepared frames of one size.
            flip: Dimensions, of -1 and -2.
        """
        batch = [dict(each, inputs=each['inputs'].flip(flip) if flip else each['inputs']) for each in samples]
        data = self.model.data_preprocessor(pseudo_collate(batch), False)
        metas = [sample.metainfo for sample in data['data_samples']]
        # To the network they are of one size; mmseg's models warn or fail where the frames were not.
        seen = [dict(meta, ori_shape=tuple(data['inputs'].shape[2:])) for meta in metas]
        logits = self.segmentor.inference(data['inputs'], seen)
        maps = []
        for each, meta in zip(logits, metas, strict=True):
            left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
            height, width = each.shape[1:]
            each = each[:, top : height - bottom, left : width - right]
            each = each.flip(flip) if flip else each
            maps.append(frame_probabilities(each, meta['ori_shape'], self.segmentor.align_corners))
        return maps


def _pipeline_of_frames(config: Config) -> Compose:
    """The test pipeline of a config, for frames that are there already."""
    return Compose([dict(type='LoadImageFromNDArray'), *frame_steps(config)])


def frame_steps(config: Config) -> list[dict]:
    """What a config's test pipeline does to a frame that has been read.

    Raises:
        ValueError: It does not begin with reading an image.
    """
    steps = dataset_of_frames(config).get('pipeline')
    if not steps or steps[0].get('type') != 'LoadImageFromFile':
        raise ValueError(
            f'{config.filename} has no test_dataloader.dataset.pipeline that begins with LoadImageFromFile, and none '
            'to validate on or named test_pipeline, so it is not known how frames are to be prepared'
        )
    return [step for step in steps[1:] if step.get('type') not in LABELS]
