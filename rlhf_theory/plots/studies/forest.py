"""Forest plots: one row per name, a point with its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from rlhf_theory.plots import curves, style
from rlhf_theory.plots.studies.sheets import few_ticks

# Of markers, in square points. The arms of a plus are a third of its width: they must be wider than
# the two edges that are drawn around them, or it cannot be hollow.
_AREA = {"P": 33.0}
_EDGE = 0.9  # points

_ROW = 0.17  # inches of a row of one line
_CHARACTERS = 24
_CHARACTER = 0.56  # width over the size of type, for DejaVu Sans


def _lines(names: Sequence[str]) -> list[str]:
    return [textwrap.fill(name, _CHARACTERS, break_long_words=False) for name in names]


def forest_inches(names: Sequence[str]) -> float:
    """Return the height of a forest, in which no two names touch."""
    most = max(name.count("\n") + 1 for name in _lines(names))
    return max(0.5, _ROW * most * (len(names) + 0.2))


def names_inches(names: Sequence[str]) -> float:
    """Return the width that the names take."""
    most = max(len(line) for name in _lines(names) for line in name.split("\n"))
    return most * _CHARACTER * float(mpl.rcParams["ytick.labelsize"]) / 72.0 + 0.2


def limits_of(ends: np.ndarray) -> tuple[float, float] | None:
    """Return limits of an axis that show all finite numbers; None if there are none."""
    seen = ends[np.isfinite(ends)]
    if seen.size == 0:
        return None
    low, high = float(seen.min()), float(seen.max())
    margin = 0.08 * ((high - low) or max(abs(low), 1.0))
    return low - margin, high + margin


def forest(
    ax: Axes,
    names: Sequence[str],
    values: Sequence[float],
    lower: Sequence[float],
    upper: Sequence[float],
    label: str,
    looks: Sequence[int | None],
    *,
    zero: bool = False,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw points with horizontal intervals from the top down.

    Parameters
    ----------
    ax
        Panel.
    names
        One per row.
    values, lower, upper
        Points and ends; NaN leaves a row empty.
    label
        For the numbers.
    looks
        Style of the row, None in ink.
    zero
        Whether to mark 0, and to leave points hollow whose interval holds it.
    limits
        Of the horizontal axis; None takes those of this panel.
    """
    middle, low, high = (np.asarray(v, dtype=float) for v in (values, lower, upper))
    # Bars without height: they note the numbers and draw the intervals.
    curves.bars(ax, _lines(names), middle, low, high, label, "ink", thickness=0.0)
    for bar in ax.containers[-1]:
        bar.set_visible(False)
    ax.grid(visible=True, axis="x")
    for row, (value, look) in enumerate(zip(middle, looks, strict=True)):
        if not np.isfinite(value):
            continue
        chosen = style.series(look) if look is not None else None
        color = style.INK if chosen is None else chosen.color
        marker = "o" if chosen is None else chosen.marker
        within = zero and low[row] <= 0.0 <= high[row]
        ax.scatter(
            value,
            row,
            s=_AREA.get(marker, 11),
            marker=marker,
            facecolor=style.PAPER if within else color,
            edgecolor=color,
            linewidth=_EDGE,
            zorder=3,
        )
    ends = np.concatenate([middle, low, high, [0.0] if zero else []])
    reach = limits_of(ends) if limits is None else limits
    if reach is not None:
        ax.set_xlim(*reach)
    if zero:
        ax.axvline(0.0, color=style.INK, linewidth=0.6, label="_zero")
    few_ticks(ax, most=3)
