"""Ramps of a loss weight over the first iterations, from 0 to 1."""

from __future__ import annotations

import math


def sigmoid_rampup(step: float, length: float) -> float:
    """``exp(-5 (1 - t)^2)`` with ``t = step / length`` clipped to [0, 1] (Tarvainen & Valpola 2017)."""
    t = 1.0 if length <= 0 else min(max(step / length, 0.0), 1.0)
    return math.exp(-5 * (1 - t) ** 2)
