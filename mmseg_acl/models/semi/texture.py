"""Frames in which there is nothing to see, such as black ones."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the labelled frames' deviation. Quarters of frames of Kvasir-SEG and CVC-ClinicDB have 0.16 and more; the noise
# of a sensor, three grey levels, is 0.05.
_BLANK = 0.1


@torch.no_grad()
def texture(images: Tensor, valid: Tensor | None = None) -> Tensor:
    """Standard deviation of the values of each image.

    Args:
        images: (B, 3, H, W).
        valid: (B, H, W) bool, false on padding, which does not count. None for all.

    Returns:
        (B,), the root of the mean variance of the channels; 0 where nothing is valid.
    """
    weight = torch.ones_like(images[:, :1]) if valid is None else valid[:, None].to(images)
    count = weight.sum((2, 3), keepdim=True).clamp(min=1)
    mean = (images * weight).sum((2, 3), keepdim=True) / count
    variance = ((images - mean).square() * weight).sum((2, 3), keepdim=True) / count
    return variance.mean((1, 2, 3)).sqrt()


@torch.no_grad()
def is_blank(images: Tensor, labelled: Tensor, valid: Tensor | None = None) -> Tensor:
    """Whether there is nothing to see in an image, by what is usual in labelled ones.

    What a teacher says of a black or constant frame follows from nothing in it. In whatever unit the images are, the
    answer is the same.

    Args:
        images: (B, 3, H, W).
        labelled: (L, 3, H, W), of which somebody has seen what they show.
        valid: (B, H, W) bool, false on padding of ``images``. None for all.

    Returns:
        (B,) bool.
    """
    return texture(images, valid) <= _BLANK * texture(labelled).mean()


def fill_blank(images: Tensor, blank: Tensor, labelled: Tensor) -> Tensor:
    """Labelled images in the place of blank ones, so that these do not shape BatchNorm's statistics either.

    Args:
        images: (B, 3, H, W).
        blank: (B,) bool.
        labelled: (L, 3, H, W), taken in turn.

    Returns:
        (B, 3, H, W).
    """
    turn = torch.arange(len(images), device=images.device) % len(labelled)
    return torch.where(blank.view(-1, 1, 1, 1), labelled[turn], images)
