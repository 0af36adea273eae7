"""Losses on labels and on pseudo-labels (Eqs 12 and 14), and on affinities of labelled images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.models.semi.pseudo_label import IGNORE, hard_labels, one_hot, probabilities

# Bounds the cost of a pair that the affinity is sure of, and wrong.
_SURE = 1e-6


def soft_dice_loss(prob: Tensor, target: Tensor, weight: Tensor, smooth: float = 1.0) -> Tensor:
    """Dice loss an image, over the foreground classes, mean over images and classes.

    ``1 - (2 sum(w p t) + s) / (sum(w p^2) + sum(w t^2) + s)`` (Milletari et al. 2016), and 0 where the class does not
    occur. mmseg's ``DiceLoss`` flattens classes and batch together, so that the background hides a missed polyp, and
    counts ignored pixels; this one does neither. With squares in the denominator a soft target is its own optimum.

    Args:
        prob: (B, C, H, W) probabilities; class 0 is background.
        target: (B, C, H, W) probabilities or one-hot labels.
        weight: (B, H, W), 0 on ignored pixels.
        smooth: Pixels added above and below.
    """
    weight = weight.unsqueeze(1)
    p, t = prob[:, 1:], target[:, 1:]
    overlap = (weight * p * t).sum(dim=(2, 3))
    total = (weight * (p.square() + t.square())).sum(dim=(2, 3))
    loss = 1 - (2 * overlap + smooth) / (total + smooth)
    # Where nothing is to be found, the gradient at a pixel would be about 2 p / smooth, and at a pixel of an object
    # it is the inverse of the object's size: a few frames without a polyp would drown all the others. Cross-entropy
    # teaches them.
    return (loss * ((weight * t).sum(dim=(2, 3)) > 0)).mean()


@MODELS.register_module()
class PolypDiceLoss(nn.Module):
    """:func:`soft_dice_loss` as an mmseg ``loss_decode`` (Eq. 14), for softmax and sigmoid heads.

    Args:
        loss_weight: Factor of the loss.
        smooth: See :func:`soft_dice_loss`.
        loss_name: Key under which it is logged; it must begin with ``loss_``.
    """

    def __init__(self, loss_weight: float = 1.0, smooth: float = 1.0, loss_name: str = 'loss_dice') -> None:
        super().__init__()
        self.loss_weight, self.smooth, self.loss_name = loss_weight, smooth, loss_name

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int = IGNORE,
    ) -> Tensor:
        """Loss of logits ``pred`` (B, C or 1, H, W) against labels ``target`` (B, H, W).

        ``avg_factor`` and ``reduction_override`` are part of mmseg's call; a Dice loss has no use for them.
        """
        prob = probabilities(pred)
        valid = target != ignore_index
        true = F.one_hot(target.where(valid, 0), prob.shape[1]).movedim(-1, 1)
        weight = valid.to(prob) if weight is None else valid * weight
        return self.loss_weight * soft_dice_loss(prob, true.to(prob), weight, self.smooth)


def no_loss(*modules: nn.Module) -> Tensor | int:
    """A zero that reaches every parameter of ``modules`` that learns.

    A part that is not active at a step contributes it, since distributed training waits for a gradient of every
    parameter.
    """
    return 0 * sum(p.sum() for module in modules for p in module.parameters() if p.requires_grad)


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every pixel (B, H, W), for softmax and sigmoid heads.

    Args:
        logits: (B, C or 1, H, W).
        labels: (B, H, W) class indices, 255 where the result is to be 0.
    """
    if logits.shape[1] == 1:
        valid = labels != IGNORE
        target = labels.where(valid, 0).to(logits)
        return F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction='none') * valid
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction='none')


