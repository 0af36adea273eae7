"""What to paste from an image's partner: the box of an object, or all pixels of a class (Hu et al. 2021, Sec. 3.3).

The partner is the previous image of the batch, as in :func:`~mmseg_acl.models.semi.mixing.mix`, which takes the masks
drawn here. In a batch of one it is the image itself, so that nothing changes.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor


def component_boxes(mask: np.ndarray, min_pixels: float = 1) -> list[tuple[int, int, int, int]]:
    """Boxes (top, left, bottom, right), ends exclusive, of the 8-connected components of a (H, W) bool map.

    Args:
        mask: Where the class is.
        min_pixels: A smaller component has no box.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return [
        (int(top), int(left), int(top + height), int(left + width))
        for left, top, width, height, pixels in stats[1:]  # the first is what lies around the components
        if pixels >= min_pixels
    ]


def object_boxes(labels: Tensor, rates: Tensor, prob: float, min_area: float) -> Tensor:
    """Adaptive CutMix: for each image the box of one object of its partner.

    The class is drawn by ``rates`` among those of which the partner has an object, then one of these objects, each
    with the same chance. A partner without any object gives no box.

    Args:
        labels: (B, H, W) class indices of the batch; 255, or any class of rate 0, is never an object.
        rates: (C,) chance of each class.
        prob: Probability that an image receives a box, in [0, 1].
        min_area: Share of the image below which a connected component is no object.

    Returns:
        (B, 1, H, W) bool, true where the partner shows.
    """
    mask = torch.zeros_like(labels, dtype=torch.bool)
    rates, partners = rates.cpu(), labels.roll(1, dims=0).cpu().numpy()
    for here, partner in zip(mask, partners, strict=True):
        if torch.rand(()) >= prob:
            continue
        boxes = {c: component_boxes(partner == c, min_area * partner.size) for c in _present(partner, rates)}
        boxes = {c: found for c, found in boxes.items() if found}
        if boxes:
            found = boxes[_draw(list(boxes), rates)]
            top, left, bottom, right = found[int(torch.randint(len(found), ()))]
            here[top:bottom, left:right] = True
    return mask.unsqueeze(1)


def class_pixels(labels: Tensor, rates: Tensor, prob: float) -> Tensor:
    """Adaptive copy-paste: for each image all pixels of one class of its partner.

    Args:
        labels: (B, H, W) class indices of the batch; 255, or any class of rate 0, is never pasted.
        rates: (C,) chance of each class, drawn among those that the partner has.
        prob: Probability that an image receives anything, in [0, 1].

    Returns:
        (B, 1, H, W) bool, true where the partner shows.
    """
    mask = torch.zeros_like(labels, dtype=torch.bool)
    rates, partners = rates.cpu(), labels.roll(1, dims=0)
    for here, partner in zip(mask, partners, strict=True):
        if torch.rand(()) >= prob:
            continue
        present = _present(partner.cpu().numpy(), rates)
        if present:
            here.copy_(partner == _draw(present, rates))
    return mask.unsqueeze(1)


def _present(labels: np.ndarray, rates: Tensor) -> list[int]:
    """The classes with a rate above 0 that are in ``labels``."""
    return [int(c) for c in np.unique(labels) if c < len(rates) and rates[c] > 0]


def _draw(classes: list[int], rates: Tensor) -> int:
    """One of ``classes``, by their rates."""
    return classes[int(torch.multinomial(rates[classes], 1))]
