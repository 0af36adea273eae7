"""What a trained model sees in one image: its prediction, and the affinity of a pixel."""

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import nn

from mmseg_acl.evaluation.polyp_metric import foreground_probability


@torch.no_grad()
def predict_probability(model: nn.Module, sample: dict) -> np.ndarray:
    """Foreground probability of one image at its original size.

    Args:
        model: A segmentor in eval mode.
        sample: What a data set with a test pipeline gives: ``inputs`` and ``data_samples``.

    Returns:
        (H, W) float64 in [0, 1].
    """
    output = model.test_step(pseudo_collate([sample]))[0]
    return foreground_probability(output.to_dict(), output.img_path)


@torch.no_grad()
def map_affinity(model: nn.Module, sample: dict, point: tuple[float, float]) -> np.ndarray:
    """Affinity of one pixel with all others, by the teacher of an ACL-Net (Eq. 1).

    Args:
        model: An ``ACLNet`` in eval mode.
        sample: What a data set with a test pipeline gives.
        point: Row and column as shares of height and width, in [0, 1).

    Returns:
        (h, w) float32 in (0, 1), at the stride of the features.
    """
    images = model.data_preprocessor(pseudo_collate([sample]), False)['inputs']
    valid = torch.ones_like(images[:, 0], dtype=torch.bool)
    seen = model.inspect(images, valid)
    height, width = seen.grid
    row, column = int(point[0] * height), int(point[1] * width)
    return seen.teacher[0, row * width + column].reshape(height, width).float().cpu().numpy()
