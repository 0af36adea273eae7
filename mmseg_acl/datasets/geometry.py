"""Scale, crop, padding and flip, drawn once for an image and all of its maps.

What is drawn is as in mmcv's and mmseg's steps of similar names, and so is what comes out but for the place where a
crop begins, in less time.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms import Pad as MMCVPad
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MarkValid(BaseTransform):
    """Add `valid_map`, 1 at every pixel of the image; what geometry pads later is not 1."""

    def transform(self, results: dict) -> dict:
        results['valid_map'] = np.ones(results['img'].shape[:2], np.uint8)
        results['seg_fields'].append('valid_map')
        return results


@TRANSFORMS.register_module()
class RandomResizeAndCrop(BaseTransform):
    """`RandomResize` followed by `RandomCrop`, by the same draws.

    What the crop leaves out is never resized, for which a crop begins up to one pixel of the image before theirs: see
    `resized_crop`. The image is resized bilinearly, a map by its nearest pixel.

    Args:
        scale: Width and height at a ratio of 1, whatever the image's own are.
        ratio_range: Least and largest ratio, above 0.
        crop_size: Height and width of the crop; less where the resized image is smaller.

    Raises:
        ValueError: `ratio_range` is not an increasing range above 0, or `scale` or `crop_size` not above 0.
    """

    def __init__(self, scale: tuple[int, int], ratio_range: tuple[float, float], crop_size: tuple[int, int]) -> None:
        for name, sizes in (('scale', scale), ('crop_size', crop_size)):
            if min(sizes) < 1:
                raise ValueError(f'{name}={tuple(sizes)} must be two whole numbers above 0')
        if not 0 < ratio_range[0] <= ratio_range[1]:
            raise ValueError(f'ratio_range={tuple(ratio_range)} must be an increasing range above 0')
        self.scale, self.ratio_range, self.crop_size = tuple(scale), tuple(ratio_range), tuple(crop_size)

    def transform(self, results: dict) -> dict:
        height, width = results['img'].shape[:2]
        low, high = self.ratio_range
        ratio = np.random.random_sample() * (high - low) + low
        size = tuple(int(side * ratio) for side in self.scale)
        corner = tuple(
            np.random.randint(max(side - crop, 0) + 1) for side, crop in zip(size[::-1], self.crop_size, strict=True)
        )
        results['img'] = resized_crop(results['img'], size, corner, self.crop_size, cv2.INTER_LINEAR)
        for key in results.get('seg_fields', ()):
            results[key] = resized_crop(results[key], size, corner, self.crop_size, cv2.INTER_NEAREST)
        results['scale'], results['keep_ratio'] = size, False
        results['scale_factor'] = size[0] / width, size[1] / height
        results['img_shape'] = results['img'].shape[:2]
        return results


def resized_crop(
    image: np.ndarray, size: tuple[int, int], corner: tuple[int, int], crop_size: tuple[int, int], interpolation: int
) -> np.ndarray:
    """Crop a resized image without resizing what lies outside of the crop.

    The crop begins at a whole pixel of the image, for OpenCV lets none begin in between. It therefore lies up to one
    pixel of the image above and left of `corner`, and so does the crop of each map.

    Args:
        image: (H, W) or (H, W, 3).
        size: Width and height of the whole resized image, as OpenCV has them.
        corner: Top and left of the crop in the resized image.
        crop_size: Height and width; the crop ends where the resized image does.
        interpolation: `cv2.INTER_LINEAR` or `cv2.INTER_NEAREST`.

    Returns:
        (h, w) or (h, w, 3), h and w being those of `crop_size`, or less.
    """
    parts, scales = [], []
    for side, whole, start, wanted in zip(image.shape, size[::-1], corner, crop_size, strict=False):
        scale = whole / side
        wanted = min(wanted, whole)
        first = int(start / scale)
        # The last pixel of the crop lies between two of the image's, of which the second is still needed.
        parts.append((slice(first, int(first + wanted / scale) + 2), wanted))
        scales.append(scale)
    (rows, height), (columns, width) = parts
    resized = cv2.resize(image[rows, columns], None, fx=scales[1], fy=scales[0], interpolation=interpolation)
    return resized[:height, :width]


@TRANSFORMS.register_module()
class PadFields(MMCVPad):
    """mmcv's `Pad` for every map in `seg_fields`; mmcv pads `gt_seg_map` alone.

    What is large enough is left as it is, where mmcv would copy it.
    """

    def _pad_img(self, results: dict) -> None:
        height, width = results['img'].shape[:2]
        if self.size is None or width < self.size[0] or height < self.size[1]:
            super()._pad_img(results)
            return
        results.update(
            pad_shape=results['img'].shape,
            pad_fixed_size=self.size,
            pad_size_divisor=self.size_divisor,
            img_shape=(height, width),
        )

    def _pad_seg(self, results: dict) -> None:
        shape = results['pad_shape'][:2]
        for key in results.get('seg_fields', []):
            if results[key].shape[:2] != shape:
                results[key] = mmcv.impad(
                    results[key],
                    shape=shape,
                    pad_val=self.pad_val.get('seg', 255),
                    padding_mode=self.padding_mode,
                )


@TRANSFORMS.register_module()
class RandomFlipFields(BaseTransform):
    """Flip the image and every map in `seg_fields`, as mmseg's `RandomFlip` does with the same draws.

    Args:
        prob: Probability of each direction; together at most 1.
        direction: As many, of 'horizontal', 'vertical' and 'diagonal' (both).

    Raises:
        ValueError: An unknown direction, or probabilities that do not go with the directions.
    """

    # As OpenCV calls them, which flips row by row; NumPy's flips are copied pixel by pixel.
    CODES = {'horizontal': 1, 'vertical': 0, 'diagonal': -1}

    def __init__(self, prob: Sequence[float], direction: Sequence[str]) -> None:
        if not set(direction) <= set(self.CODES):
            raise ValueError(f'direction={list(direction)} must be of {", ".join(self.CODES)}')
        if len(prob) != len(direction) or min(prob, default=0) < 0 or sum(prob) > 1:
            raise ValueError(
                f'prob={list(prob)} must have a probability for each of {list(direction)}, together at most 1'
            )
        self.direction = [*direction, None]
        self.bounds = list(itertools.accumulate(prob))

    def transform(self, results: dict) -> dict:
        direction = self.direction[bisect_right(self.bounds, np.random.random_sample())]
        results['flip'], results['flip_direction'] = direction is not None, direction
        if direction is not None:
            for key in ('img', *results.get('seg_fields', ())):
                results[key] = cv2.flip(results[key], self.CODES[direction])
        return results


def unmirrored(image: np.ndarray) -> np.ndarray:
    """The same image or map, contiguous.

    A flip by NumPy is a view that runs backwards, which NumPy then copies pixel by pixel; OpenCV flips by rows,
    hundreds of times as fast.
    """
    if image.strides[1] < 0:
        return cv2.flip(image[:, ::-1], 1)
    return np.ascontiguousarray(image)
