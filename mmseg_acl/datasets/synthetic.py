"""Synthetic endoscopy frames with polyps, for a demonstration without any patient's image.

A frame is a rendered height field: folds around a dark lumen, bulges that are no polyp, and one or
two polyps, lit from the tip of the scope. Polyps differ from the wall by shape, fine texture and a
slight tint only, so a small network with a dozen labels finds many of them, not all.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

FOLDER = 'Synthetic'


def write_synthetic(
    root: str | Path,
    labelled: int = 16,
    unlabelled: int = 64,
    test: int = 32,
    size: tuple[int, int] = (144, 176),
    seed: int = 0,
) -> None:
    """Write frames and masks to `<root>/Synthetic/{labelled,unlabelled,test}/{images,masks}/`.

    The unlabelled part has masks too, for diagnosis only, as the hidden masks of real sets are.
    A frame depends on the seed, its part and its number alone.

    Args:
        root: Data root; existing frames of the same names are overwritten.
        labelled: Number of labelled frames.
        unlabelled: Number of unlabelled frames.
        test: Number of test frames.
        size: Height and width of the frames, in pixels, at least 32.
        seed: Seed of all frames.

    Raises:
        ValueError: A side is shorter than 32 pixels.
    """
    if min(size) < 32:
        raise ValueError(f'size={tuple(size)} is too small for a frame: both sides must be at least 32')
    parts = {'labelled': labelled, 'unlabelled': unlabelled, 'test': test}
    for index, (part, count) in enumerate(parts.items()):
        folder = Path(root) / FOLDER / part
        for kind in ('images', 'masks'):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, mask = draw_frame(np.random.default_rng([seed, index, number]), size)
            for kind, array in (('images', image), ('masks', mask * 255)):
                # Encoded here and written by Python: cv2.imwrite fails silently.
                encoded = cv2.imencode('.png', array)[1]
                (folder / kind / f'{number:04d}.png').write_bytes(encoded.tobytes())


def draw_frame(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw one frame.

    Args:
        rng: Source of all randomness.
        size: Height and width, in pixels.

    Returns:
        The image, uint8 BGR (H, W, 3), and the mask, uint8 (H, W), 1 on a polyp.
    """
    # Coordinates: the shorter side spans [-1, 1], so all lengths below are independent of the size.
    half = min(size) / 2
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    y, x = (y - size[0] / 2) / half, (x - size[1] / 2) / half

    lumen = rng.uniform(-0.9, 0.9, 2)
    distance = np.hypot(y - lumen[0], x - lumen[1]) + 0.12 * _noise(rng, size, 3)
    height = _folds(rng, size, distance) + 0.025 * _noise(rng, size, 4)
    for _ in range(rng.integers(1, 4)):
        height += _bulge(rng, y, x)

    mask = np.zeros(size, np.float32)
    for _ in range(1 + (rng.random() < 0.25)):
        dome, inside = _polyp(rng, size, y, x, lumen)
        height = np.where(inside > 0.5, height * 0.4, height) + dome
        mask = np.maximum(mask, inside)
    soft = cv2.GaussianBlur(mask, (0, 0), 0.02 * half)

    texture = _noise(rng, size, 24)
    height += texture * (0.003 + 0.006 * soft)
    light, gloss = _shade(height * half, y, x)
    light *= 0.25 + 0.75 * np.clip(distance / 0.8, 0, 1)  # little light comes back from the lumen
    light *= 1.3 - 0.4 * np.hypot(y, x)
    light *= 1 + 0.04 * texture * (1 + soft)

    image = _mucosa(rng, size, soft) * light[..., None]
    image += 255 * np.clip(gloss * rng.uniform(0.4, 1.2), 0, 1)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.0))
    image += rng.normal(0, rng.uniform(2, 5), image.shape)
    window = _scope_window(rng, y, x)
    image *= window[..., None]
    return np.clip(image, 0, 255).astype(np.uint8), ((mask > 0.5) & (window > 0.5)).astype(np.uint8)


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise of about unit deviation, `cells` grains along the shorter side, two octaves."""
    total = np.zeros(size, np.float32)
    for octave, weight in ((1, 0.9), (2, 0.45)):
        step = min(size) / (cells * octave)
        grid = rng.normal(size=[int(np.ceil(side / step)) + 2 for side in size]).astype(np.float32)
        total += weight * cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)
    return 1.5 * total


def _folds(rng: np.random.Generator, size: tuple[int, int], distance: np.ndarray) -> np.ndarray:
    """Ridges in rings around the lumen, closer together in the depth, broken here and there."""
    phase = rng.uniform(7, 11) * np.log(distance.clip(0.1) + 0.3) + rng.uniform(0, 2 * np.pi)
    ridges = np.exp(3 * (np.cos(phase + 0.6 * _noise(rng, size, 3)) - 1))
    broken = np.clip(0.6 + 0.5 * _noise(rng, size, 2), 0, 1)
    return rng.uniform(0.08, 0.2) * ridges * broken


def _bulge(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A soft, long swelling of the wall, which is no polyp."""
    angle = rng.uniform(0, np.pi)
    centre = rng.uniform(-0.9, 0.9, 2)
    along = np.cos(angle) * (x - centre[1]) + np.sin(angle) * (y - centre[0])
    across = -np.sin(angle) * (x - centre[1]) + np.cos(angle) * (y - centre[0])
    length, width = rng.uniform(0.4, 0.8), rng.uniform(0.12, 0.25)
    return rng.uniform(0.05, 0.16) * np.exp(-((along / length) ** 2) - (across / width) ** 2)


