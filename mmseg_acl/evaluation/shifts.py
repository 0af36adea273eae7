"""How a checkpoint bears images that differ from those it was trained on, made from labelled ones at hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from prettytable import PrettyTable
from rich.progress import track
from torch import Tensor

from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.evaluation.cross_dataset import load_model
from mmseg_acl.evaluation.labelled_images import labelled_images
from mmseg_acl.models.semi.joint_pass import full_image_metas
from mmseg_acl.models.semi.pseudo_label import mean_dice, probabilities

# Of the standardised red, green and blue.
_REDDER = (0.5, -0.2, -0.3)
_SHRINK = 0.7
_BLUR = 5

Shift = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def shrink(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Show (B, 3, H, W) images and (B, H, W) masks at 0.7 of their size; the border is continued, without polyp."""
    size = images.shape[2:]
    rows, columns = (round(side * (1 / _SHRINK - 1) / 2) for side in size)
    edges = [columns, columns, rows, rows]
    smaller = F.interpolate(
        F.pad(images, edges, mode='replicate'), size=size, mode='bilinear', antialias=True, align_corners=False
    )
    masked = F.interpolate(F.pad(masks[:, None].float(), edges), size=size, mode='nearest')
    return smaller, masked[:, 0].to(masks.dtype)


def redden(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Shift the colours of (B, 3, H, W) standardised images towards red."""
    return images + images.new_tensor(_REDDER)[:, None, None], masks


def grey(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Take the colours out of (B, 3, H, W) standardised images."""
    return images.mean(1, keepdim=True).expand_as(images).contiguous(), masks


def blur(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Average (B, 3, H, W) images over squares of 5 x 5 pixels."""
    return F.avg_pool2d(F.pad(images, [_BLUR // 2] * 4, mode='reflect'), _BLUR, 1), masks


SHIFTS: dict[str, Shift] = {
    'none': lambda images, masks: (images, masks),
    'shrunk': shrink,
    'redder': redden,
    'grey': grey,
    'blurred': blur,
}


@torch.no_grad()
def measure_shifts(config: Config, checkpoint: str, ann_file: str, out_dir: str) -> dict[str, float]:
    """Dice of the predicting network on labelled images as they are, shrunk, redder, grey and blurred.

    For choosing settings without a look at unseen data sets, which differ in such ways: their polyps are smaller and
    their colours others. Scored at the network's input size; an image without polyp is left out.

    Args:
        config: Config of any segmentor with two classes.
        checkpoint: Its weights.
        ann_file: A list of the config's test data set class, by name or path; none that is tested on.
        out_dir: Where ``shifts.json`` goes.

    Returns:
        Dice in percent, mean over images, by shift, and their ``mean``.

    Raises:
        FileNotFoundError, ValueError: Checkpoint, list or images are missing or do not fit.
    """
    model = load_model(config, checkpoint)
    dice: dict[str, list[float]] = {name: [] for name in SHIFTS}
    for images, masks in track(list(labelled_images(config, model, ann_file)), description='shifts'):
        for name, shift in SHIFTS.items():
            seen, truth = shift(images, masks)
            if (truth == 1).any():
                prob = probabilities(model.encode_decode(seen, full_image_metas(seen)))
                dice[name].append(float(mean_dice(prob, truth, torch.ones_like(truth, dtype=torch.bool))))
    if not dice['none']:
        raise ValueError(f'no image of {ann_file} shows a polyp; give a list of images that do')
    found = {name: sum(values) / len(values) for name, values in dice.items() if values}
    found['mean'] = sum(found.values()) / len(found)
    out = Path(out_dir) / 'shifts.json'
    write_atomically(f'{json.dumps(found, indent=1)}\n'.encode(), out)
    table = PrettyTable(list(found))
    table.add_row([f'{value:.2f}' for value in found.values()])
    print(f'{table}\nwritten: {out}')
    return found
