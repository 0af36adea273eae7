"""Ramps of a loss weight over the first iterations, from 0 to 1."""

from __future__ import annotations

import math


def sigmoid_rampup(step: float, length: float) -> float:
    """``exp(-5 (1 - t)^2)`` with ``t = step / length`` clipped to [0, 1] (Tarvainen & Valpola 2017)."""
    return math.exp(-5 * (1 - _progress(step, length)) ** 2)


def cosine_rampup(step: float, length: float) -> float:
    """``(1 - cos(pi t)) / 2`` with ``t = step / length`` clipped to [0, 1] (as PSMT uses it, Liu et al. 2022)."""
    return (1 - math.cos(math.pi * _progress(step, length))) / 2


def _progress(step: float, length: float) -> float:
    return 1.0 if length <= 0 else min(max(step / length, 0.0), 1.0)
