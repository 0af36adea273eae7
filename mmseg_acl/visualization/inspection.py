"""The way of one image's pseudo-label through ACL-Net, as one picture (the paper's Figure 7)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from mmseg_acl.models.segmentors.aclnet import Inspection
from mmseg_acl.visualization.pictures import (
    GREEN,
    YELLOW,
    draw_heat,
    draw_mark,
    draw_mask,
    find_inner_point,
)

PANELS = ('Input', 'Ground truth', 'Pseudo-label', 'Refined', 'Student', 'Teacher', 'Aggregated')


def draw_inspection(image: np.ndarray, mask: np.ndarray, seen: Inspection, index: int = 0) -> np.ndarray:
    """The panels of :func:`inspection_panels` side by side, (H, 7 W, 3)."""
    return np.concatenate(inspection_panels(image, mask, seen, index), axis=1)


def inspection_panels(
    image: np.ndarray, mask: np.ndarray, seen: Inspection, index: int = 0, point: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """``PANELS``: frame with a marked pixel, its mask, the teacher's pseudo-label, the refined one,
    and the marked pixel's row of the student's, the teacher's and the aggregated affinity.

    Args:
        image: (H, W, 3) uint8, BGR, the frame before preprocessing.
        mask: (H, W) bool, the polyp.
        seen: Of the batch that the image is in.
        index: The image's place in the batch.
        point: Row and column of the marked pixel; None takes the mask's innermost, or the centre where it is empty.

    Returns:
        Seven pictures (H, W, 3) uint8, BGR.
    """
    if point is None:
        point = find_inner_point(mask) if mask.any() else (mask.shape[0] // 2, mask.shape[1] // 2)
    (height, width), (rows, columns) = mask.shape, seen.grid
    pixel = point[0] * rows // height * columns + point[1] * columns // width

    def heat(affinity: Tensor) -> np.ndarray:
        return draw_mark(draw_heat(image, affinity[index, pixel].reshape(rows, columns).cpu().numpy()), point)

    labels = (seen.prob[index, 1] > 0.5, seen.refined.prob[index, 1] > 0.5)
    panels = [draw_mark(image, point), draw_mask(image, mask, GREEN)]
    panels += [draw_mask(image, label.cpu().numpy(), YELLOW) for label in labels]
    return panels + [heat(affinity) for affinity in (seen.student.map, seen.teacher.map, seen.aggregated)]
