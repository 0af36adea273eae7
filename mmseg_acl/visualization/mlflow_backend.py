"""Pictures of a run for MLflow, under names that it takes."""

from __future__ import annotations

import numpy as np
from mmengine.visualization import MLflowVisBackend
from mmengine.visualization.vis_backend import force_init_env
from mmseg.registry import VISBACKENDS


@VISBACKENDS.register_module()
class MLflowPictureBackend(MLflowVisBackend):
    """mmengine's writer for MLflow, which gives pictures no suffix, so that MLflow refuses them."""

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: object) -> None:
        """Keep a picture as `NAME_STEP.png` among the artifacts of the run.

        Args:
            name: Of the picture.
            image: (H, W, 3) uint8, RGB.
            step: The iteration.
        """
        self._mlflow.log_image(image, f'{name}_{step}.png')
