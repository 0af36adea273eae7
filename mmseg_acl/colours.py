"""The colour code of all pictures, safe for readers of any colour vision.

Okabe and Ito's colours (Color Universal Design, 2008), and others for more classes. Truth and all classes
are at least 20 apart (CIEDE2000) from one another and from black, and so are truth, prediction and overlap, also for
simulated red, green and blue blindness: tests/test_colours.py.
"""

from __future__ import annotations

import cv2

SKY_BLUE, YELLOW, BLUE, VERMILLION, ORANGE = '#56B4E9', '#F0E442', '#0072B2', '#D55E00', '#E69F00'
GREEN, PURPLE, BLACK, LIGHT_GREY = '#009E73', '#CC79A7', '#000000', '#999999'
ROYAL_BLUE, GREY, NAVY, BROWN = '#3060D8', '#666666', '#000099', '#663300'

# A mask that was given, one that was predicted, and where they agree.
TRUTH, PREDICTION, OVERLAP = YELLOW, SKY_BLUE, VERMILLION
LEGEND = 'The mask is yellow, the prediction light blue'
# Of the foreground's classes, the first of them where it is predicted; more begin anew.
CLASSES = (PREDICTION, VERMILLION, ROYAL_BLUE, GREY, NAVY, BROWN)
# Of heat maps, from low to high: dark blue over grey to yellow, in steps that all readers see alike (PLOS ONE, 2018).
HEAT = cv2.COLORMAP_CIVIDIS


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour such as ``'#56B4E9'``, 0 to 255."""
    return tuple(bytes.fromhex(colour.removeprefix('#')))


def bgr(colour: str) -> tuple[int, int, int]:
    """As :func:`rgb`, in OpenCV's order."""
    return rgb(colour)[::-1]


def class_colour(label: int) -> str:
    """The colour of a class; 0 is the background."""
    return CLASSES[(label - 1) % len(CLASSES)] if label else BLACK


def palette(classes: int) -> list[list[int]]:
    """Red, green and blue of each class, the background first, as mmseg takes them."""
    return [list(rgb(class_colour(label))) for label in range(classes)]
