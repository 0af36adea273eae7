"""The EMA teacher (Tarvainen & Valpola 2017): its decay, its update, its freezing."""

from __future__ import annotations

import torch
from torch import nn


def freeze(module: nn.Module) -> nn.Module:
    """Take ``module`` out of training: no gradients, ``eval`` mode. Returns it."""
    return module.requires_grad_(False).eval()


def ema_decay(step: int, momentum: float) -> float:
    """Decay of the teacher's average at update number ``step``, counted from its start iteration.

    ``min(1 - 1 / (step + 1), momentum)``: 0 (a hard copy of the student) up to and at the start, then a
    plain mean of the students so far, until ``momentum`` is reached.
    """
    return min(1 - 1 / (max(step, 0) + 1), momentum)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """``teacher <- decay * teacher + (1 - decay) * student``, in place.

    Floating-point buffers (BatchNorm's running statistics) are averaged like parameters: they belong to
    the averaged weights, not to the last student. Integer buffers are copied. ``decay=0`` is a hard copy.

    Raises:
        ValueError: The two modules do not have the same state.
    """
    ours, theirs = teacher.state_dict(), student.state_dict()
    if ours.keys() != theirs.keys():
        differing = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(f'teacher and student differ in {len(differing)} entries, first {differing[0]!r}')
    averaged = [name for name, value in ours.items() if value.is_floating_point()]
    torch._foreach_lerp_([ours[n] for n in averaged], [theirs[n] for n in averaged], 1 - decay)
    for name, value in ours.items():
        if not value.is_floating_point():
            value.copy_(theirs[name])
