"""What a network makes of each frame of a pool, kept in files, so that a call that was stopped goes on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from rich.progress import Progress
from torch import Tensor, nn

from mmseg_acl._stack import errors_alone
from mmseg_acl.datasets.audit import hash_image
from mmseg_acl.engine import resolve_weights
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.inference.exported import ExportedModel
from mmseg_acl.inference.predictor import by_size, open_model
from mmseg_acl.inference.runs import find_run
from mmseg_acl.inference.sources import read_frame
from mmseg_acl.inference.trained import TrainedModel
from mmseg_acl.labelling.pool import PoolFrame
from mmseg_acl.labelling.rules import Looks

PART = 256
BATCH = 8
# A pixel is doubted where no class has this much, the usual threshold of pseudo-labels.
SURE = 0.95
STUDENT, TEACHER = 'student', 'teacher'
# Without a run frames are compared by what ImageNet's classes have taught: the network of configs/*/mbv2_*.py.
SIZE = (128, 128)
BACKBONE = dict(
    type='MobileNetV2', out_indices=(6,), init_cfg=dict(type='Pretrained', checkpoint='mmcls://mobilenet_v2')
)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Nothing:
    """Looks at no frame: for rules that choose by chance alone."""

    identity: object = None

    def __call__(self, images: list[np.ndarray]) -> list[dict[str, np.ndarray | float]]:
        """Nothing of each frame."""
        return [{} for _ in images]


class Pretrained:
    """Features of a backbone that has learnt ImageNet's classes."""

    def __init__(self) -> None:
        init_default_scope('mmseg')
        config = ConfigDict(backbone=BACKBONE)
        resolve_weights(config)
        # mmengine would log where each of the weights comes from.
        with torch.random.fork_rng(), errors_alone(MMLogger.get_current_instance()):
            torch.manual_seed(0)  # where MMSEG_ACL_WEIGHTS is none
            self.backbone = MODELS.build(config.backbone)
            self.backbone.init_weights()
        self.backbone.eval()
        content = hashlib.sha256()
        for value in self.backbone.state_dict().values():
            content.update(value.numpy().tobytes())
        self.identity: object = content.hexdigest()

    @torch.no_grad()
    def __call__(self, images: list[np.ndarray]) -> list[dict[str, np.ndarray | float]]:
        """The features of each frame."""
        batch = np.stack([cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA)[..., ::-1] for image in images])
        inputs = (batch.astype(np.float32) - MEAN) / STD
        found = self.backbone(torch.from_numpy(inputs.astype(np.float32).transpose(0, 3, 1, 2).copy()))
        return [dict(features=row) for row in pooled(found).numpy()]


class Trained:
    """Features of a trained model, and how sure it is.

    Args:
        model: It.
        both: Whether student and teacher are compared.

    Raises:
        ValueError: It has no backbone, or not both networks.
    """

    def __init__(self, model: TrainedModel, both: bool) -> None:
        if both and not {STUDENT, TEACHER} <= set(model.networks):
            raise ValueError(
                f'the rule disagreement compares student and teacher, but {model.run.checkpoint} has '
                f'{", ".join(model.networks)} alone: take another rule, such as entropy'
            )
        if not isinstance(getattr(model.segmentor, 'backbone', None), nn.Module):
            raise ValueError(f'{model.run.checkpoint} has no backbone whose features could be compared')
        self.model, self.both = model, both
        self.identity: object = dict(model.identity, both=both)

    def __call__(self, images: list[np.ndarray]) -> list[dict[str, np.ndarray | float]]:
        """Features, share of the foreground, entropy and disagreement of each frame."""
        samples = [self.model.prepare(image) for image in images]
        for sample in samples:
            # Probabilities at the size that the network sees: those of the frame's own tell no more, and cost more.
            sample['data_samples'].set_metainfo(dict(ori_shape=tuple(sample['inputs'].shape[1:])))
        return by_size(self.model, samples, self._look)

    def _look(self, samples: list[dict]) -> list[dict[str, np.ndarray | float]]:
        with features_of(self.model.segmentor.backbone) as features:
            maps = self.model.probabilities(samples)
        looks = [
            dict(features=row, share=float((labels_of(prob) > 0).float().mean()), entropy=doubt(prob))
            for row, prob in zip(pooled(features[-1]).cpu().numpy(), maps, strict=True)
        ]
        if self.both:
            others = {TEACHER: STUDENT}.get(self.model.network, TEACHER)
            second = self.model.running(others).probabilities(samples)
            for look, one, other in zip(looks, maps, second, strict=True):
                look['disagreement'] = 1 - agreement(labels_of(one) > 0, labels_of(other) > 0)
        return looks


def open_looker(words: Sequence[str], rule: str, device: str | None = None) -> Nothing | Pretrained | Trained:
    """What a rule needs to look at frames.

    Args:
        words: The run, see :func:`~mmseg_acl.inference.runs.find_run`; empty without one.
        rule: See :data:`~mmseg_acl.labelling.rules.RULES`, without ``auto``.
        device: For the run; by default the best there is.

    Raises:
        FileNotFoundError, ValueError: The run is missing, or cannot be used for the rule.
    """
    if rule == 'random':
        return Nothing()
    if not words:
        return Pretrained()
    model = open_model(find_run(words), device=device)
    if isinstance(model, ExportedModel):
        raise ValueError(
            f'{model.run.checkpoint} is an exported model, which does not give its features: give the run that it '
            'was made of, a work dir or a config and a checkpoint'
        )
    return Trained(model, rule == 'disagreement')


