"""Full precision inside autocast, for the few places where half precision would change a
decision."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def full_precision(forward: Callable) -> Callable:
    """Decorate a module's method so that it runs in at least float32, even under autocast.

    Floating-point tensors narrower than float32 among the positional and keyword arguments, and
    inside named tuples there, are widened; float64 stays. Cosines near 1 and rows of thousands of
    small weights do not fit into the eight significant bits of bfloat16, and next to a backbone the
    work is small.

    Args:
        forward: A method whose first tensor argument decides on the device type.

    Returns:
        The decorated method.
    """

    @wraps(forward)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        args = [_widen(value) for value in args]
        kwargs = {name: _widen(value) for name, value in kwargs.items()}
        with torch.autocast(_device_type(args + list(kwargs.values())), enabled=False):
            return forward(self, *args, **kwargs)

    return wrapped


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor):
        narrow = value.is_floating_point() and value.element_size() < 4
        return value.float() if narrow else value
    if isinstance(value, tuple) and hasattr(value, '_fields'):
        return type(value)(*map(_widen, value))
    return value


def _device_type(values: list) -> str:
    for value in values:
        if isinstance(value, Tensor):
            return value.device.type
        if isinstance(value, tuple) and hasattr(value, '_fields'):
            return _device_type(list(value))
    raise TypeError('full_precision decorates methods that take at least one tensor')
