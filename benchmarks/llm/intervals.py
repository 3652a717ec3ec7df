"""Intervals over seeds, and how the cards of this folder show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from rlhf_theory.evaluation.statistics import Interval


def t_interval(values: Any, level: float = 0.95) -> Interval:
    """Return the mean over replicas with its Student interval, for values ``(R,)`` or ``(R, ...)``.

    One replica has no interval: its ends are infinite.
    """
    v = np.asarray(values, dtype=float)
    mean, half = v.mean(axis=0), np.inf
    if len(v) > 1:
        quantile = student.ppf(0.5 * (1.0 + level), len(v) - 1)
        half = quantile * v.std(axis=0, ddof=1) / np.sqrt(len(v))
    return Interval(mean, mean - half, mean + half)


def stacked(intervals: Sequence[Interval]) -> Interval:
    """Return intervals of single numbers as one, of arrays."""
    return Interval(
        np.array([i.value for i in intervals]),
        np.array([i.lower for i in intervals]),
        np.array([i.upper for i in intervals]),
    )


def text(found: Interval) -> str:
    """Return the interval of a number in words."""
    return f"{found.value:.3f} [{found.lower:.3f}, {found.upper:.3f}]"
