"""Refinement of pseudo-labels by low-level and high-level affinity (Eqs 9 to 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_acl.models.semi.precision import full_precision

# Exponents below this add nothing that float32 keeps beside 1, but exp of them gives denormal
# numbers, which are slow.
_LEAST_EXPONENT = -60.0
# A map whose spread is smaller than this has nothing to be stretched.
_FLAT = 1e-6


@MODELS.register_module()
class LocalAffinity(nn.Module):
    """Low-level affinity: a kernel over dilated neighbours (Eqs 9 and 10).

    Pixel-adaptive refinement of Ru et al. 2022 after Araslanov and Roth 2020. The usual
    implementation gathers all neighbours into one tensor, 48 times the size of the input; this one
    walks over shifted views of a padded plane and writes each weight once. No gradient: it lies on
    the way of the pseudo-labels.

    Args:
        dilations: Each adds the 8 neighbours at that distance; beyond the border the nearest pixel
            stands in.
        w1: Smoothness of the colour term, in standard deviations of the neighbours' colour.
        w2: Smoothness of the distance term, in standard deviations of the neighbours' distance.
        w3: Weight of the distance term.
        normalize: Divide by 1 + w3, so that the weights of a pixel sum to 1. Printed Eq. 10 does
            not, and Eq. 11 then grows with every iteration.

    Attributes:
        num_neighbours: 8 per dilation, ordered by dilation, then row by row around the pixel.
        row_sum: What the weights of a pixel sum to.

    Raises:
        ValueError: No dilation or one below 1, or weights out of range.
    """

    presets = {
        'paper': dict(w1=0.2, w2=0.2, w3=0.5, normalize=True),
        'released': dict(w1=0.3, w2=0.3, w3=0.01, normalize=False),
    }

    def __init__(
        self,
        dilations: Sequence[int] = (1, 2, 4, 8, 12, 24),
        w1: float = 0.2,
        w2: float = 0.2,
        w3: float = 0.5,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if not dilations or min(dilations) < 1:
            raise ValueError(f'dilations are {tuple(dilations)}; needed is at least one, and each at least 1')
        if w1 <= 0 or w2 <= 0 or w3 < 0:
            raise ValueError(f'w1, w2, w3 are {w1}, {w2}, {w3}; w1 and w2 must be above 0, w3 not below')
        self.dilations = tuple(dilations)
        self.w1 = w1
        self.w3 = w3
        self.offsets = [
            (dy * step, dx * step) for step in self.dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx
        ]
        self.num_neighbours = len(self.offsets)
        self.row_sum = 1.0 if normalize else 1.0 + w3
        distances = torch.tensor([(dy**2 + dx**2) ** 0.5 for dy, dx in self.offsets], dtype=torch.float64)
        spatial = (-((distances / ((distances.std() + 1e-8) * w2)) ** 2)).softmax(0)
        # Python floats: added to planes one by one, and the same on every device and for every
        # dtype.
        self._spatial = (spatial * w3 * self.row_sum / (1 + w3)).tolist()

    @classmethod
    def from_preset(cls, preset: str, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)) -> LocalAffinity:
        """Build it with the weights of the paper or of the authors' released code.

        Args:
            preset: ``'paper'`` for w = (.2, .2, .5), normalised; ``'released'`` for w = (.3, .3,
                .01), as released not normalised.
            dilations: See the class.

        Raises:
            ValueError: An unknown preset.
        """
        if preset not in cls.presets:
            raise ValueError(f'preset is {preset!r}; allowed are {sorted(cls.presets)}')
        return cls(dilations, **cls.presets[preset])

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Compute the kernel: ``softmax(k_cha) + w3 softmax(k_spa)`` over the neighbours (Eq. 10).

        ``k_cha`` is the mean over channels of ``-(|I_p - I_q| / (w1 sigma_p))^2``, sigma_p the
        standard deviation over p's neighbours (Eq. 9).

        Args:
            image: (B, C, H, W) in any range: a shift or a scale of a channel changes nothing.

        Returns:
            (B, num_neighbours, H, W), in the image's dtype, at least float32.
        """
        image = image if image.element_size() >= 4 and image.is_floating_point() else image.float()
        batch, channels, height, width = image.shape
        padded = self._pad(image)
        kernel = image.new_empty(batch, self.num_neighbours, height, width)
        for part in _parts(image):
            weights = kernel[part].unbind(1)
            difference = torch.empty_like(image[part, 0])
            # One channel at a time: its plane stays in the cache over all neighbours.
            for channel in range(channels):
                colour = image[part, channel]
                neighbours = self._neighbours(padded[part, channel])
                scale = self._deviation(neighbours).mul_(self.w1 * channels**0.5).reciprocal_()
                for weight, neighbour in zip(weights, neighbours, strict=True):
                    torch.sub(neighbour, colour, out=difference).mul_(scale)
                    if channel == 0:
                        torch.mul(difference, difference, out=weight)
                    else:
                        weight.addcmul_(difference, difference)
            self._to_affinity(weights)
        return kernel

    @torch.no_grad()
    def propagate(self, prob: Tensor, kernel: Tensor, num_iters: int) -> Tensor:
        """Average every pixel over its neighbours, repeatedly (Eq. 11, low-level term).

        Args:
            prob: (B, K, H, W).
            kernel: (B, num_neighbours, H, W) from :meth:`forward`.
            num_iters: How often, 0 or more.

        Returns:
            (B, K, H, W), in the kernel's dtype. Each iteration multiplies the sum over classes by
            ``row_sum``.

        Raises:
            ValueError: Shapes that do not fit.
        """
        expected = (len(prob), self.num_neighbours, *prob.shape[2:])
        if kernel.shape != expected:
            raise ValueError(f'the kernel has shape {tuple(kernel.shape)}; this map needs {expected}')
        if num_iters == 0:
            return prob.to(kernel.dtype)
        result = torch.empty_like(prob, dtype=kernel.dtype)
        for part in _parts(prob):
            current, weights = prob[part].to(kernel.dtype), kernel[part].unsqueeze(2).unbind(1)
            for _ in range(num_iters):
                neighbours = self._neighbours(self._pad(current))
                current = torch.zeros_like(current)
                for weight, neighbour in zip(weights, neighbours, strict=True):
                    current.addcmul_(neighbour, weight)
            result[part] = current
        return result

    def _pad(self, maps: Tensor) -> Tensor:
        return F.pad(maps, [max(self.dilations)] * 4, mode='replicate')

    def _neighbours(self, padded: Tensor) -> list[Tensor]:
        """Return views of padded maps, (..., H, W) each, shifted to each neighbour."""
        edge = max(self.dilations)
        bottom, right = (side - edge for side in padded.shape[-2:])
        return [padded[..., edge + dy : bottom + dy, edge + dx : right + dx] for dy, dx in self.offsets]

    def _deviation(self, neighbours: list[Tensor]) -> Tensor:
        """Standard deviation over each pixel's neighbours.

        In two passes: squares minus squared means lose the digits near highlights, where the
        deviation is small beside the values.
        """
        mean, variance, difference = (torch.zeros_like(neighbours[0]) for _ in range(3))
        for neighbour in neighbours:
            mean += neighbour
        mean /= self.num_neighbours
        for neighbour in neighbours:
            torch.sub(neighbour, mean, out=difference)
            variance.addcmul_(difference, difference)
        return variance.div_(self.num_neighbours - 1).sqrt_().add_(1e-8)

    def _to_affinity(self, weights: Sequence[Tensor]) -> None:
        """Turn -k_cha, one tensor a neighbour, into the weights of Eq. 10, in place."""
        least = weights[0].clone()
        for weight in weights[1:]:
            torch.minimum(least, weight, out=least)
        total = torch.zeros_like(least)
        for weight in weights:
            torch.sub(least, weight, out=weight).clamp_(min=_LEAST_EXPONENT).exp_()
            total += weight
        factor = total.mul_((1 + self.w3) / self.row_sum).reciprocal_()
        for weight, spatial in zip(weights, self._spatial, strict=True):
            weight.mul_(factor).add_(spatial)


