"""How a mask of polyps is read, whatever its coding.

An exported model carries a copy of this file (:mod:`mmseg_acl.engine.export`), so it imports nothing of this package.
"""

from __future__ import annotations

import io
import logging

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageOps

# A black mask saved as JPEG may be a little above 0: Kvasir-SEG's background reaches 7.
MAX_BLACK = 7
# Class numbers of the common sets end at VOC's 20; the seams of anti-aliased and resized masks lie well above.
MAX_CLASS = 20
# Where class numbers are used, 255 is a pixel to be ignored, and 254 is what `reduce_zero_label` makes of it.
IGNORED = (254, 255, 65534, 65535)
# JPEG puts a colour at most 80 levels beside what it was, at a few scattered pixels; 48 at one in ten thousand.
MAX_COLOUR_NOISE = 48
MIN_COLOUR_PIXELS = 8
MAX_BRIGHT_SPREAD = 32
MEND = 'save it with values 0 and 255'


def read_polyp_mask(path: str) -> np.ndarray:
    """Read a near-binary mask of any coding.

    JPEG, 0/255, 0/1, boolean, RGB, palette and 16-bit files are understood: the brightest channel
    counts, and is foreground above half of the range, or above 0 in a mask that has no value above 1.
    It is turned as its EXIF orientation says, as images are. What could mean two things is refused.

    Args:
        path: Mask file.

    Returns:
        uint8 array (H, W), 1 where there is a polyp and 0 elsewhere.

    Raises:
        ValueError: The file is no image, or its coding is unknown: the brightest value lies between black and 127;
            class numbers lie beside 255; there is more than one colour, or nothing dark; colours of the palette hide
            a difference of the indices, or the transparency shows another shape than the colours.
    """
    data = np.fromfile(path, np.uint8)
    # OpenCV on bytes: four times as fast as PIL here, and any file name works on any system. Not
    # IMREAD_UNCHANGED, which would leave a mask lying whose image is turned.
    pixels = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
    if pixels is None:
        raise ValueError(f"mask '{path}' cannot be decoded: replace the file")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"mask '{path}' has pixels of type {pixels.dtype}: save it with 8 bits, values 0 and 255")
    lossy = data[:2].tobytes() == b'\xff\xd8'
    values, chroma = _brightest_channel(pixels)
    levels = np.array(cv2.minMaxLoc(values)[:2], int) if lossy else _levels(values)
    full = 255 if levels[-1] <= 255 else 65535
    mask = (values > (full // 2 if levels[-1] > 1 else 0)).view(np.uint8)
    fault = _value_fault(levels, full, lossy)
    if not fault and chroma > MAX_COLOUR_NOISE * full / 255:
        fault = _colour_fault(pixels * (255 / full), mask, lossy)
    if not fault and mask.all():
        fault = _bright_fault(pixels, full)
    if not fault and not lossy:
        fault = _header_fault(data, mask)
    if fault:
        raise ValueError(f"mask '{path}' {fault}")
    return mask


def _brightest_channel(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """The brightest of the channels (H, W), and how far channels of a pixel lie apart at most."""
    if pixels.ndim == 2:
        return pixels, 0
    blue, green, red = cv2.split(pixels)
    brightest = cv2.max(cv2.max(blue, green), red)
    return brightest, cv2.norm(brightest, cv2.min(cv2.min(blue, green), red), cv2.NORM_INF)


def _levels(values: np.ndarray) -> np.ndarray:
    """The distinct values, ascending."""
    count = np.iinfo(values.dtype).max + 1
    return np.flatnonzero(cv2.calcHist([values], [0], None, [count], [0, count]))


def _value_fault(levels: np.ndarray, full: int, lossy: bool) -> str | None:
    """What is wrong with the values of a mask, if anything.

    Args:
        levels: Distinct values, ascending; of a JPEG the lowest and the highest are enough.
        full: What white has.
        lossy: Whether it is a JPEG.
    """
    darkest, brightest = levels[0], levels[-1]
    # Class numbers look like a black JPEG's noise; a file without loss has no noise.
    black = (MAX_BLACK + 1) * (full + 1) // 256 - 1 if lossy or darkest == brightest else 1
    if black < brightest <= full // 2:
        of = '' if full == 255 else f' of {full}'
        return f'has values up to {brightest}{of}, which is neither 0/1 nor 0/{full}: {MEND}'
    between = levels[(levels > 0) & (levels < brightest)]
    if not lossy and brightest in IGNORED and between.size and between[-1] <= MAX_CLASS:
        low = f'the value {between[0]}' if len(between) == 1 else f'values from {between[0]} to {between[-1]}'
        return (
            f'has {low} beside {brightest} and none between, so that {brightest} may be polyp or a pixel to ignore: '
            f'{MEND}, or read class numbers as a data set of mmseg does'
        )
    return None


def _colour_fault(pixels: np.ndarray, mask: np.ndarray, lossy: bool) -> str | None:
    """What is wrong with the colours of a mask, 0 to 255, if anything: they must be shades of one."""
    bright = pixels[mask.view(bool)]
    first = np.median(bright[:: len(bright) // 1000 + 1], axis=0)
    # What is left of a colour when its part along the first one is taken away.
    across = np.eye(3) - np.outer(first, first) / (first @ first)
    rest = cv2.transform(pixels, across)
    other = (np.abs(rest).max(axis=2) > MAX_COLOUR_NOISE).astype(np.uint8)
    if lossy:  # every seam has colours of its own; a second colour has an area
        other = cv2.erode(other, np.ones((3, 3), np.uint8))
    if not other.any():
        return None
    colours, counts = np.unique(pixels[other.view(bool)].astype(int) @ (1, 1 << 8, 1 << 16), return_counts=True)
    if not lossy and counts.max() < MIN_COLOUR_PIXELS:
        return None
    second = int(colours[counts.argmax()])
    pair = (tuple(map(round, first[::-1].tolist())), (second >> 16, second >> 8 & 255, second & 255))
    return (
        f'has more than one colour, such as RGB {pair[0]} and {pair[1]}, so that background and polyp are not told '
        f'apart: {MEND}, polyps white, all else black'
    )


def _bright_fault(pixels: np.ndarray, full: int) -> str | None:
    """What is wrong with a mask that is read as foreground everywhere, if anything: it must not show a shape."""
    channels = pixels.reshape(-1, pixels.shape[2] if pixels.ndim == 3 else 1)
    spread = int((channels.max(axis=0) - channels.min(axis=0)).max())
    if spread <= (MAX_BRIGHT_SPREAD * full / 255 if pixels.max() > 1 else 0):
        return None
    return f'shows a shape on a background that is not black: {MEND}, polyps white, all else black'


def _header_fault(data: np.ndarray, mask: np.ndarray) -> str | None:
    """What is wrong with the palette or the transparency of a file, if it has one."""
    try:
        image = Image.open(io.BytesIO(data))
    except OSError:  # what OpenCV alone reads, such as TIFFs of 16-bit colours, has no palette
        return None
    with image:
        if image.mode == 'P' and (twins := _indices_of_one_colour(image)):
            return (
                f'is a palette picture in which the numbers {twins[0]} and {twins[1]} have one colour, so that they '
                f'look alike: {MEND}, without a palette'
            )
        alpha = _alpha(image)
        if alpha is None:
            return None
        # Of a TIFF, OpenCV reads the colours times alpha: nothing, where that is 0.
        lost = not alpha.any() and not mask.any() and max(high for _, high in image.convert('RGB').getextrema()) > 1
    if not lost and (not np.ptp(alpha) or np.array_equal(alpha > 127, mask)):
        return None
    return (
        'has a transparency (alpha channel) that shows another shape than its colours, and colours alone are read: '
        'save it without transparency, with values 0 and 255'
    )


def _indices_of_one_colour(image: Image.Image) -> tuple[int, int] | None:
    """Two of a palette picture's indices that are in use and look alike."""
    palette = image.getpalette()
    seen: dict[tuple[int, ...], int] = {}
    for _, index in sorted(image.getcolors(), key=lambda found: found[1]):
        colour = tuple(palette[3 * index : 3 * index + 3]) or (0, 0, 0)
        if colour in seen:
            return seen[colour], index
        seen[colour] = index
    return None


def _alpha(image: Image.Image) -> np.ndarray | None:
    """The alpha channel (H, W), as the picture is shown; None where there is none."""
    if image.mode in ('1', 'L', 'P', 'RGB') and 'transparency' in image.info:
        image = image.convert('RGBA')
    if image.getbands()[-1] not in ('A', 'a'):
        return None
    return np.asarray(ImageOps.exif_transpose(image).getchannel(image.getbands()[-1]))


def _register(transform: type[BaseTransform]) -> type[BaseTransform]:
    # An exported model carries a copy of this file, which may be imported beside the package: the package's class
    # keeps its name, since its users ask for it by isinstance.
    if __package__ or transform.__name__ not in TRANSFORMS.module_dict:
        TRANSFORMS.register_module(module=transform, force=True)
    return transform


@_register
class LoadPolypMask(BaseTransform):
    """Load the mask of a polyp as 0 (background) and 1 (polyp); see `read_polyp_mask`.

    Args:
        hidden: Load `hidden_map_path` into `hidden_seg_map` where the sample has one that can be read, instead of
            `seg_map_path` into `gt_seg_map`. No loss takes a hidden map for a label.
        optional: Leave an image without a mask as it is, as for prediction. Hidden masks always are.
    """

    def __init__(self, hidden: bool = False, optional: bool = False) -> None:
        self.path_key = 'hidden_map_path' if hidden else 'seg_map_path'
        self.map_key = 'hidden_seg_map' if hidden else 'gt_seg_map'
        self.optional = optional or hidden
        self.hidden = hidden
        # Decoding costs as much as the image does; as bits, a thousand masks take some 40 MB.
        self._cache: dict[str, tuple[tuple[int, int], np.ndarray] | None] = {}

    def transform(self, results: dict) -> dict:
        path = results.get(self.path_key)
        if path is None:
            # mmseg's own inference puts frames through the test pipeline that belong to no data set.
            if self.optional or 'seg_fields' not in results:
                return results
            raise ValueError(
                f"image '{results.get('img_path')}' has no mask: LoadPolypMask() belongs in the "
                'pipeline of a labelled data set, LoadPolypMask(hidden=True) in an unlabelled one'
            )
        mask = self._read(path)
        if mask is not None:
            results[self.map_key] = mask
            results['seg_fields'].append(self.map_key)
        return results

    def _read(self, path: str) -> np.ndarray | None:
        """The mask of a file, decoded the first time only; None for a hidden one that cannot be read."""
        if path not in self._cache:
            self._cache[path] = self._packed(path)
        if self._cache[path] is None:
            return None
        shape, bits = self._cache[path]
        return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)

    def _packed(self, path: str) -> tuple[tuple[int, int], np.ndarray] | None:
        try:
            mask = read_polyp_mask(path)
        except ValueError as error:
            if not self.hidden:
                raise
            print_log(f'{error}. Its image has no label, so training goes on', 'current', logging.WARNING)
            return None
        return mask.shape, np.packbits(mask)
