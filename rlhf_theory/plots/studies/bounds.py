"""Bounds in the figures of studies: expressions of t, n and the settings of a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from rlhf_theory.plots import curves, style
from rlhf_theory.plots.studies.frames import Series
from rlhf_theory.studies.expressions import Expression, ExpressionError, setting_names

__all__ = ["bound_values", "draw_bounds"]


def bound_values(bound: str, series: Series) -> np.ndarray:
    """Return the bound along a series, shape ``(T,)``.

    Parameters
    ----------
    bound
        Expression of ``t`` (round or number of pairs), ``n`` (comparisons used, mean over
        replicas), and the settings of the series.
    series
        The series.

    Raises
    ------
    ExpressionError
        A text that cannot be read, an unknown name, or a bound that is nowhere finite.
    """
    values = {**setting_names(series.settings), "t": series.t}
    if series.index == "n":
        values["n"] = series.t
    elif np.all(np.isfinite(series.labels)):
        values["n"] = series.labels
    try:
        result = np.broadcast_to(Expression(bound).evaluate(values), series.t.shape)
    except ExpressionError as error:
        message = f"bound of {series.label}: {error}"
        raise ExpressionError(message) from None
    if not np.any(np.isfinite(result)):
        message = f"The bound {bound!r} is nowhere finite for {series.label}."
        raise ExpressionError(message)
    return np.asarray(result)


def draw_bounds(
    ax: Axes, bound: str, drawn: Sequence[tuple[Series, np.ndarray, np.ndarray]]
) -> bool:
    """Draw the bounds of a panel's series: one line in ink where all agree, else one for each.

    Parameters
    ----------
    ax
        Panel.
    bound
        Its text, for the label.
    drawn
        Series, its x, and its bound there.

    Returns
    -------
    Whether there is one line for all.
    """
    x = np.concatenate([at for _, at, _ in drawn])
    y = np.concatenate([values for _, _, values in drawn])
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    together = np.isclose(x[1:], x[:-1], rtol=1e-9)
    # One function of x: equal where points coincide, and some do.
    shared = len(drawn) == 1 or bool(together.any())
    if shared and np.allclose(y[1:][together], y[:-1][together], rtol=1e-9, equal_nan=True):
        first = np.concatenate([[True], ~together])
        curves.bound(ax, x[first], y[first], f"bound {bound}")
        return True
    for series, at, values in drawn:
        color = style.series(series.look).color
        curves.bound(ax, at, values, f"bound, {series.label}", color)
        ax.get_lines()[-1].set_label("_bound")
    # One entry for all in the legend: the colours are those of the learners.
    ax.plot([], [], color=style.INK, linestyle=(0, (4, 2)), linewidth=1.0, label=f"bound {bound}")
    return False
