"""Bounds in the figures of studies: expressions of rounds, pairs, labels and settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from rlhf_theory.plots import curves, style
from rlhf_theory.plots.studies.frames import Series
from rlhf_theory.studies.expressions import Expression, ExpressionError, setting_names


def bound_values(bound: str, series: Series) -> np.ndarray:
    """Return the bound along a series, shape ``(T,)``.

    Parameters
    ----------
    bound
        Expression of ``round`` or ``pairs`` (what the series counts), ``labels`` (used so far,
        mean over replicas), and the settings of the series.
    series
        The series.

    Raises
    ------
    ExpressionError
        A text that cannot be read, an unknown name, or a bound that is nowhere finite.
    """
    values = {**setting_names(series.settings), series.counted: series.place}
    if np.all(np.isfinite(series.labels)):
        values["labels"] = series.labels
    try:
        result = np.broadcast_to(Expression(bound).evaluate(values), series.place.shape)
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
    x, y = _merged(drawn)
    if all(_on(x, y, at, values) for _, at, values in drawn):
        curves.bound(ax, x, y, f"bound {bound}")
        return True
    for series, at, values in drawn:
        color = style.series(series.look).color
        curves.bound(ax, at, values, f"bound, {series.label}", color)
        ax.get_lines()[-1].set_label("_bound")
    # One entry for all in the legend: the colours are those of the learners.
    ax.plot([], [], color=style.INK, linestyle=(0, (4, 2)), linewidth=1.0, label=f"bound {bound}")
    return False


def _merged(
    drawn: Sequence[tuple[Series, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of all bounds in the order of x, one for every x."""
    x = np.concatenate([at for _, at, _ in drawn])
    y = np.concatenate([values for _, _, values in drawn])
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    first = np.concatenate([[True], ~np.isclose(x[1:], x[:-1], rtol=1e-9)])
    return x[first], y[first]


def _on(x: np.ndarray, y: np.ndarray, at: np.ndarray, values: np.ndarray) -> bool:
    """Return whether the points of all bounds lie on the line through those of one of them."""
    # Not only where points coincide: over labels, the same round of two learners lies elsewhere.
    inside = (x >= at.min()) & (x <= at.max()) & np.isfinite(y)
    if min(at.min(), values.min()) > 0:  # powers are straight lines on logarithmic scales
        line = np.exp(np.interp(np.log(x[inside]), np.log(at), np.log(values)))
    else:
        line = np.interp(x[inside], at, values)
    return bool(np.allclose(line, y[inside], rtol=0.02, equal_nan=True))