def _parts(maps: Tensor) -> list[slice]:
    """Split a batch into what is worked on at a time.

    On a CPU that is one image, whose planes and kernel then stay in the caches; elsewhere the whole
    batch, for the fewest launches.
    """
    if maps.device.type != 'cpu':
        return [slice(None)]
    return [slice(index, index + 1) for index in range(len(maps))]


class Refinement(NamedTuple):
    """Refined probabilities and the way to them.

    Attributes:
        prob: (B, C, H, W) on the simplex, the background first.
        stages: The same after each stage that ran, in order: ``'high'`` and ``'low'`` for the sequential
            schedule, ``'joint'`` for the joint one. Kept so that it can be seen while training whether a stage
            helps.
        weight: (B, H, W) in [0, 1], how much each pixel is to count; None where all count alike.
    """

    prob: Tensor
    stages: dict[str, Tensor]
    weight: Tensor | None = None


@MODELS.register_module()
class PseudoLabelRefiner(nn.Module):
    """Refine the teacher's probabilities by low-level and high-level affinity (Eq. 11).

    ``'sequential'``: ``y <- a1 y + a2 A y`` once with the high-level affinity A, then ``y <- K y``
    with the low-level kernel, ``num_iters`` times. ``'joint'``: ``y <- a1 K y + a2 A y``,
    ``num_iters`` times, as printed; an operator that is switched off becomes the identity. A works
    on the means of y over the affinity's grid and leaves the detail within a cell as it is, so that
    the identity as affinity changes nothing.

    After each stage, or after the last joint iteration, two things that averaging does to a good
    label are undone. It pulls the rarer class towards the other, and the polyp shrinks: with
    ``ranged`` every foreground map is stretched back, per image, to the range it had in the teacher's
    output. And it overrules a teacher that is sure: with ``gated``, which is ours, a pixel moves only by the share
    ``1 - certainty`` of the way to its refined value, with the certainty of the teacher's greatest
    probability p among C classes ``(C p - 1) / (C - 1)``, which is ``|2 p - 1|`` for two. So refinement
    fades by itself as the teacher gets better.

    With ``weighted`` a pixel counts as much as what it is refined to is certain: what affinity could not
    settle either teaches little.

    With more than two classes every foreground class has its map, only those that the teacher's arg max shows
    in the image are stretched, and the maps are brought back to the simplex.

    Attributes may be changed between iterations, by a hook for example.

    Args:
        local: A preset of :class:`LocalAffinity`, or the arguments of one.
        schedule: ``'sequential'`` or ``'joint'``.
        num_iters: T of Eq. 11; scale it with the input's side.
        alphas: (a1, a2) of Eq. 11, not negative, sum 1.
        ranged: Whether to restore the range.
        gated: Whether to move pixels in proportion to the teacher's doubt.
        weighted: Whether to weigh pixels by what is left of that doubt.
        low: Whether to use the low-level affinity (LA).
        high: Whether to use the high-level affinity (HA).

    Raises:
        ValueError: An unknown schedule or preset, or numbers out of range.
    """

    def __init__(
        self,
        local: str | dict = 'paper',
        schedule: str = 'sequential',
        num_iters: int = 10,
        alphas: tuple[float, float] = (0.3, 0.7),
        ranged: bool = True,
        gated: bool = False,
        weighted: bool = False,
        low: bool = True,
        high: bool = True,
    ) -> None:
        super().__init__()
        if schedule not in ('sequential', 'joint'):
            raise ValueError(f"schedule is {schedule!r}; allowed are 'sequential' and 'joint'")
        if num_iters < 1:
            raise ValueError(f'num_iters is {num_iters}; it must be at least 1')
        if min(alphas) < 0 or abs(sum(alphas) - 1) > 1e-6:
            raise ValueError(f'alphas are {tuple(alphas)}; they must not be negative, and sum to 1')
        self.local = LocalAffinity.from_preset(local) if isinstance(local, str) else LocalAffinity(**local)
        self.schedule = schedule
        self.num_iters = num_iters
        self.alphas = tuple(alphas)
        self.ranged = ranged
        self.gated = gated
        self.weighted = weighted
        self.low = low
        self.high = high

    @torch.no_grad()
    @full_precision
    def forward(
        self,
        prob: Tensor,
        image: Tensor | None = None,
        affinity: Tensor | None = None,
        grid: tuple[int, int] | None = None,
        valid: Tensor | None = None,
    ) -> Refinement:
        """Refine one batch.

        Args:
            prob: (B, C, H, W) the teacher's probabilities, the background first.
            image: (B, 3, H, W); needed for the low-level term.
            affinity: (B, N, N) row-stochastic (Eq. 8); needed for the high-level term.
            grid: (h, w) with h * w = N, the affinity's pixels.
            valid: (B, H, W) bool, false on padding; ranges are taken over valid pixels. None for
                all.

        Returns:
            The refined probabilities, the stages and the weights; ``prob`` itself, without weights, where nothing is
            switched on.

        Raises:
            ValueError: Fewer than two classes, or an input that a switched-on term needs is missing or does not
                fit.
        """
        self._check(prob, image, affinity, grid)
        # The background is what the foreground leaves: of C classes, C - 1 maps are carried.
        y = prob[:, 1:]
        kernel = self.local(image) if self.low else None
        stages = {}
        if self.schedule == 'joint' and (self.low or self.high):
            for _ in range(self.num_iters):
                y = self._joint_step(y, kernel, affinity, grid)
            y = stages['joint'] = self._restore(y, prob, valid)
        elif self.schedule == 'sequential':
            if self.high:
                y = self.alphas[0] * y + self.alphas[1] * _aggregate(y, affinity, grid)
                y = stages['high'] = self._restore(y, prob, valid)
            if self.low:
                y = self.local.propagate(y, kernel, self.num_iters)
                y = y / self.local.row_sum**self.num_iters
                y = stages['low'] = self._restore(y, prob, valid)
        weight = _certainty(y)[:, 0] if self.weighted and stages else None
        return Refinement(_with_background(y), {name: _with_background(y) for name, y in stages.items()}, weight)

    def _joint_step(
        self,
        y: Tensor,
        kernel: Tensor | None,
        affinity: Tensor | None,
        grid: tuple[int, int] | None,
    ) -> Tensor:
        """One iteration of Eq. 11, divided by the sum that all classes have after it."""
        near, far = y, y
        total = 1.0
        if self.low:
            near = self.local.propagate(y, kernel, 1)
            total = self.alphas[0] * self.local.row_sum + self.alphas[1]
        if self.high:
            far = _aggregate(y, affinity, grid)
        return (self.alphas[0] * near + self.alphas[1] * far) / total

    def _restore(self, y: Tensor, prob: Tensor, valid: Tensor | None) -> Tensor:
        """Give (B, K, H, W) foreground maps the range and, where it is sure, the values of the teacher's ``prob``."""
        start = prob[:, 1:]
        if self.ranged:
            stretched = _stretch(y, start, valid)
            y = stretched if y.shape[1] == 1 else stretched.where(_shown(prob, valid), y)
        y = y / y.sum(1, keepdim=True).clamp(min=1)
        if self.gated:
            y = start.lerp(y, 1 - _certainty(start))
        return y

    def _check(
        self,
        prob: Tensor,
        image: Tensor | None,
        affinity: Tensor | None,
        grid: tuple[int, int] | None,
    ) -> None:
        if prob.dim() != 4 or prob.shape[1] < 2:
            raise ValueError(
                f'prob has shape {tuple(prob.shape)}; refinement takes a background and at least one foreground '
                'class: (B, C, H, W) with C >= 2'
            )
        batch, _, *size = prob.shape
        if self.low and (image is None or (len(image), *image.shape[2:]) != (batch, *size)):
            raise ValueError(
                f'image has shape {_shape(image)}; the low-level term needs it at the size of '
                f'prob, {_shape(prob)}, or switch the term off with low=False'
            )
        if self.high and (affinity is None or grid is None or affinity.shape != (batch, *[grid[0] * grid[1]] * 2)):
            raise ValueError(
                f'affinity has shape {_shape(affinity)} and grid is {grid}; the high-level term '
                f'needs ({batch}, N, N) with N = grid[0] * grid[1], or switch it off: high=False'
            )


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _with_background(y: Tensor) -> Tensor:
    """(B, C, H, W) probabilities from (B, C - 1, H, W) foreground maps."""
    return torch.cat([(1 - y.sum(1, keepdim=True)).clamp(min=0), y], dim=1)


