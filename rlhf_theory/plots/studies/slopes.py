"""Figures of rates: local slopes on logarithmic scales, and the slope on a stated window."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_theory.evaluation.statistics import Slope, local_slopes, slope_bootstrap
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.plots.studies import sheets
from rlhf_theory.plots.studies.forest import forest, forest_inches, limits_of, names_inches
from rlhf_theory.plots.studies.frames import PRIMARY, Panel, Series
from rlhf_theory.plots.studies.lines import along, x_kind
from rlhf_theory.plots.studies.sheets import Options
from rlhf_theory.plots.studies.words import (
    caption,
    panel_words,
    percent,
    replica_words,
    short,
    x_words,
)

# Slopes are between points at least this factor apart: closer ones show the noise of the mean.
_FACTOR = 2.0
_CURVES_HIGH = 1.35  # inches of the upper panel


@dataclass(frozen=True, eq=False)
class _Rates:
    """Local slopes of one series, possibly none, and its slope on the window."""

    series: Series
    x: np.ndarray
    lower: np.ndarray
    value: np.ndarray
    upper: np.ndarray
    fit: Slope


def default_window(x: np.ndarray) -> tuple[float, float]:
    """Return the upper half of the positive range of ``x`` on the logarithmic scale."""
    positive = x[x > 0]
    if positive.size < 2:
        message = f"A slope needs two points at positive places; got {x.tolist()}."
        raise ValueError(message)
    return float(math.sqrt(positive.min() * positive.max())), float(positive.max())


@sheets.kind("slopes", title="Slopes", options=("window", "x"))
def draw(frame: pd.DataFrame, options: Options) -> tuple[Figure, str]:
    """Draw local slopes with intervals above, slopes on the window with intervals below."""
    layout = sheets.arranged(frame, [PRIMARY], options)
    kind = x_kind(layout, options.spec.x)
    every = np.concatenate([along(s, kind) for s in layout.series])
    window = default_window(every) if options.spec.window is None else _checked(options.spec.window)
    found, notes = sheets.drawable(
        layout,
        lambda panel, series: _rates(panel, series, kind, window, options.spec.level),
        "slope",
        lacks=" has no slope",
    )
    # A series without a slope anywhere has no row; the caption names it.
    shown = sorted((r.series for rates in found for r in rates), key=lambda s: s.look)
    names = list(dict.fromkeys(s.label for s in shown))
    heights = [_CURVES_HIGH, forest_inches(names)]
    titles = [p.title for p in layout.panels]
    fig, panels = sheets.grid(
        titles, options, heights=heights, side=names_inches(names), sharex="row", sharey="row"
    )
    fits = [r.fit for rates in found for r in rates]
    limits = limits_of(np.array([[f.value, *f.ends] for f in fits]))
    for own, rates in zip(panels, found, strict=True):
        _draw_local(own[0], rates, window)
        _draw_fits(own[1], rates, names, limits)
        own[0].set_xlabel(x_words(kind))
        own[1].set_xlabel("slope on the window")
        if sheets.column(own[0]) == 0:
            own[0].set_ylabel("local slope")
    sheets.legend(fig, [own[0] for own in panels])
    metrics = " or ".join(dict.fromkeys(short(p.metric) for p in layout.panels))
    low, high = window
    share = percent(options.spec.level)
    said = caption(
        f"Slope of the mean {metrics} against {x_words(kind)} on logarithmic scales"
        f"{panel_words(layout)}.",
        f"Above: slopes between points about a factor {_FACTOR:g} apart, with {share} bootstrap "
        f"intervals over {replica_words(layout.series)}, at each point.",
        f"Below: least-squares slope on the shaded window, {low:.4g} to {high:.4g}"
        f"{' (the upper half of the range)' if options.spec.window is None else ''}, with "
        f"{share} intervals from resampled replicas.",
        "A slope on a window is that of the expected curve there, not the exponent of its limit.",
        *notes,
        *layout.notes,
    )
    return fig, said


def _checked(window: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(v) for v in window)
    if not 0 < low < high:
        message = f"window must be two numbers 0 < first < last; got {list(window)}."
        raise ValueError(message)
    return low, high


def _rates(
    panel: Panel, series: Series, kind: str, window: tuple[float, float], level: float
) -> _Rates:
    x, table = along(series, kind), series.tables[panel.metric]
    infinite = int(np.isinf(table).any(axis=1).sum())
    if infinite:
        message = f"{infinite} of {series.n_replicas} replicas have infinite values."
        raise ValueError(message)
    # Logarithms need positive means; a cumulative sum starts at 0.
    kept = (x > 0) & (table.mean(axis=0) > 0)
    x, table = x[kept], table[:, kept]
    fit = slope_bootstrap(x, table, window=window, level=level)
    sparse = _sparse(x)
    if len(sparse) < 3:
        # Too few points for a curve of slopes, but enough for one.
        none = np.empty(0)
        return _Rates(series, none, none, none, none, fit)
    middle, local = local_slopes(x[sparse], table[:, sparse], span=2, level=level)
    one = series.n_replicas == 1
    nothing = np.full(len(middle), np.nan)
    lower, upper = (nothing, nothing) if one else (local.lower, local.upper)
    return _Rates(series, middle, lower, local.value, upper, fit)


def _sparse(x: np.ndarray) -> np.ndarray:
    """Return indices of points at least the root of the factor apart."""
    chosen = [0] if len(x) else []
    for i in range(1, len(x)):
        if x[i] >= x[chosen[-1]] * math.sqrt(_FACTOR) * (1 - 1e-9):
            chosen.append(i)
    return np.asarray(chosen, dtype=int)


def _draw_local(ax: Axes, rates: list[_Rates], window: tuple[float, float]) -> None:
    axes.log_axes(ax, "x")
    ax.axvspan(*window, color=style.MUTED, alpha=0.09, linewidth=0)
    for r in rates:
        look = style.series(r.series.look)
        curves.curve(
            ax,
            r.x,
            r.value,
            r.lower,
            r.upper,
            sheets.wrapped(r.series.label, ax.figure),
            look.color,
            look.line,
        )


def _draw_fits(
    ax: Axes, rates: list[_Rates], names: list[str], limits: tuple[float, float] | None
) -> None:
    by_name = {r.series.label: r for r in rates}
    rows = [by_name.get(name) for name in names]
    forest(
        ax,
        names,
        [math.nan if r is None else r.fit.value for r in rows],
        [math.nan if r is None else r.fit.lower for r in rows],
        [math.nan if r is None else r.fit.upper for r in rows],
        "slope on the window",
        [None if r is None else r.series.look for r in rows],
        limits=limits,
    )
