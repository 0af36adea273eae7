"""Running statistics of normalisation layers in distributed training."""

from __future__ import annotations

from mmengine.dist import all_reduce_params, get_world_size
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def average_statistics(model: nn.Module) -> None:
    """Average the running statistics of the layers that are in training mode over all processes, in one message.

    Gradients are averaged, but every process has its own images, and so its own means and variances: without this
    each would predict by another network, and hand another one on to its teacher. Layers in ``eval`` mode are
    left out: frozen ones, which are equal anyway, and the teachers'.
    """
    if get_world_size() == 1:
        return
    layers = [module for module in model.modules() if isinstance(module, _NormBase) and module.training]
    buffers = [buffer for layer in layers for buffer in layer.buffers() if buffer.is_floating_point()]
    all_reduce_params(buffers, op='mean')
