"""Small stand-ins for what is not installed, so that the paths behind it are tested all the same."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import pytest
import torch.nn.functional as F


def module_or_skip(name: str) -> None:
    """Import what a family needs; mmpretrain with a stand-in for torchvision, mmcv's operators with one of ours."""
    if name == 'mmcv.ops':
        point_head = import_module('mmseg.models.decode_heads.point_head')
        if point_head.point_sample is None:
            point_head.point_sample = point_sample
        return
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # absent, or not built for this torch
        with torchvision_stand_in():
            _import_or_skip(name)
    else:
        _import_or_skip(name)


def _import_or_skip(name: str) -> None:
    try:
        if name.startswith('mmpretrain'):
            # Its models of text, among which is no backbone, do not load beside transformers 5.
            import_module('mmpretrain.utils.dependency').WITH_MULTIMODAL = False
        import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f'{name} needs {error.name}: pip install onedl-mmpretrain')


def point_sample(features, points, align_corners=False, **kwargs):
    """mmcv's operator of this name: values of (B, C, H, W) at points (B, P, 2) in [0, 1]."""
    grid = 2 * points.unsqueeze(2) - 1
    return F.grid_sample(features, grid, align_corners=align_corners, **kwargs).squeeze(3)


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """The names that mmpretrain imports from torchvision; none of them is called when a backbone runs."""

    class InterpolationMode(enum.Enum):
        NEAREST, BILINEAR, BICUBIC, BOX, HAMMING, LANCZOS = range(6)

    names = {
        'torchvision': {},
        'torchvision.transforms': dict(RandomResizedCrop=type('RandomResizedCrop', (), {})),
        'torchvision.transforms.functional': {},
        'torchvision.transforms.transforms': dict(InterpolationMode=InterpolationMode),
        'torchvision.ops': {},
        'torchvision.ops.boxes': {},
    }
    broken = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split('.')[0] == 'torchvision'}
    for name, content in names.items():
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(content)
        parent, _, child = name.rpartition('.')
        if parent:
            setattr(sys.modules[parent], child, module)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(broken)
