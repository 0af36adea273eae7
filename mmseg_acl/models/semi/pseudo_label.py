"""Labels, true ones and those made of logits and probabilities, and how good the latter are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmseg.utils import SampleList
from torch import Tensor

IGNORE = 255


def true_labels(samples: SampleList) -> Tensor:
    """Labels (L, H, W) of L labelled images, 255 where there is none, from their data samples."""
    return torch.cat([sample.gt_sem_seg.data for sample in samples])


def probabilities(logits: Tensor) -> Tensor:
    """Class probabilities (B, C, H, W) in [0, 1], summing to 1.

    A sigmoid head's single channel becomes the two-class simplex ``(1 - p, p)``.
    """
    if logits.shape[1] == 1:
        p = logits.float().sigmoid()
        return torch.cat([1 - p, p], dim=1)
    return logits.float().softmax(dim=1)


def hard_labels(prob: Tensor, valid: Tensor, threshold: float = 0.0) -> Tensor:
    """Thresholded pseudo-labels (B, H, W): the likeliest class, 255 where it is to be ignored.

    Args:
        prob: (B, C, H, W) probabilities.
        valid: (B, H, W) bool, false on padding.
        threshold: A pixel less confident than this is ignored; in [0, 1).
    """
    confidence, labels = prob.max(dim=1)
    return labels.masked_fill(~valid | (confidence < threshold), IGNORE)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (B, H, W) as float maps (B, C, H, W), 1 at the class of a pixel; 0 in all of them where it is 255."""
    valid = labels != IGNORE
    return F.one_hot(labels.where(valid, 0), num_classes).movedim(-1, 1).float() * valid[:, None]


def mean_dice(prob: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Dice in percent of the likeliest class, over all pixels of a batch, mean over the foreground classes.

    A class that is neither predicted nor there has no say; where that is all of them, the labels are right: 100.

    Args:
        prob: (B, C, H, W) probabilities; class 0 is background.
        target: (B, H, W) class indices, 255 where they are unknown.
        valid: (B, H, W) bool, false on pixels that do not count.
    """
    predicted = prob.argmax(dim=1).masked_fill(~valid, 0)
    actual = target.masked_fill(~valid | (target == IGNORE), 0)
    dice = []
    for label in range(1, prob.shape[1]):
        found, there = predicted == label, actual == label
        total = found.sum() + there.sum()
        if total:
            dice.append(200.0 * (found & there).sum() / total)
    return torch.stack(dice).mean() if dice else prob.new_tensor(100.0)
