"""The affinity of marked pixels in a trained ACL-Net (Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate

from mmseg_acl.models import ACLNet
from mmseg_acl.visualization.inspection import PANELS, inspection_panels
from mmseg_acl.visualization.predictions import (
    TrainedRun,
    choose_images,
    list_images,
    open_run,
    open_sets,
    read_truth,
)
from mmseg_acl.visualization.style import paper_style, picture_grid


@torch.no_grad()
def draw_affinities(
    run: TrainedRun,
    datasets: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    first: int = 4,
    at: tuple[int, int] | None = None,
) -> Figure:
    """Rows of images: frame with a marked pixel, mask, pseudo-label before and after refinement, and the pixel's
    affinity in student, teacher and after aggregation, at the network's input size.

    Args:
        run: Of an `ACLNet`.
        datasets: Test sets; None takes the config's own.
        images: Names, see :func:`choose_images`; None takes the first of each set.
        first: How many of each set.
        at: Row and column of the marked pixel in the original images; None takes the polyp's innermost.

    Raises:
        TypeError: The model is no `ACLNet`.
        FileNotFoundError, ValueError: Something is missing or does not fit, or the pixel is outside an image.
    """
    config, model = open_run(run)
    if not isinstance(model, ACLNet):
        raise TypeError(f'only ACLNet has affinities; {run.config} builds {type(model).__name__}')
    sets = open_sets(config, datasets)
    known = list_images(sets)
    keys = choose_images(list(known), images, first)
    rows = []
    for key in keys:
        sample = sets[key[0]][known[key]]
        frame = np.ascontiguousarray(sample['inputs'].permute(1, 2, 0).numpy())
        mask = read_truth(sample)
        (height, width), (rows_in, columns_in) = frame.shape[:2], mask.shape
        point = None
        if at is not None:
            if not (0 <= at[0] < rows_in and 0 <= at[1] < columns_in):
                raise ValueError(f'--at {at[0]} {at[1]} is outside {"/".join(key)}, {rows_in} x {columns_in}')
            point = at[0] * height // rows_in, at[1] * width // columns_in
        inputs = model.data_preprocessor(pseudo_collate([sample]), False)['inputs']
        # The preprocessor may have padded below and on the right.
        valid = torch.zeros(inputs.shape[2:], dtype=torch.bool, device=inputs.device)
        valid[:height, :width] = True
        padding = (0, valid.shape[0] - height, 0, valid.shape[1] - width)
        mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        frame, mask = (cv2.copyMakeBorder(x, *padding, cv2.BORDER_CONSTANT, value=0) for x in (frame, mask))
        panels = inspection_panels(frame, mask, model.inspect(inputs, valid[None]), point=point)
        rows.append([panel[:height, :width] for panel in panels])
    notes = [[key[1], *[''] * (len(PANELS) - 1)] for key in keys]
    with paper_style():
        return picture_grid(rows, PANELS, notes)
