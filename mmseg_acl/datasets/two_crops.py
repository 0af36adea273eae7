"""Two overlapping crops of one image, for methods that compare a pixel in two contexts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from mmseg.registry import TRANSFORMS

from mmseg_acl.datasets.transforms import Views


@TRANSFORMS.register_module()
class TwoCrops(BaseTransform):
    """Cut two overlapping crops, give each flips and colours of its own, and pack them as `Views` does.

    It is the last step of a pipeline. The first crop lies anywhere in the image, the second at any place whose
    overlap suffices and which is whole multiples of `stride` away from the first, so that the cells of a feature
    map at this stride coincide in the overlap (Lai et al., CVPR 2021, section 3.2).

    Args:
        crop_size: Height and width of a crop.
        transforms: Steps run on each crop, with draws of its own. They may flip it (`RandomFlip`) and change its
            colours, nothing else: the model undoes flips to find the overlap again.
        min_iou: Least intersection over union of the two crops, in (0, 1].
        stride: The stride of the features to be compared, or a multiple of it.

    Raises:
        ValueError: `min_iou` or `stride` outside what is allowed, or an image smaller than the crop.
    """

    VIEWS = ('unsup_first', 'unsup_second')

    def __init__(
        self,
        crop_size: tuple[int, int],
        transforms: Sequence[dict | Callable] = (),
        min_iou: float = 0.1,
        stride: int = 8,
    ) -> None:
        if not 0 < min_iou <= 1:
            raise ValueError(f'min_iou={min_iou} must lie in (0, 1]')
        if stride < 1:
            raise ValueError(f'stride={stride} must be at least 1')
        self.crop_size, self.min_iou, self.stride = tuple(crop_size), min_iou, stride
        self.transforms = Compose(transforms)
        self.pack = [Views(**{name: []}) for name in self.VIEWS]

    def transform(self, results: dict) -> dict:
        """Cut and pack.

        Returns:
            As from `Views`, with the views `unsup_first` and `unsup_second`. The metainfo of each sample has
            `crop_corner`, the crop's (top, left) in the resized image before it was flipped, beside
            `flip_direction`.
        """
        packed: dict = {'inputs': {}, 'data_samples': {}}
        for pack, corner in zip(self.pack, self._draw(results['img'].shape[:2]), strict=True):
            view = pack(self.transforms(self._crop(results, corner)))
            for sample in view['data_samples'].values():
                sample.set_metainfo(dict(crop_corner=corner))
            for key, values in view.items():
                packed[key].update(values)
        return packed

    def _draw(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Corners of the two crops, the second one uniform over all that are allowed."""
        spare = [length - crop for length, crop in zip(image_size, self.crop_size, strict=True)]
        if min(spare) < 0:
            raise ValueError(
                f'an image of {image_size[0]} x {image_size[1]} has no crop of {self.crop_size[0]} x '
                f'{self.crop_size[1]}: resize it to no less, or put PadFields(size=...) before TwoCrops'
            )
        first = tuple(int(np.random.randint(room + 1)) for room in spare)
        places = [np.arange(at % self.stride, room + 1, self.stride) for at, room in zip(first, spare, strict=True)]
        shared = [
            np.clip(crop - np.abs(place - at), 0, None)
            for crop, place, at in zip(self.crop_size, places, first, strict=True)
        ]
        intersection = np.outer(*shared)
        union = 2 * self.crop_size[0] * self.crop_size[1] - intersection
        allowed = np.argwhere(intersection >= self.min_iou * union)  # never empty: the first crop's own place
        chosen = allowed[np.random.randint(len(allowed))]
        return first, tuple(int(place[i]) for place, i in zip(places, chosen, strict=True))

    def _crop(self, results: dict, corner: tuple[int, int]) -> dict:
        """The image and all its maps, cut at one corner."""
        area = tuple(slice(at, at + length) for at, length in zip(corner, self.crop_size, strict=True))
        maps = {key: results[key][area].copy() for key in ['img', *results.get('seg_fields', [])]}
        return dict(results, **maps, img_shape=self.crop_size)
