"""The way of one image's pseudo-label through ACL-Net, as one picture (the paper's Figure 7)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from mmseg_acl.colours import PREDICTION, TRUTH
from mmseg_acl.models.segmentors.aclnet import Inspection
from mmseg_acl.visualization.pictures import (
    draw_heat,
    draw_labels,
    draw_mark,
    find_inner_point,
)

PANELS = ('Input', 'Ground truth', 'Pseudo-label', 'Refined', 'Student', 'Teacher', 'Aggregated')


def draw_inspection(image: np.ndarray, truth: np.ndarray, seen: Inspection, index: int = 0) -> np.ndarray:
    """The panels of :func:`inspection_panels` side by side, (H, 7 W, 3)."""
    return np.concatenate(inspection_panels(image, truth, seen, index), axis=1)


def inspection_panels(
    image: np.ndarray, truth: np.ndarray, seen: Inspection, index: int = 0, point: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """``PANELS``: frame with a marked pixel, its mask, the teacher's pseudo-label, the refined one,
    and the marked pixel's row of the student's, the teacher's and the aggregated affinity.

    Args:
        image: (H, W, 3) uint8, BGR, the frame before preprocessing.
        truth: (H, W) integers, classes; 0 is background.
        seen: Of the batch that the image is in.
        index: The image's place in the batch.
        point: Row and column of the marked pixel; None takes the foreground's innermost, or the centre where there is
            none.

    Returns:
        Seven pictures (H, W, 3) uint8, BGR.
    """
    if point is None:
        point = find_inner_point(truth > 0) if truth.any() else (truth.shape[0] // 2, truth.shape[1] // 2)
    (height, width), (rows, columns) = truth.shape, seen.grid
    pixel = point[0] * rows // height * columns + point[1] * columns // width

    def heat(affinity: Tensor) -> np.ndarray:
        return draw_mark(draw_heat(image, affinity[index, pixel].reshape(rows, columns).cpu().numpy()), point)

    labels = (prob[index].argmax(0).cpu().numpy() for prob in (seen.prob, seen.refined.prob))
    panels = [draw_mark(image, point), draw_labels(image, truth, TRUTH)]
    panels += [draw_labels(image, label, PREDICTION) for label in labels]
    return panels + [heat(affinity) for affinity in (seen.student.map, seen.teacher.map, seen.aggregated)]