def label_loss(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy, mean over the pixels that are not ignored; 0 where all are.

    Args:
        logits: (B, C or 1, H, W).
        labels: (B, H, W) class indices, 255 on ignored pixels.
        weight: (B, H, W) of the pixels, not negative; None for 1.
    """
    valid = labels != IGNORE
    weight = valid if weight is None else valid * weight
    return (weight * pixel_cross_entropy(logits, labels)).sum() / weight.sum().clamp(min=1)


def pseudo_label_loss(logits: Tensor, prob: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Consistency loss of Eq. 12: cross-entropy with the hard labels plus Dice with the soft ones.

    Args:
        logits: (B, C or 1, H, W) of the student.
        prob: (B, C, H, W) refined probabilities, no gradient.
        labels: (B, H, W) pseudo-labels, 255 where both terms are to ignore the pixel.
        weight: (B, H, W) of the pixels in the cross-entropy, not negative; None for 1. Dice needs none: a soft
            label says itself how sure it is.

    Returns:
        A scalar; 0, still connected to ``logits``, where every pixel is ignored.
    """
    dice = soft_dice_loss(probabilities(logits), prob, (labels != IGNORE).to(prob))
    return label_loss(logits, labels, weight) + dice


def confident_loss(
    logits: Tensor, prob: Tensor, valid: Tensor, threshold: float, criterion: str = 'cross_entropy'
) -> Tensor:
    """The loss of FixMatch and its successors: labels that the teacher is sure of, over all valid pixels.

    ``'cross_entropy'`` sums over the pixels whose label has at least ``threshold`` and divides by all valid ones, so
    that a teacher that is seldom sure teaches little. ``'dice'`` is the Dice loss with the hard labels over the
    pixels that are kept, which UniMatch takes for medical images.

    Args:
        logits: (B, C or 1, H, W) of the student.
        prob: (B, C, H, W) probabilities that the labels come from, no gradient.
        valid: (B, H, W) bool, false on padding.
        threshold: In [0, 1).
        criterion: ``'cross_entropy'`` or ``'dice'``.

    Returns:
        A scalar; 0, still connected to ``logits``, where no pixel is kept.
    """
    return kept_loss(logits, hard_labels(prob, valid, threshold), valid, criterion)


def kept_loss(logits: Tensor, labels: Tensor, valid: Tensor, criterion: str = 'cross_entropy') -> Tensor:
    """:func:`confident_loss` for labels (B, H, W) that are 255 on the pixels that are not kept."""
    if criterion == 'cross_entropy':
        return pixel_cross_entropy(logits.float(), labels).sum() / valid.sum().clamp(min=1)
    prob = probabilities(logits)
    return soft_dice_loss(prob, one_hot(labels, prob.shape[1]).to(prob), (labels != IGNORE).to(prob))


def sure_divergence(logits: Tensor, prob: Tensor, sure: Tensor, valid: Tensor) -> Tensor:
    """Kullback-Leibler divergence of predictions from ``prob``, over sure pixels, divided by all valid ones.

    Args:
        logits: (B, C or 1, H, W).
        prob: (B, C, H, W) probabilities, no gradient.
        sure: (B, H, W) bool, within ``valid``.
        valid: (B, H, W) bool, false on padding.
    """
    logits = logits.float()
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    pixels = F.kl_div(logits.log_softmax(dim=1), prob, reduction='none').sum(dim=1)
    return (pixels * sure).sum() / valid.sum().clamp(min=1)


def affinity_loss(affinity: Tensor, members: Tensor) -> Tensor:
    """Cross-entropy of an affinity map with "both are of one class", where the classes are known.

    Pairs of one class weigh as much as pairs of two classes, one half each, and within a half every class, or pair
    of classes, that the image has weighs alike (Ahn and Kwak, CVPR 2018, who have one foreground): counted one by
    one, the few pairs of a small class would not matter. An image of a single class has half of the first half.

    Args:
        affinity: (B, N, N) in (0, 1), symmetric.
        members: (B, N, C) bool, pixels known to be of a class; a pixel that is of none says nothing.

    Returns:
        The mean over images.
    """
    members = members.to(affinity)
    counts = members.sum(1)
    pairs = (counts[:, :, None] * counts[:, None, :]).clamp(min=1)

    def mean_cost(likelihood: Tensor) -> Tensor:
        """(B, C, C) mean cost of the pairs of two classes; 0 where there is none."""
        return members.transpose(1, 2) @ -likelihood.clamp(min=_SURE).log() @ members / pairs

    same = torch.diagonal(mean_cost(affinity), dim1=1, dim2=2).sum(1)
    apart = mean_cost(1 - affinity)
    different = apart.sum((1, 2)) - torch.diagonal(apart, dim1=1, dim2=2).sum(1)
    present = (counts > 0).sum(1).clamp(min=2)
    return (same / (2 * present) + different / (2 * present * (present - 1))).mean()