def look_at(
    frames: Sequence[PoolFrame], looker: Nothing | Pretrained | Trained, hashing: bool, cache: Path
) -> tuple[list[int], Looks, np.ndarray | None, list[str]]:
    """Look at frames; what is known of ``PART`` of them is one file, which a later call reads.

    Args:
        frames: The frames.
        looker: What looks at them.
        hashing: Whether perceptual hashes are taken.
        cache: Folder of the files. A file counts for these frames as they are, and this looker, alone.

    Returns:
        Indices of the frames that can be read; their looks; their hashes (N, B) bool, or None; what is wrong with the
        others.
    """
    parts = []
    with Progress() as progress:
        task = progress.add_task('looking at frames', total=len(frames))
        for start in range(0, len(frames), PART):
            block = frames[start : start + PART]
            parts.append(_read_part(block, looker, hashing, cache))
            progress.update(task, advance=len(block))
    width = max(part['features'].shape[1] for part in parts)
    for part in parts:
        if part['features'].shape[1] < width:  # none of its frames can be read
            part['features'] = np.zeros((len(part['fault']), width), np.float32)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    faults = joined['fault']
    there = [index for index, fault in enumerate(faults) if not fault]
    looks = Looks(*(joined[key][there] for key in Looks._fields))
    bits = np.unpackbits(joined['hash'][there], axis=1).astype(bool) if hashing else None
    return there, looks, bits, [fault for fault in faults if fault]


def _read_part(
    block: Sequence[PoolFrame], looker: Nothing | Pretrained | Trained, hashing: bool, cache: Path
) -> dict[str, np.ndarray]:
    files = [(str(frame.path.resolve()), frame.path.stat()) for frame in block]
    states = [(name, state.st_size, state.st_mtime_ns) for name, state in files]
    key = json.dumps([looker.identity, hashing, states])
    file = cache / f'{hashlib.sha256(key.encode()).hexdigest()[:20]}.npz'
    if file.is_file():
        with np.load(file) as content:
            return dict(content)
    rows: list[dict] = []
    for start in range(0, len(block), BATCH):
        rows += _look_at_batch(block[start : start + BATCH], looker, hashing)
    width = max((len(row['features']) for row in rows if 'features' in row), default=0)
    part = dict(
        fault=np.array([row.get('fault', '') for row in rows]),
        hash=np.stack([row.get('hash', np.zeros(32, np.uint8)) for row in rows]),
        features=np.stack([row.get('features', np.zeros(width, np.float32)) for row in rows]),
        **{
            name: np.array([row.get(name, np.nan) for row in rows], np.float64)
            for name in ('share', 'entropy', 'disagreement')
        },
    )
    buffer = io.BytesIO()
    np.savez(buffer, **part)
    write_atomically(buffer.getvalue(), file)
    return part


def _look_at_batch(frames: Sequence[PoolFrame], looker: Nothing | Pretrained | Trained, hashing: bool) -> list[dict]:
    rows: list[dict] = []
    images: list[np.ndarray] = []
    for frame in frames:
        row: dict = {}
        rows.append(row)
        try:
            image = None if isinstance(looker, Nothing) else read_frame(frame.path)
            if hashing:
                row['hash'] = np.packbits(hash_image(frame.path))
            if image is not None:
                images.append(image)
        except (OSError, ValueError) as error:
            row['fault'] = str(error)
    seen = [row for row in rows if 'fault' not in row]
    if isinstance(looker, Nothing):
        return rows
    for row, look in zip(seen, looker(images), strict=True):
        row.update(look)
    return rows


@contextmanager
def features_of(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """A list that gets the last map (B, C, h, w) of each pass through a backbone."""
    found: list[Tensor] = []
    hook = backbone.register_forward_hook(lambda _module, _inputs, output: found.append(last_map(output)))
    try:
        yield found
    finally:
        hook.remove()


def last_map(output: Tensor | Sequence[Tensor]) -> Tensor:
    """The deepest of a backbone's maps (B, C, h, w)."""
    while not isinstance(output, Tensor):
        output = output[-1]
    return output


def pooled(output: Tensor | Sequence[Tensor]) -> Tensor:
    """Means (B, C) of the deepest map over its places, of unit length."""
    return F.normalize(last_map(output).float().flatten(2).mean(2), dim=1)


def labels_of(prob: Tensor) -> Tensor:
    """The likeliest class (H, W) of probabilities (C, H, W)."""
    return prob.argmax(0)


def doubt(prob: Tensor) -> float:
    """Mean entropy, in bits, of the pixels of which no class has 0.95 of (C, H, W); 0 where there are none."""
    doubted = prob[:, prob.amax(0) < SURE]
    if not doubted.shape[1]:
        return 0.0
    return float(-(doubted * doubted.clamp_min(1e-12).log2()).sum(0).mean())


def agreement(one: Tensor, other: Tensor) -> float:
    """Dice of two masks (H, W), 1 where both are empty."""
    total = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
