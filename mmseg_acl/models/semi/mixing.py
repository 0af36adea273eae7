"""Boxes of one image pasted into another of the batch (Yun et al. 2019; French et al. 2020)."""

from __future__ import annotations

import torch
from mmengine.structures import PixelData
from mmseg.utils import SampleList
from torch import Tensor
from torch.distributions import Beta


class CutMix:
    """Draw one box an image, then paste the same box of another image into anything of that batch.

    Args:
        prob: Probability that an image receives a box, in [0, 1].
        area: Range of the box's share of the image, within (0, 1).
        aspect: Range of height / width of the box, before it is clipped to the image.
        stride: Boxes are snapped to multiples of it, so that a feature map at this stride can be mixed
            with exactly the same geometry as its image.
        beta: The two parameters of a Beta distribution, above 0, that the box's share is drawn from; by
            default it is uniform over ``area``.

    Raises:
        ValueError: An argument outside what is allowed.
    """

    def __init__(
        self,
        prob: float = 0.5,
        area: tuple[float, float] = (0.1, 0.4),
        aspect: tuple[float, float] = (0.5, 2.0),
        stride: int = 8,
        beta: tuple[float, float] | None = None,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'CutMix prob is {prob}; it is a probability, within [0, 1]')
        if not 0 < area[0] <= area[1] < 1:
            raise ValueError(f'CutMix area is {area}; it needs 0 < low <= high < 1')
        if beta is not None and min(beta) <= 0:
            raise ValueError(f'CutMix beta is {beta}; both parameters of a Beta distribution are above 0')
        self.prob, self.area, self.aspect, self.stride = prob, area, aspect, stride
        self.share = None if beta is None else Beta(*map(float, beta))

    def draw(self, images: Tensor) -> Tensor:
        """Boxes for ``images`` (B, 3, H, W) as a mask (B, 1, H, W), true where the partner shows.

        A batch of one has no partner and gets no box.
        """
        batch, _, height, width = images.shape
        mask = torch.zeros(batch, 1, height, width, dtype=torch.bool)
        if batch < 2:
            return mask.to(images.device)
        for i in range(batch):
            chance, area, aspect, top, left = torch.rand(5).tolist()
            if chance >= self.prob:
                continue
            if self.share is None:
                share = self.area[0] + area * (self.area[1] - self.area[0])
            else:
                share = self.share.sample().item()
            ratio = self.aspect[0] * (self.aspect[1] / self.aspect[0]) ** aspect
            h = self._snap((share * height * width * ratio) ** 0.5, height)
            w = self._snap((share * height * width / ratio) ** 0.5, width)
            y = round(top * (height - h) / self.stride) * self.stride
            x = round(left * (width - w) / self.stride) * self.stride
            mask[i, :, y : y + h, x : x + w] = True
        return mask.to(images.device)

    def _snap(self, length: float, limit: int) -> int:
        """The nearest positive multiple of the stride that leaves some of the image."""
        steps = max(1, min(round(length / self.stride), limit // self.stride - 1))
        return steps * self.stride


def mix(x: Tensor, mask: Tensor) -> Tensor:
    """Paste each image's partner, the previous one of the batch, where ``mask`` is true.

    Args:
        x: (B, C, h, w) or (B, h, w): images, probabilities, weights, valid maps or features of one batch.
        mask: (B, 1, H, W) from :meth:`CutMix.draw`; where ``x`` is coarser, H / h must be whole and
            divide the box's stride.

    Raises:
        ValueError: The sizes do not divide.
    """
    (height, width), (h, w) = mask.shape[-2:], x.shape[-2:]
    if height % h or width % w:
        raise ValueError(f'a mask of {height}x{width} cannot be laid over a map of {h}x{w}: sizes must divide')
    mask = mask[..., :: height // h, :: width // w]
    if x.dim() == 3:
        mask = mask.squeeze(1)
    return torch.where(mask, x.roll(1, dims=0), x)


class BoxMix:
    """Draw several boxes an image for :func:`mix`; where two overlap, the image itself shows again.

    As in French et al. (BMVC 2020), whose boxes CPS uses: the shares of all boxes together are drawn, and each box
    has its part of it, with a side ratio that is drawn on the logarithm.

    Args:
        count: Boxes an image, at least 1.
        area: Range of the boxes' share of the image together, within (0, 1).

    Raises:
        ValueError: An argument outside what is allowed.
    """

    def __init__(self, count: int = 3, area: tuple[float, float] = (0.25, 0.5)) -> None:
        if count < 1:
            raise ValueError(f'the boxes are count={count}; there must be at least 1')
        if not 0 < area[0] <= area[1] < 1:
            raise ValueError(f'the boxes have area={tuple(area)}; it needs 0 < low <= high < 1')
        self.count, self.area = count, tuple(area)

    def draw(self, images: Tensor) -> Tensor:
        """Boxes for ``images`` (B, 3, H, W) as a mask (B, 1, H, W), true where the partner shows.

        A batch of one has no partner and gets no box.
        """
        batch, _, height, width = images.shape
        mask = torch.zeros(batch, 1, height, width, dtype=torch.bool)
        for image in mask if batch > 1 else ():
            low, high = self.area
            share = (low + (high - low) * torch.rand(()).item()) / self.count
            for ratio, top, left in torch.rand(self.count, 3).tolist():
                rows = share**ratio  # of the height; the share of the width is what is left of the area
                h, w = max(1, round(rows * height)), max(1, round(share / rows * width))
                y, x = round(top * (height - h)), round(left * (width - w))
                image[:, y : y + h, x : x + w] ^= True
        return mask.to(images.device)


def relabelled(samples: SampleList, truth: Tensor) -> SampleList:
    """Copies of data samples with other labels (B, H, W); those given stay as they are."""
    copies = [sample.clone() for sample in samples]
    for sample, labels in zip(copies, truth, strict=True):
        sample.gt_sem_seg = PixelData(data=labels[None])
    return copies
