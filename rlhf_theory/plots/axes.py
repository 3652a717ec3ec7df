"""Axes that can be read: logarithmic ticks, titles, legends and labels that overlap nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rlhf_theory.plots.style import MUTED

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Decades of an axis from which on single digits between two powers of ten are not labelled.
_WIDE = 1.6


def power_of_ten(exponent: int) -> str:
    """Return ``10ⁿ`` in plain characters, which stay text in every file format.

    Examples
    --------
    >>> power_of_ten(-12)
    '10⁻¹²'
    """
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def number(value: float) -> str:
    """Return a short text for a positive number on a logarithmic axis.

    Examples
    --------
    >>> [number(v) for v in (0.05, 20, 1000, 3e5, 1e-4)]
    ['0.05', '20', '1000', '3·10⁵', '10⁻⁴']
    """
    exponent = math.floor(math.log10(value) + 1e-9)
    if -3 < exponent < 4:
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    lead = value / 10.0**exponent
    power = power_of_ten(exponent)
    return power if math.isclose(lead, 1.0, rel_tol=1e-6) else f"{lead:.3g}·{power}"


def log_axes(ax: Axes, which: Literal["x", "y", "xy"] = "xy") -> None:
    """Make axes logarithmic, with ticks that are numbers rather than exponents where that is short.

    Over less than two decades the digits 2 and 5 are labelled too. Call it before drawing: curves
    with values that are not positive have gaps there.
    """
    for name in which:
        getattr(ax, f"set_{name}scale")("log", nonpositive="mask")
        axis = ax.xaxis if name == "x" else ax.yaxis
        axis.set_major_locator(_Ticks())
        axis.set_major_formatter(_formatter(axis))
        axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=12))
        axis.set_minor_formatter(NullFormatter())


class _Ticks(LogLocator):
    """Powers of ten; on a short axis 2 and 5 times these too."""

    def __init__(self) -> None:
        super().__init__(base=10.0, subs=(1.0,), numticks=8)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Return the ticks between two limits."""
        short = 0 < vmin < vmax and math.log10(vmax / vmin) < _WIDE
        self.set_params(subs=(1.0, 2.0, 5.0) if short else (1.0,))
        return super().tick_values(vmin, vmax)


def _formatter(axis: Axis) -> FuncFormatter:
    def label(value: float, _position: int | None = None) -> str:
        if value <= 0:
            return ""
        low, high = sorted(axis.get_view_interval())
        # One kind of label per axis: all plain, or all powers of ten.
        plain = low > 0.9e-3 and high < 1.1e4
        short = high < low * 10**_WIDE
        return number(value) if plain or short else power_of_ten(round(math.log10(value)))

    return FuncFormatter(label)


def legend(
    fig: Figure,
    axes: Iterable[Axes] | None = None,
    *,
    title: str | None = None,
    inside: Axes | None = None,
    loc: Any = "best",
) -> None:
    """Place one legend for all panels below them, where it can cover nothing.

    Parameters
    ----------
    fig
        Figure with constrained layout.
    axes
        Panels whose curves are listed; None takes all. Equal labels are listed once.
    title
        Title of the legend.
    inside
        A panel with enough free space to hold the legend instead, at ``loc``.
    loc
        Place inside that panel.
    """
    handles: dict[str, Artist] = {}
    for ax in fig.axes if axes is None else axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not handles:
        return
    if inside is not None:
        inside.legend(list(handles.values()), list(handles), title=title, loc=loc)
        return
    for ncols in range(len(handles), 0, -1):
        box = _below(fig, handles, title, ncols)
        size = box.get_window_extent()
        if ncols == 1 or size.width <= 0.99 * fig.bbox.width:
            break
        box.remove()
    # Rows of equal length, where as few rows allow it.
    even = math.ceil(len(handles) / math.ceil(len(handles) / ncols))
    if even != ncols:
        box.remove()
        _below(fig, handles, title, even)
    # The legend gets room of its own: panels keep their size.
    fig.set_figheight(fig.get_figheight() + size.height / fig.dpi + 0.04)


def _below(fig: Figure, handles: Mapping[str, Artist], title: str | None, ncols: int) -> Legend:
    return fig.legend(
        list(handles.values()),
        list(handles),
        title=title,
        loc="outside lower center",
        ncols=ncols,
    )


def end_labels(ax: Axes, *, gap: float = 1.15) -> None:
    """Write each curve's label to the right of its last point instead of a legend.

    Call it after limits and scales are final. Labels that would touch are moved apart, and a thin
    line leads from the curve to its label.

    Parameters
    ----------
    ax
        Panel.
    gap
        Least distance of two labels, in heights of a line of text.
    """
    # Asking for the limits makes them follow the data, which the transforms below rely on.
    ax.get_xlim(), ax.get_ylim()
    lines = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    ends, kept = [], []
    for line in lines:
        x, y = (np.asarray(v, dtype=float) for v in line.get_data())
        seen = np.isfinite(x) & np.isfinite(y)
        if seen.any():
            last = ax.transData.transform((x[seen][-1], y[seen][-1]))
            ends.append(ax.transAxes.inverted().transform(last))
            kept.append(line)
    if not kept:
        return
    size = 7.0
    points_high = ax.get_figure().get_figheight() * 72 * ax.get_position().height  # type: ignore[union-attr]
    step = gap * size * 1.2 / points_high
    for line, (x0, y0), y1 in zip(kept, ends, _apart([y for _, y in ends], step), strict=True):
        text = ax.text(
            1.035, y1, str(line.get_label()), transform=ax.transAxes, ha="left", va="center"
        )
        text.set_color(line.get_color())
        text.set_fontsize(size)
        leader = ax.plot(
            [min(x0, 1.0), 1.025], [y0, y1], transform=ax.transAxes, color=MUTED, linewidth=0.5
        )
        leader[0].set_clip_on(False)
        leader[0].set_label("_leader")


def _apart(heights: list[float], step: float) -> list[float]:
    """Return heights at least ``step`` apart, in the same order, moved as little as can be."""
    order = np.argsort(heights, kind="stable")
    # Pool neighbours that would overlap into a stack around the mean of their heights.
    stacks: list[tuple[float, list[int]]] = []
    for i in order:
        stack = (float(heights[i]), [int(i)])
        while stacks:
            below = stacks[-1]
            reach = step * (len(below[1]) + len(stack[1])) / 2
            if stack[0] - below[0] >= reach:
                break
            stacks.pop()
            members = below[1] + stack[1]
            stack = (float(np.mean([heights[j] for j in members])), members)
        stacks.append(stack)
    placed = [0.0] * len(heights)
    for centre, members in stacks:
        for rank, j in enumerate(members):
            placed[j] = centre + step * (rank - (len(members) - 1) / 2)
    return placed
