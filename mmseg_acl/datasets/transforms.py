"""Pipeline steps: colours, and several views of one image.

Geometry runs once, before `Views`; the views differ in colours only, so they are aligned pixel by pixel.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from mmengine.registry import FUNCTIONS
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS
from mmseg.structures import SegDataSample

from mmseg_acl.datasets.geometry import unmirrored

META_KEYS = (
    'img_path',
    'ori_shape',
    'img_shape',
    'pad_shape',
    'scale_factor',
    'flip',
    'flip_direction',
)


@TRANSFORMS.register_module()
class ColorJitter(BaseTransform):
    """Change brightness, contrast, saturation and hue of a BGR image, in random order.

    Each factor is drawn from [1 - x, 1 + x] and the hue's shift from [-hue, hue] of the full
    circle, as in torchvision's transform of this name.

    Args:
        brightness: x of the brightness, in [0, 1].
        contrast: x of the contrast (distance from the mean grey value), in [0, 1].
        saturation: x of the saturation (distance from the pixel's grey value), in [0, 1].
        hue: Largest shift of the hue, in [0, 0.5].
        prob: Probability of changing the image at all.
    """

    def __init__(
        self,
        brightness: float = 0.5,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.25,
        prob: float = 0.8,
    ) -> None:
        for name, value, upper in (
            ('brightness', brightness, 1.0),
            ('contrast', contrast, 1.0),
            ('saturation', saturation, 1.0),
            ('hue', hue, 0.5),
            ('prob', prob, 1.0),
        ):
            if not 0 <= value <= upper:
                raise ValueError(f'{name}={value} must lie in [0, {upper}]')
        self.steps = (
            (_adjust_brightness, 1 - brightness, 1 + brightness),
            (_adjust_contrast, 1 - contrast, 1 + contrast),
            (_adjust_saturation, 1 - saturation, 1 + saturation),
            (_shift_hue, -hue, hue),
        )
        self.prob = prob

    def transform(self, results: dict) -> dict:
        if np.random.rand() >= self.prob:
            return results
        image = results['img']
        for i in np.random.permutation(len(self.steps)):
            adjust, low, high = self.steps[i]
            image = adjust(image, np.random.uniform(low, high))
        results['img'] = image
        return results


@TRANSFORMS.register_module()
class RandomGrey(BaseTransform):
    """Make a BGR image grey, in three equal channels.

    It draws as mmcv's `RandomGrayscale` does, which takes fifty times as long and cuts off where this rounds.

    Args:
        prob: Probability of making it grey.
    """

    def __init__(self, prob: float = 0.2) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'prob={prob} must lie in [0, 1.0]')
        self.prob = prob

    def transform(self, results: dict) -> dict:
        if random.random() < self.prob:
            results['img'] = _grey(results['img'])
        return results


@TRANSFORMS.register_module()
class RandomGaussianBlur(BaseTransform):
    """Blur the image with a Gaussian.

    Args:
        sigma: Range of the standard deviation, in pixels.
        prob: Probability of blurring.
    """

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0), prob: float = 0.5) -> None:
        if not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f'sigma={tuple(sigma)} must be an increasing range above 0')
        if not 0 <= prob <= 1:
            raise ValueError(f'prob={prob} must lie in [0, 1.0]')
        self.sigma = sigma
        self.prob = prob

    def transform(self, results: dict) -> dict:
        if np.random.rand() < self.prob:
            sigma = np.random.uniform(*self.sigma)
            results['img'] = cv2.GaussianBlur(results['img'], (0, 0), sigma)
        return results


@TRANSFORMS.register_module()
class BlackFrames(BaseTransform):
    """Make a share of the frames black, as those are that a camera takes before it is switched on.

    It shows what such frames in a pool of unlabelled ones do to a method. The name of a frame decides, so that it is
    the same ones in every epoch and on every machine.

    Args:
        share: Of the frames, in [0, 1].

    Raises:
        ValueError: A share out of range.
    """

    def __init__(self, share: float = 0.5) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f'share={share} must lie in [0, 1]')
        self.share = share

    def transform(self, results: dict) -> dict:
        if zlib.crc32(Path(results['img_path']).name.encode()) < self.share * 2**32:
            results['img'] = np.zeros_like(results['img'])
        return results


@TRANSFORMS.register_module()
class Views(BaseTransform):
    """Make several views of one image and pack them; the last step of a pipeline.

    Args:
        **views: Name of a view to its list of transforms, which must change nothing but the image's
            colours: each list starts from a copy of the image, the maps are shared.
    """

    def __init__(self, **views: Sequence[dict | Callable]) -> None:
        if not views:
            raise ValueError('Views needs at least one view, for example Views(sup=[]): got none')
        self.views = {name: Compose(transforms) for name, transforms in views.items()}
        self.pack = PackSegInputs(meta_keys=())

    def transform(self, results: dict) -> dict:
        """Pack the views.

        Returns:
            `{'inputs': {view: uint8 tensor (3, H, W)}, 'data_samples': {view: SegDataSample}}`. The
            samples carry `gt_sem_seg` (labelled images only), `valid` (bool, (1, H, W)) and
            `hidden_sem_seg` (as it was loaded, uint8) where the pipeline has loaded or made these maps.

        Raises:
            ValueError: A step of a view flips, crops or otherwise changes the maps.
        """
        image = unmirrored(results['img'])
        samples = self._samples(results)
        packed = {'inputs': {}, 'data_samples': dict(zip(self.views, samples, strict=True))}
        for name, transforms in self.views.items():
            view = transforms(dict(results, img=image.copy())) if transforms.transforms else dict(results, img=image)
            for key in results.get('seg_fields', ()):
                if view[key] is not results[key]:
                    raise ValueError(
                        f"a step of the view '{name}' changes {key}, which all views share: put what moves pixels "
                        'before Views'
                    )
            packed['inputs'][name] = _planes(view['img'])
        return packed

    def _samples(self, results: dict) -> list[SegDataSample]:
        """The maps of an image, once for each view."""
        sample = self.pack({key: value for key, value in results.items() if key != 'img'})['data_samples']
        if 'valid_map' in results:
            sample.valid = _pixel_data(results['valid_map'] == 1)
        if 'hidden_seg_map' in results:
            sample.hidden_sem_seg = _pixel_data(unmirrored(results['hidden_seg_map']))
        # The views share the maps' numbers, not the objects that hold them, which padding a batch changes.
        samples = [
            sample,
            *(
                SegDataSample(**{key: value.new() for key, value in sample.items()})
                for _ in range(len(self.views) - 1)
            ),
        ]
        for each in samples:
            # One by one: set_metainfo, which PackSegInputs uses, makes deep copies of what nobody changes.
            for key in META_KEYS:
                if key in results:
                    each.set_field(results[key], key, field_type='metainfo')
        return samples


@FUNCTIONS.register_module()
def view_collate(batch: Sequence[dict]) -> dict:
    """Collate samples made by `Views`, view by view; samples may have different views.

    Args:
        batch: Samples as `Views` packs them.

    Returns:
        `{'inputs': {view: [tensor, ...]}, 'data_samples': {view: [SegDataSample, ...]}}`, each list
        in the order of the batch.
    """
    collated: dict = {'inputs': {}, 'data_samples': {}}
    for sample in batch:
        for key, views in collated.items():
            for name, value in sample[key].items():
                views.setdefault(name, []).append(value)
    return collated


def _planes(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) as a tensor (3, H, W), several times as fast as a permutation."""
    image = unmirrored(image)
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    cv2.split(image, list(planes))
    return torch.from_numpy(planes)


def _pixel_data(array: np.ndarray) -> PixelData:
    return PixelData(data=torch.from_numpy(array[None]))


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=factor)


def _adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))[0]
    # The second image counts for nothing. addWeighted cuts off at 0, where convertScaleAbs mirrors.
    return cv2.addWeighted(image, factor, image, 0, mean * (1 - factor))


def _adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.addWeighted(image, factor, _grey(image), 1 - factor, 0)


def _shift_hue(image: np.ndarray, shift: float) -> np.ndarray:
    # _FULL: hue in 0..255, so that uint8 wraps as the circle does.
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    # By rows of (shift, 0, 0): to add to every third number alone takes NumPy several times as long.
    rows = hsv.reshape(len(hsv), -1)
    rows += np.tile(np.array([round(shift * 256) % 256, 0, 0], np.uint8), hsv.shape[1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)
