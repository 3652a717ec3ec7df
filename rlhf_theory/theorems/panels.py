"""What several cards draw into their panels: intervals, laws as dotted lines, remarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from rlhf_theory.evaluation.statistics import Interval
from rlhf_theory.plots import curves
from rlhf_theory.plots.style import SeriesStyle


def interval_curve(
    panel: Axes, at: ArrayLike, found: Interval, label: str, look: SeriesStyle
) -> None:
    """Draw a curve with its interval as a band, both of shape ``(n,)``."""
    curves.curve(panel, at, found.value, found.lower, found.upper, label, look.color, look.line)


def interval_points(
    panel: Axes, at: ArrayLike, found: Interval, label: str, look: SeriesStyle
) -> None:
    """Draw points with their intervals as bars, both of shape ``(n,)``."""
    ends = found.lower, found.upper
    curves.points(panel, at, found.value, *ends, label, look.color, marker=look.marker)


def dotted(
    panel: Axes, x: ArrayLike, y: ArrayLike, color: str, label: str = "", width: float | None = None
) -> None:
    """Draw a law or a prediction: a dotted curve, as wide as others unless ``width`` is given."""
    curves.curve(panel, x, y, label=label, color=color, style=(0, (1, 1.5)), width=width)


def remark(
    panel: Axes, words: str, at: tuple[float, float], shift: tuple[float, float], color: str
) -> None:
    """Write ``words`` that end ``shift`` points right of and above a place in the panel."""
    panel.annotate(
        words, at, shift, textcoords="offset points", ha="right", color=color, fontsize=7.0
    )


def stacked(found: Sequence[Interval]) -> Interval:
    """Return several intervals of one number each as one of arrays, shape ``(n,)``."""
    return Interval(
        np.array([f.value for f in found]),
        np.array([f.lower for f in found]),
        np.array([f.upper for f in found]),
    )
