"""How a mask of polyps is read, whatever its coding.

An exported model carries a copy of this file (:mod:`mmseg_acl.engine.export`), so it imports nothing of this package.
"""

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

# A black mask saved as JPEG may be a little above 0: Kvasir-SEG's background reaches 7.
MAX_BLACK = 7


def read_polyp_mask(path: str) -> np.ndarray:
    """Read a near-binary mask of any coding.

    JPEG, 0/255, 0/1, boolean, RGB, palette and 16-bit files are understood: the brightest channel
    counts, and is foreground above half of the range, or above 0 in a mask that has no value above 1.
    It is turned as its EXIF orientation says, as images are.

    Args:
        path: Mask file.

    Returns:
        uint8 array (H, W), 1 where there is a polyp and 0 elsewhere.

    Raises:
        ValueError: The file is no image, or its brightest value lies between black and 127, so that
            the coding is unknown, or only its transparency varies.
    """
    data = np.fromfile(path, np.uint8)
    # OpenCV on bytes: four times as fast as PIL here, and any file name works on any system. Not
    # IMREAD_UNCHANGED, which would leave a mask lying whose image is turned.
    values = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
    if values is None:
        raise ValueError(f"mask '{path}' cannot be decoded: replace the file")
    if values.ndim == 3:
        values = np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2])
    brightest = int(values.max())
    if values.dtype == np.uint16 and brightest > 255:
        values, brightest = values >> 8, brightest >> 8
    # Class numbers look like a black JPEG's noise; a file without loss has no noise.
    coarse = data[:2].tobytes() == b'\xff\xd8' or values.min() == brightest
    if (MAX_BLACK if coarse else 1) < brightest <= 127:
        raise ValueError(
            f"mask '{path}' has values up to {brightest}, which is neither 0/1 nor 0/255: save it "
            'with values 0 and 255'
        )
    if brightest == 0:
        whole = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if whole.ndim == 3 and whole.shape[2] == 4 and np.ptp(whole[..., 3]):
            raise ValueError(
                f"mask '{path}' is black with a varying transparency, which is not read: save it "
                'without transparency, with values 0 and 255'
            )
    threshold = 0 if brightest <= 1 else 127
    return (values > threshold).astype(np.uint8)


# force: an exported model carries a copy of this file, which may be imported beside it.
@TRANSFORMS.register_module(force=True)
class LoadPolypMask(BaseTransform):
    """Load the mask of a polyp as 0 (background) and 1 (polyp); see `read_polyp_mask`.

    Args:
        hidden: Load `hidden_map_path` into `hidden_seg_map` where the sample has one, instead of
            `seg_map_path` into `gt_seg_map`. No loss takes a hidden map for a label.
        optional: Leave an image without a mask as it is, as for prediction. Hidden masks always are.
    """

    def __init__(self, hidden: bool = False, optional: bool = False) -> None:
        self.path_key = 'hidden_map_path' if hidden else 'seg_map_path'
        self.map_key = 'hidden_seg_map' if hidden else 'gt_seg_map'
        self.optional = optional or hidden
        # Decoding costs as much as the image does; as bits, a thousand masks take some 40 MB.
        self._cache: dict[str, tuple[tuple[int, int], np.ndarray]] = {}

    def transform(self, results: dict) -> dict:
        path = results.get(self.path_key)
        if path is None:
            if self.optional:
                return results
            raise ValueError(
                f"image '{results.get('img_path')}' has no mask: LoadPolypMask() belongs in the "
                'pipeline of a labelled data set, LoadPolypMask(hidden=True) in an unlabelled one'
            )
        results[self.map_key] = self._read(path)
        results['seg_fields'].append(self.map_key)
        return results

    def _read(self, path: str) -> np.ndarray:
        """The mask of a file, decoded the first time only."""
        if path not in self._cache:
            mask = read_polyp_mask(path)
            self._cache[path] = mask.shape, np.packbits(mask)
        shape, bits = self._cache[path]
        return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)
