"""Maps of the foreground's probability as image files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_map(probability: np.ndarray, path: Path) -> None:
    """Write a map as 8-bit grey png, 255 for a probability of 1.

    Args:
        probability: (H, W) in [0, 1].
        path: File, whose folder is made if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Encoded here and written by Python: cv2.imwrite fails silently.
    encoded = cv2.imencode('.png', np.rint(255 * probability).astype(np.uint8))[1]
    path.write_bytes(encoded.tobytes())


def read_map(path: Path) -> np.ndarray:
    """Read a map as it lies in a file.

    Args:
        path: Grey image of 8 or 16 bits; three equal channels count as one, a constant transparency as none.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        ValueError: The file is empty, no image, a coloured one, or of another depth.
    """
    data = np.fromfile(path, np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if values is None:
        raise ValueError(f'{path}: the file is {"no readable image" if data.size else "empty"}')
    if values.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'{path}: pixels of type {values.dtype}; save the map as grey png of 8 or 16 bits')
    if values.ndim == 3:
        colours, alpha = values[..., :3], values[..., 3:]
        if (colours != colours[..., :1]).any() or (alpha.size and np.ptp(alpha)):
            raise ValueError(
                f'{path}: a coloured or partly transparent picture, not a map; save the probability of the '
                'foreground as grey png of 8 or 16 bits'
            )
        values = colours[..., 0]
    return values
