"""Models and parts of models, whether or not they are wrapped for distributed training."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a DDP wrapper, or itself."""
    return model.module if is_model_wrapper(model) else model
