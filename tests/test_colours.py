"""The colour code is told apart by readers of any colour vision."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from mmseg_acl.colours import BLACK, CLASSES, HEAT, OVERLAP, PREDICTION, TRUTH, bgr, class_colour, palette, rgb

# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (IEEE
# TVCG 2009), severity 1.0, for linear sRGB.
VISIONS = dict(
    normal=np.eye(3),
    red_blind=[[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    green_blind=[[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    blue_blind=[[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
)
# sRGB (IEC 61966-2-1) to XYZ, and its white.
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
WHITE = (0.95047, 1.0, 1.08883)
APART = 20


def as_seen(colour: str, vision: str) -> np.ndarray:
    """CIE L*a*b* of a colour."""
    level = np.array(rgb(colour)) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    xyz = np.array(TO_XYZ) @ np.clip(np.array(VISIONS[vision]) @ linear, 0, 1) / WHITE
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(first: np.ndarray, second: np.ndarray) -> float:
    """Difference of two colours in L*a*b* (Sharma, Wu and Dalal 2005)."""
    (light1, a1, b1), (light2, a2, b2) = first, second
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25**7))
    chroma1, chroma2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    hue1, hue2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = chroma1 * chroma2 == 0
    turn = 0 if grey else (hue2 - hue1 + 180) % 360 - 180
    hue = hue1 + hue2 if grey else hue1 + turn / 2
    light, chroma = (light1 + light2) / 2, (chroma1 + chroma2) / 2
    cosines = ((0.17, 1, -30), (-0.24, 2, 0), (-0.32, 3, 6), (0.2, 4, -63))
    t = 1 - sum(weight * np.cos(np.radians(times * hue + shift)) for weight, times, shift in cosines)
    bright = (light2 - light1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    full = (chroma2 - chroma1) / (1 + 0.045 * chroma)
    round_ = 2 * np.sqrt(chroma1 * chroma2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    angle = 60 * np.exp(-((((hue % 360) - 275) / 25) ** 2))
    mixed = -2 * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * np.sin(np.radians(angle))
    return float(np.sqrt(bright**2 + full**2 + round_**2 + mixed * full * round_))


@pytest.mark.parametrize(
    ('first', 'second', 'difference'),
    [  # pairs 1, 7, 17, 20 and 33 of the authors' test data
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (58, 24, 15), 19.4535),
        ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ],
)
def test_the_difference_is_that_of_its_authors(first, second, difference):
    assert ciede2000(first, second) == pytest.approx(difference, abs=1e-4)


@pytest.mark.parametrize('vision', VISIONS)
@pytest.mark.parametrize('colours', [(TRUTH, PREDICTION, OVERLAP), (BLACK, TRUTH, *CLASSES)])
def test_every_pair_is_told_apart(colours, vision):
    seen = {colour: as_seen(colour, vision) for colour in colours}
    close = {pair: ciede2000(*(seen[colour] for colour in pair)) for pair in combinations(colours, 2)}
    assert all(difference >= APART for difference in close.values()), close


def test_a_red_and_a_green_would_not_pass():
    """Of one lightness, they look alike without green cones."""
    red, green = (as_seen(colour, 'green_blind') for colour in ('#CC3300', '#669900'))
    assert ciede2000(red, green) < APART


def test_forms_of_a_colour():
    assert rgb('#56B4E9') == (0x56, 0xB4, 0xE9) and bgr('#56B4E9') == (0xE9, 0xB4, 0x56)
    assert palette(3) == [[0, 0, 0], list(rgb(PREDICTION)), list(rgb(CLASSES[1]))]
    assert class_colour(1) == PREDICTION == class_colour(len(CLASSES) + 1)


@pytest.mark.parametrize('vision', VISIONS)
def test_a_heat_map_gets_lighter_from_its_minimum_to_its_maximum(vision):
    """One that does not, such as JET, shows borders where there are none."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)[None]
    colours = cv2.applyColorMap(levels, HEAT)[0]
    seen = [as_seen('#' + bytes(colour[::-1].tolist()).hex(), vision) for colour in colours]
    lightness = [light for light, _, _ in seen]
    assert (np.diff(lightness) > 0).all() and lightness[-1] - lightness[0] > 60
    # Equal steps of the value look about alike.
    steps = [ciede2000(first, second) for first, second in zip(seen, seen[1:], strict=False)]
    assert max(steps) < 3 * min(steps)
