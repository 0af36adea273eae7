"""What can be told of an image file without decoding it: whether it is whole, how large, how turned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from PIL import Image

# A JPEG's end may be followed by what a camera adds; a file cut short lacks it.
TAIL = 1 << 16
ORIENTATION = 274
TIFF_OFFSETS_AND_COUNTS = ((273, 279), (324, 325))
FORMATS = ('JPEG', 'MPO', 'PNG', 'TIFF', 'BMP', 'WEBP')
MODES = ('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr', 'I;16', 'I;16B', 'I;16L', 'I;16N')


class ImageFile(NamedTuple):
    """An image file's header.

    Attributes:
        width: As the image is shown.
        height: Likewise.
        orientation: EXIF's, 1 to 8; 1 is upright. Images and masks are read as they are shown.
        stored: Width and height as the file stores them.
    """

    width: int
    height: int
    orientation: int
    stored: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as the image is shown."""
        return self.width, self.height


def inspect_image(path: Path) -> ImageFile:
    """Read an image's header and look at its end; some tenths of a millisecond.

    Raises:
        ValueError: The file is empty, is no image, is cut short, or is of a kind that cannot be read right: floats
            and 32-bit numbers, Lab colours, several pages.
    """
    length = path.stat().st_size
    if length == 0:
        raise ValueError(f'{path}: the file is empty (0 bytes)')
    try:
        with Image.open(path) as image:
            stored, kind, mode = image.size, image.format, image.mode
            orientation = _orientation(image)
            pages = getattr(image, 'n_frames', 1) if kind == 'TIFF' else 1
            end = _end_of_tiff(image) if kind == 'TIFF' else 0
    # PIL's UnidentifiedImageError is an OSError; broken headers raise the others.
    except (OSError, SyntaxError, ValueError, KeyError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path}: not a readable image ({error})') from error
    if kind not in FORMATS:
        raise ValueError(f'{path}: a {kind} file, which is not read: save it as PNG or JPEG')
    # Older Pillow calls 16-bit PNGs "I".
    if mode not in MODES and not (mode == 'I' and kind == 'PNG'):
        raise ValueError(f'{path}: pixels of mode {mode!r} are not read: save it with 8 or 16 bits, grey or RGB')
    if pages > 1:
        raise ValueError(f'{path}: has {pages} pages, of which only the first would be read: save one file a page')
    if (
        end > length
        or kind in ('JPEG', 'MPO', 'PNG', 'BMP')
        and _lacks_end(path, kind, length)
        and not _decodes(path)
    ):
        raise ValueError(f'{path}: cut short after {length} bytes: copy or download the file again')
    turned = orientation > 4 and kind != 'TIFF'  # of TIFFs, Pillow gives the size as shown
    width, height = stored[::-1] if turned else stored
    return ImageFile(width, height, orientation, stored)


def _orientation(image: Image.Image) -> int:
    # Pillow would decode a whole PNG to look for a late EXIF block.
    if image.format == 'PNG' and 'exif' not in image.info:
        return 1
    value = image.getexif().get(ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _end_of_tiff(image: Image.Image) -> int:
    """Where the last strip or tile ends."""
    for offsets, counts in TIFF_OFFSETS_AND_COUNTS:
        if offsets in image.tag_v2 and counts in image.tag_v2:
            starts, sizes = image.tag_v2[offsets], image.tag_v2[counts]
            return max(start + size for start, size in zip(starts, sizes, strict=True))
    return 0


def _lacks_end(path: Path, kind: str, length: int) -> bool:
    if kind not in ('JPEG', 'MPO', 'PNG', 'BMP'):
        return False
    with open(path, 'rb') as file:
        if kind == 'BMP':
            return int.from_bytes(file.read(6)[2:], 'little') > length
        file.seek(-min(length, TAIL), os.SEEK_END)
        tail = file.read()
    if kind == 'PNG':
        return b'IEND' not in tail
    # The end of image, after the last start of scan: neither marker can occur within a scan.
    return tail.rfind(b'\xff\xd9') <= tail.rfind(b'\xff\xda')


def _decodes(path: Path) -> bool:
    """The sure test, for the few files with much behind their end."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True
