"""What is drawn into a panel: curves with bands, bounds, slopes, points, bars, axes and labels.

Whatever these functions draw, they also note down, so that a figure comes with its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike

from rlhf_theory.evaluation.statistics import mean_interval
from rlhf_theory.plots.style import COLORS, INK, MUTED, SeriesStyle

_NOTES: WeakKeyDictionary[Axes, list[pd.DataFrame]] = WeakKeyDictionary()
_DRAWN: WeakSet[Artist] = WeakSet()


def noted(ax: Axes) -> list[pd.DataFrame]:
    """Return what was drawn into a panel: tables with ``series, x, y, lower, upper``."""
    return list(_NOTES.get(ax, []))


def is_noted(artist: Artist) -> bool:
    """Return whether the numbers of ``artist`` are among those of its panel."""
    return artist in _DRAWN


def _note(ax: Axes, label: str, artists: Sequence[Artist], **columns: ArrayLike | None) -> None:
    rows = {name: np.atleast_1d(np.asarray(v)) for name, v in columns.items() if v is not None}
    table = pd.DataFrame({"series": label.replace("\n", " "), **rows})
    _NOTES.setdefault(ax, []).append(table)
    for artist in artists:
        _DRAWN.add(artist)


def _color(color: str | None, ax: Axes) -> ColorType:
    if color is None:
        # The next colour of the cycle, as matplotlib would take it.
        color = ax._get_lines.get_next_color()  # type: ignore[attr-defined]  # noqa: SLF001 no public way
    return COLORS.get(color, color)


def curve(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    label: str = "",
    color: str | None = None,
    style: object = "-",
    *,
    marker: str | None = None,
    width: float | None = None,
) -> None:
    """Draw a curve, with a band where its edges are given.

    Parameters
    ----------
    ax
        Panel.
    x, y
        Points of the curve, shape ``(n,)``.
    lower, upper
        Edges of the band, shape ``(n,)``; the caption must say what the band is.
    label
        For legend and numbers; an empty one stays out of the legend.
    color
        A name in ``style.COLORS`` or any colour; None takes the next of the cycle.
    style
        Line style.
    marker, width
        Marker of the points and width of the line, if any.
    """
    shade = _color(color, ax)
    (line,) = ax.plot(
        x, y, color=shade, linestyle=style, marker=marker, linewidth=width, label=label or "_"
    )
    drawn: list[Artist] = [line]
    if lower is not None and upper is not None:
        drawn.append(ax.fill_between(x, lower, upper, color=shade, alpha=0.18, linewidth=0))
    _note(ax, label, drawn, x=x, y=y, lower=lower, upper=upper)


def mean_curve(ax: Axes, x: ArrayLike, values: ArrayLike, label: str, look: SeriesStyle) -> None:
    """Draw the mean over replicas of values ``(R, n)`` with its 95 % bootstrap interval."""
    mean = mean_interval(values)
    curve(ax, x, mean.value, mean.lower, mean.upper, label, look.color, look.line)


def band(
    ax: Axes,
    x: ArrayLike,
    lower: ArrayLike,
    mid: ArrayLike,
    upper: ArrayLike,
    label: str = "",
    color: str | None = None,
    style: object = "-",
    *,
    marker: str | None = None,
) -> None:
    """Draw a curve between the edges of its band; ``curve`` in the order low, middle, high."""
    curve(ax, x, mid, lower, upper, label, color, style, marker=marker)


def points(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    label: str = "",
    color: str | None = None,
    *,
    marker: str = "o",
    size: float = 3.6,
    hollow: bool = False,
) -> None:
    """Draw points with intervals (ends ``lower`` and ``upper``), not joined by a line."""
    shade = _color(color, ax)
    reach = None
    if lower is not None and upper is not None:
        # Rounding may put an end of an interval on the wrong side of its middle by 1e-17.
        down = np.maximum(np.asarray(y) - np.asarray(lower), 0.0)
        reach = np.stack([down, np.maximum(np.asarray(upper) - np.asarray(y), 0.0)])
    drawn = ax.errorbar(
        x,
        y,
        yerr=np.atleast_2d(reach.T).T if reach is not None else None,
        fmt=marker,
        color=shade,
        markersize=size,
        markerfacecolor="none" if hollow else shade,
        elinewidth=1.0,
        label=label or "_",
    )
    _note(ax, label, [drawn.lines[0]], x=x, y=y, lower=lower, upper=upper)


def bars(
    ax: Axes,
    names: list[str],
    values: ArrayLike,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    label: str = "",
    color: str | None = None,
    *,
    offset: float = 0.0,
    thickness: float = 0.62,
) -> None:
    """Draw horizontal bars from the top down, one per name, with intervals if given.

    Several calls with different ``offset`` (in units of the distance of two names) and a smaller
    ``thickness`` make groups.
    """
    shade = _color(color, ax)
    heights = np.asarray(values, dtype=float)
    rows = np.arange(len(names)) + offset
    container = ax.barh(rows, heights, height=thickness, color=shade, label=label or "_")
    if lower is not None and upper is not None:
        ends = np.stack([np.asarray(lower, dtype=float), np.asarray(upper, dtype=float)])
        ax.hlines(rows, ends[0], ends[1], colors=INK, linewidth=1.0)
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    _note(ax, label, list(container), x=names, y=heights, lower=lower, upper=upper)


def bound(
    ax: Axes, x: ArrayLike, y: ArrayLike, label: str = "bound", color: str | None = "ink"
) -> None:
    """Draw the right-hand side of a theorem: a thin dashed line above (or below) the curves."""
    curve(ax, x, y, label=label, color=color, style=(0, (4, 2)), width=1.0)


def level(
    ax: Axes,
    value: float,
    label: str = "",
    color: str | None = "muted",
    *,
    axis: Literal["x", "y"] = "y",
) -> None:
    """Draw a straight line across the panel at ``value`` of an axis, such as ``1 - delta``."""
    draw = ax.axhline if axis == "y" else ax.axvline
    line = draw(value, color=_color(color, ax), linestyle=(0, (1, 1.5)), linewidth=1.1)
    line.set_label(label or "_")
    _note(ax, label, [line], **{axis: value})


def slope_guide(
    ax: Axes,
    exponent: float,
    start: tuple[float, float],
    stop: float,
    label: str | None = None,
    color: str | None = "muted",
) -> None:
    """Draw ``y ~ x^exponent`` on logarithmic axes, with its label below its middle.

    Parameters
    ----------
    ax
        Panel with two logarithmic axes.
    exponent
        Slope of the line.
    start
        Left end ``(x, y)``.
    stop
        Right end, as ``x``.
    label
        Text; None writes ``slope`` and the exponent.
    color
        Name in ``style.COLORS`` or any colour.
    """
    shade = _color(color, ax)
    x = np.array([start[0], stop])
    y = start[1] * (x / start[0]) ** exponent
    words = f"slope {exponent:g}".replace("-", "\u2212") if label is None else label
    (line,) = ax.plot(x, y, color=shade, linewidth=0.9, linestyle="-", label="_")
    ax.annotate(
        words,
        (float(np.sqrt(x[0] * x[1])), float(np.sqrt(y[0] * y[1]))),
        xytext=(-2 if exponent < 0 else 2, -2),
        textcoords="offset points",
        ha="right" if exponent < 0 else "left",
        va="top",
        color=shade,
        fontsize=7.0,
    )
    _note(ax, words, [line], x=x, y=y)


def text(
    ax: Axes,
    words: str,
    where: Literal["upper left", "upper right", "lower left", "lower right"] = "upper right",
    color: str | None = "ink",
) -> None:
    """Write a short remark into a corner of the panel."""
    down, side = where.split()
    ax.text(
        0.03 if side == "left" else 0.97,
        0.96 if down == "upper" else 0.04,
        words,
        transform=ax.transAxes,
        ha="left" if side == "left" else "right",
        va="top" if down == "upper" else "bottom",
        color=COLORS.get(color or "ink", MUTED),
        fontsize=7.0,
    )