def _polyp(
    rng: np.random.Generator,
    size: tuple[int, int],
    y: np.ndarray,
    x: np.ndarray,
    lumen: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """A dome on a smooth, star-shaped outline: its height and its area (0 or 1)."""
    radius = np.exp(rng.uniform(np.log(0.18), np.log(0.5)))
    centre = rng.uniform(-0.65, 0.65, 2)
    while np.hypot(*(centre - lumen)) < radius + 0.15:  # it sits on the wall, not in the hole
        centre = rng.uniform(-0.8, 0.8, 2)
    dy, dx = y - centre[0], x - centre[1]
    angle = np.arctan2(dy, dx)
    outline = 1 + sum(
        rng.normal(0, 0.22 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) for order in (2, 3, 4)
    )
    stretch, turn = rng.uniform(1, 1.5), rng.uniform(0, np.pi)
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    r = np.hypot(along / stretch, across * stretch) / (radius * outline.clip(0.5))
    flatness = rng.uniform(0.35, 0.9)
    lobes = 1 + 0.12 * _noise(rng, size, 8)
    dome = rng.uniform(0.25, 0.8) * radius * np.clip(1 - r**2, 0, None) ** flatness * lobes
    return dome.astype(np.float32), (r < 1).astype(np.float32)


def _shade(height: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light and gloss of a height field (in pixels) under a lamp in front of the image's centre."""
    smooth = cv2.GaussianBlur(height.astype(np.float32), (0, 0), 1)
    slope_y, slope_x = np.gradient(smooth)
    normal = np.stack([-slope_y, -slope_x, np.ones_like(slope_y)])
    normal /= np.linalg.norm(normal, axis=0)
    lamp = np.stack([-y, -x, np.full_like(y, 1.3)])
    lamp /= np.linalg.norm(lamp, axis=0)
    facing = np.clip((normal * lamp).sum(axis=0), 0, 1)
    # The camera sits at the lamp, so what mirrors the light faces it.
    return 0.25 + 0.85 * facing, facing**250


def _mucosa(rng: np.random.Generator, size: tuple[int, int], polyp: np.ndarray) -> np.ndarray:
    """Colour of the tissue (BGR, 0 to 255): pink with patches and vessels, polyps a little off."""
    base = np.array([rng.uniform(95, 135), rng.uniform(105, 140), rng.uniform(195, 235)])
    redness = 0.04 * _noise(rng, size, 3) + 0.02 * _noise(rng, size, 12)
    tint = rng.normal(0.04, 0.07)
    redness = redness + tint * polyp
    # Vessels run where a noise crosses zero; they do not show through a polyp.
    vessels = np.exp(-((_noise(rng, size, 5) / 0.06) ** 2)) * np.clip(_noise(rng, size, 3), 0, 1)
    redness = redness + 0.18 * vessels * (1 - polyp)
    return base * (1 + redness[..., None] * np.array([-1.2, -1.4, 0.25]))


def _scope_window(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1 inside the scope's field of view, 0 in its black corners, with a short soft edge."""
    to_side_y, to_side_x = -y.min() - np.abs(y), -x.min() - np.abs(x)
    to_corner = to_side_y + to_side_x - rng.uniform(0.12, 0.4)
    inside = np.minimum(to_corner, np.minimum(to_side_y, to_side_x) - 0.015)
    return np.clip(inside / 0.02, 0, 1)
