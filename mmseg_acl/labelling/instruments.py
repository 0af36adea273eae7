"""Instruments drawn into labelled frames: a third class, to try several classes on where no such masks are at hand.

A drawn instrument is a shaft that comes in from the border, lit like a cylinder, with two jaws at its tip. That is
enough for a class with a look and a shape of its own, which hides what is behind it. It is no model of real ones.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np

from mmseg_acl.datasets.polyp_masks import read_polyp_mask
from mmseg_acl.engine.atomic import write_atomically
from mmseg_acl.inference.writing import mask_png
from mmseg_acl.labelling.copies import LabelledCopies
from mmseg_acl.visualization.pictures import read_image

CLASSES = ('background', 'polyp', 'instrument')
INSTRUMENT = 2
SHARE = 0.5
# Of the frame's shorter side: widths of shafts. Of the way from the border to the middle: where tips are.
WIDTHS, REACH = (0.06, 0.14), (0.5, 1.2)
# In widths: how long the jaws are, and how far they are open at their ends.
JAWS, OPEN = 1.6, 0.9
# Steel, white plastic, and the yellow of catheters, as blue, green and red.
COLOURS = ((200, 200, 195), (235, 235, 235), (90, 190, 225))
NOISE = 4.0


def draw_instruments(
    folder: str | Path,
    out: str | Path,
    names: str = '',
    share: float = SHARE,
    seed: int = 0,
    first: int | None = None,
) -> list[str]:
    """Copy labelled frames, with an instrument drawn into some, and masks of the numbers of ``CLASSES``.

    Args:
        folder: Labelled folder of polyps, with ``images/`` and ``masks/``.
        out: A folder that does not exist yet, or is empty: ``images/`` and ``masks/``.
        names: List of the frames; by default all of the folder.
        share: Of the frames with an instrument, in [0, 1].
        seed: Of what is random.
        first: Of the frames only the first so many.

    Returns:
        Names of the frames with an instrument, in the folder's order.

    Raises:
        FileExistsError: ``out`` holds something.
        FileNotFoundError, ValueError: The folder is none of labelled frames, or ``share`` is out of range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f'share is {share}; it must lie in 0 to 1')
    copies = LabelledCopies(folder, out, names, first)
    random = np.random.default_rng(seed)
    drawn = set(random.permutation(list(copies.frames))[: round(share * len(copies.frames))].tolist())
    for name, (image, mask) in copies.frames.items():
        classes = read_polyp_mask(str(mask))
        if name in drawn:
            pixels, classes = draw_instrument(read_image(str(image)), classes, random)
            write_atomically(cv2.imencode('.png', pixels)[1].tobytes(), copies.image(name, '.png'))
        else:
            shutil.copyfile(image, copies.image(name))
        write_atomically(mask_png(classes, len(CLASSES)), copies.mask(name))
    return [name for name in copies.frames if name in drawn]


def draw_instrument(
    image: np.ndarray, classes: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one instrument.

    Args:
        image: (H, W, 3) uint8, BGR.
        classes: (H, W) uint8.
        random: Where it comes from, how far it reaches, how wide, bright and of which colour it is.

    Returns:
        Copies of both. At least half of each pixel of the class ``INSTRUMENT`` is covered.
    """
    height, width = classes.shape
    middle, angle = np.array([width, height]) / 2, random.uniform(0, 2 * np.pi)
    inward = -np.array([np.cos(angle), np.sin(angle)])
    # Where a ray from the middle leaves the frame, and the tip on the way back, a little to the side.
    border = middle - inward * (middle / np.maximum(np.abs(inward), 1e-9)).min()
    half = random.uniform(*WIDTHS) * min(height, width) / 2
    tip = border + random.uniform(*REACH) * (middle - border) + random.normal(0, half, 2)
    axis = (tip - border) / np.linalg.norm(tip - border)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    along = (x - tip[0]) * axis[0] + (y - tip[1]) * axis[1]
    across = (x - tip[0]) * -axis[1] + (y - tip[1]) * axis[0]
    # Beyond the tip two jaws move apart while each gets narrower.
    ahead = (along / (2 * half * JAWS)).clip(0, 1)
    off = np.where(along <= 0, across, np.abs(across) - half * (0.5 + OPEN * ahead))
    reach = np.where(along <= 0, half, half * 0.5 * (1 - 0.6 * ahead))
    cover = (reach - np.abs(off) + 0.5).clip(0, 1) * (2 * half * JAWS - along + 0.5).clip(0, 1)
    # A cylinder under a lamp: bright along a line beside its axis, dark at its edges.
    round_ = np.sqrt(1 - (off / reach).clip(-1, 1) ** 2)
    light = 0.35 + 0.65 * round_ + 0.5 * np.exp(-(((off / reach - 0.3) / 0.15) ** 2))
    colour = np.array(COLOURS[random.integers(len(COLOURS))]) * random.uniform(0.7, 1.1)
    shown = light[..., None] * colour + random.normal(0, NOISE, (height, width, 1))
    mixed = cover[..., None] * shown + (1 - cover[..., None]) * image
    return (
        np.rint(mixed).clip(0, 255).astype(np.uint8),
        np.where(cover >= 0.5, np.uint8(INSTRUMENT), classes),
    )
