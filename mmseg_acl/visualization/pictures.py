"""Small pictures: masks and heat maps over a frame, and their form for a web page."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mmseg_acl.colours import HEAT, bgr, class_colour

# An outline is a pixel wide for so many pixels of the longer side, and at least one.
OUTLINE = 300


def read_image(path: str) -> np.ndarray:
    """A frame as (H, W, 3) uint8, BGR.

    Raises:
        ValueError: If the file is no image.
    """
    image = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"'{path}' is no image that OpenCV reads")
    return image


def draw_mask(image: np.ndarray, mask: np.ndarray, colour: str) -> np.ndarray:
    """The frame with a mask as a tint and an outline.

    Args:
        image: (H, W, 3) uint8, BGR.
        mask: (H, W) bool.
        colour: Of :mod:`mmseg_acl.colours`.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    drawn, color = image.copy(), bgr(colour)
    drawn[mask] = (0.7 * drawn[mask] + 0.3 * np.array(color)).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(drawn, contours, -1, color, max(1, round(max(mask.shape) / OUTLINE)))


def draw_labels(image: np.ndarray, labels: np.ndarray, colour: str) -> np.ndarray:
    """The frame with every foreground class as a tint and an outline.

    Args:
        image: (H, W, 3) uint8, BGR.
        labels: (H, W) integers; 0 is background.
        colour: Of class 1, which says whether it is the truth or a prediction; further classes have their own.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    for label in np.unique(labels[labels > 0]):
        image = draw_mask(image, labels == label, colour if label == 1 else class_colour(int(label)))
    return image


def draw_heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The frame, in grey, under a heat map that is stretched to its own minimum (blue) and maximum (yellow).

    Args:
        image: (H, W, 3) uint8, BGR.
        values: (h, w) floats of any range, resized to the frame.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    values = values - values.min()
    levels = (255 * values / max(float(values.max()), 1e-12)).astype(np.uint8)
    levels = cv2.resize(levels, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    # The colours of the frame would be taken for values of the map.
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(grey, 0.4, cv2.applyColorMap(levels, HEAT), 0.6, 0)


def draw_mark(image: np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """The frame with a cross at a pixel, given as (row, column)."""
    position = (int(point[1]), int(point[0]))
    drawn = cv2.drawMarker(image.copy(), position, (0, 0, 0), cv2.MARKER_CROSS, 13, 3)
    return cv2.drawMarker(drawn, position, (255, 255, 255), cv2.MARKER_CROSS, 11, 1)


def find_inner_point(mask: np.ndarray) -> tuple[int, int]:
    """(row, column) of the pixel of a mask that lies farthest from its border."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), mask.shape)
    return int(row), int(column)


def to_data_uri(image: np.ndarray) -> str:
    """A picture (H, W, 3), uint8, BGR, as the address of an <img> that needs no file."""
    return png_uri(cv2.imencode('.png', image)[1].tobytes())


def to_small_uri(image: np.ndarray, side: int = 320) -> str:
    """A picture (H, W, 3), uint8, BGR, made no larger than ``side``, as the address of an <img>; a JPEG."""
    scale = side / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return 'data:image/jpeg;base64,' + base64.b64encode(jpeg).decode()


def choose_quantiles(scores: Sequence[float], count: int) -> list[int]:
    """Indices of ``count`` images spread evenly from the worst score to the best."""
    order = np.argsort(scores, kind='stable')
    steps = np.linspace(0, len(order) - 1, min(count, len(order)))
    return [int(order[math.floor(step + 0.5)]) for step in steps]


def png_uri(png: bytes) -> str:
    """The bytes of a PNG file as the address of an <img> that needs no file."""
    return 'data:image/png;base64,' + base64.b64encode(png).decode()