def _certainty(y: Tensor) -> Tensor:
    """(B, 1, H, W): 0 where all classes of (B, C - 1, H, W) foreground maps are alike, 1 where one has everything."""
    if y.shape[1] == 1:  # (C p - 1) / (C - 1) of the greater of both, as one number
        return (2 * y - 1).abs()
    classes = y.shape[1] + 1
    return ((classes * _with_background(y).amax(1, keepdim=True) - 1) / (classes - 1)).clamp(0, 1)


def _shown(prob: Tensor, valid: Tensor | None) -> Tensor:
    """(B, C - 1, 1, 1) bool: the foreground classes that the arg max of (B, C, H, W) shows in the image."""
    labels = prob.argmax(1)
    if valid is not None:
        labels = labels.masked_fill(~valid, 0)
    return torch.stack([(labels == label).flatten(1).any(1) for label in range(1, prob.shape[1])], 1)[..., None, None]


def _aggregate(y: Tensor, affinity: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average the grid's means of (B, K, H, W) maps with an affinity (Eq. 11, high-level term)."""
    means = F.adaptive_avg_pool2d(y, grid)
    averaged = torch.bmm(affinity, means.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, grid)
    change = F.interpolate(averaged - means, size=y.shape[2:], mode='bilinear', align_corners=False)
    return (y + change).clamp(0, 1)


def _stretch(y: Tensor, start: Tensor, valid: Tensor | None) -> Tensor:
    """Stretch (B, K, H, W) maps per image and class to the range of ``start``; a flat map stays."""
    low, high = _extremes(y, valid)
    first, last = _extremes(start, valid)
    slope = torch.where(high - low > _FLAT, (last - first) / (high - low).clamp(min=_FLAT), 1)
    offset = torch.where(high - low > _FLAT, first, low)
    return ((y - low) * slope + offset).clamp(0, 1)


def _extremes(maps: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Least and greatest value of each map, (B, K, 1, 1), over valid pixels if there are any."""
    if valid is None:
        return maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    ignored = (~valid & valid.any(2, keepdim=True).any(1, keepdim=True))[:, None]
    low = maps.masked_fill(ignored, float('inf')).amin((2, 3), keepdim=True)
    high = maps.masked_fill(ignored, float('-inf')).amax((2, 3), keepdim=True)
    return low, high
