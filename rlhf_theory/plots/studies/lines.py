"""Figures of curves: suboptimality, notions of regret, ratios to a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlhf_theory.plots import axes, curves, style
from rlhf_theory.plots.studies import sheets
from rlhf_theory.plots.studies.bands import Drawn, line_and_band, sentences
from rlhf_theory.plots.studies.bounds import bound_values, draw_bounds
from rlhf_theory.plots.studies.frames import PRIMARY, Layout, Panel, Series
from rlhf_theory.plots.studies.sheets import Options
from rlhf_theory.plots.studies.words import (
    caption,
    metric_words,
    panel_words,
    sentence,
    short,
    x_words,
)
from rlhf_theory.studies.places import PLACES

# Points up to which each is marked.
_FEW = 12
# A logarithmic axis over less says nothing that a linear one does not, and has no room for labels.
_LEAST_RANGE = 4.0
# Numbers of labels this close, relatively, are the same for a comparison.
_SAME_LABELS = 0.02
# Labels stand next to their curves up to this number, in a single wide panel.
_MOST_ENDS = 10


def x_kind(layout: Layout, x: str | None, *, compares: bool = True) -> str:
    """Return what the horizontal axis shows: ``"round"``, ``"pairs"`` or ``"labels"``.

    None takes what the series count, and labels where that would set different numbers of labels
    beside each other: where online and offline learners meet and, if the figure ``compares``, where
    the series of a panel have used different numbers of labels at one place.
    """
    kinds = {s.counted for s in layout.series}
    if x in PLACES and kinds != {x}:
        message = (
            f"x={x!r} is not what all learners count: online learners count rounds, offline ones "
            "pairs; use x='labels', or draw them apart."
        )
        raise ValueError(message)
    if x == "labels" or len(kinds) > 1 or (x is None and compares and _labels_differ(layout)):
        lacking = [s.label for s in layout.series if not np.all(np.isfinite(s.labels))]
        if lacking:
            message = f"x='labels' needs the column labels; {', '.join(lacking)} has none."
            raise ValueError(message)
        return "labels"
    return kinds.pop()


def _labels_differ(layout: Layout) -> bool:
    """Return whether series of one panel have used different numbers of labels at a place."""
    if not all(np.all(np.isfinite(s.labels)) for s in layout.series):
        return False
    for panel in layout.panels:
        used: dict[float, list[float]] = {}
        for series in panel.series:
            for place, labels in zip(series.place, series.labels, strict=True):
                used.setdefault(float(place), []).append(float(labels))
        # Beyond what the noise of a mean over replicas does to equal laws.
        if any(max(found) > (1.0 + _SAME_LABELS) * min(found) for found in used.values()):
            return True
    return False


def along(series: Series, kind: str) -> np.ndarray:
    """Return the horizontal places of the points of a series, shape ``(T,)``."""
    return series.labels if kind == "labels" else series.place


@sheets.kind("suboptimality", title="The metric of each world", options=("band", "bound", "x"))
def suboptimality(frame: pd.DataFrame, options: Options) -> tuple[Figure, str]:
    """Draw the metric against rounds, numbers of pairs, or labels used."""
    layout = sheets.arranged(frame, [PRIMARY], options)

    def values(series: Series, panel: Panel) -> np.ndarray:
        return series.tables[panel.metric]

    return _curves(layout, values, _metric_labels(layout, metric_words), options)


@dataclass(frozen=True)
class _Notion:
    """A notion of regret.

    Attributes
    ----------
    label, remark
        For the axis, with a place for the metric, and for the caption.
    summed
        Whether it is made of the regret that runs have summed, or of the metric itself.
    of
        From that table ``(R, T)`` and the places ``(T,)`` of its columns to what is drawn.
    """

    label: str
    remark: str
    summed: bool
    of: Callable[[np.ndarray, np.ndarray], np.ndarray]


_NOTIONS = {
    "cumulative": _Notion(
        "cumulative regret, Σ {}",
        "The cumulative regret at a round is the sum over the policies played before it.",
        True,
        lambda table, _: table,
    ),
    "average": _Notion(
        "average regret, Σ {} / rounds",
        "The average regret is the mean over the policies played before the round.",
        True,
        lambda table, place: table / np.where(place > 0, place, np.nan),
    ),
    "simple": _Notion(
        "simple regret, {}",
        "The simple regret is that of the current policy.",
        False,
        lambda table, _: table,
    ),
    "best": _Notion(
        "best {} so far",
        "The best so far is the minimum up to there within each replica, which only the truth "
        "can tell.",
        False,
        lambda table, _: np.minimum.accumulate(table, axis=1),
    ),
}


@sheets.kind("regret", title="Regret", options=("band", "bound", "x", "notion"))
def regret(frame: pd.DataFrame, options: Options) -> tuple[Figure, str]:
    """Draw a notion of regret; cumulative unless set."""
    name = options.spec.notion or "cumulative"
    notion = _NOTIONS[name]
    if notion.summed and options.spec.metric is not None:
        message = (
            f"notion={name!r} is the regret of the world's own metric, which the run has summed; "
            "leave metric out, or take notion='simple' or 'best'."
        )
        raise ValueError(message)
    layout = sheets.arranged(frame, ["regret" if notion.summed else PRIMARY], options)

    def values(series: Series, panel: Panel) -> np.ndarray:
        table = series.tables["regret" if notion.summed else panel.metric]
        return notion.of(table, series.place)

    y = _metric_labels(layout, lambda metric: notion.label.format(short(metric)))
    return _curves(layout, values, y, options, notion.remark, compares=False)


@sheets.kind(
    "ratio",
    title="Ratio to the bound",
    options=("band", "bound", "x"),
    needs={"bound": 'a ratio is that of the metric to a bound, such as "d / sqrt(labels)"'},
)
def ratio(frame: pd.DataFrame, options: Options) -> tuple[Figure, str]:
    """Draw the metric over its bound: flat where the bound has the right rate."""
    bound = options.spec.bound
    if bound is None:
        message = "kind='ratio' needs a bound, such as bound='d / sqrt(labels)'."
        raise ValueError(message)
    layout = sheets.arranged(frame, [PRIMARY], options)

    def values(series: Series, panel: Panel) -> np.ndarray:
        right = bound_values(bound, series)
        # Points where the bound is 0, negative or infinite have no ratio.
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = series.tables[panel.metric] / right
        return np.where((right > 0) & np.isfinite(right), quotient, np.nan)

    y = _metric_labels(layout, lambda name: f"{short(name)} / bound")
    remark = f"Bound: {bound}. A flat line has the rate of the bound; below 1 the bound holds."
    return _curves(layout, values, y, options, remark, level=1.0)


# --------------------------------------------------------------------------- parts


def _metric_labels(layout: Layout, words: Callable[[str], str]) -> list[str]:
    return [words(panel.metric) for panel in layout.panels]


def _curves(
    layout: Layout,
    values: Callable[[Series, Panel], np.ndarray],
    y: list[str],
    options: Options,
    remark: str = "",
    *,
    level: float | None = None,
    compares: bool = True,
) -> tuple[Figure, str]:
    kind = x_kind(layout, options.spec.x, compares=compares)
    # What is compared with a level is a ratio to the bound already.
    bound = options.spec.bound if level is None else None
    found, dropped = _found(layout, values, kind, options)
    logs = _scales(found)
    one = len({panel.metric for panel in layout.panels}) == 1
    fig, panels = sheets.grid(
        [p.title for p in layout.panels], options, sharey="all" if one else "none"
    )
    flat = [own[0] for own in panels]
    floor = _floor(found)
    for ax, items in zip(flat, found, strict=True):
        if "x" not in logs:  # what is counted has no halves
            ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        if logs:
            axes.log_axes(ax, logs)  # type: ignore[arg-type]
        for series, x, drawn in items:
            _draw(ax, series, x, drawn, floor if "y" in logs else None)
        if bound is not None:
            _bounds(ax, bound, [s for s, _, _ in items], kind, logs)
        if level is not None and _near(items, level):
            curves.level(ax, level, "", color="ink")
    sheets.labels(fig, flat, x_words(kind), y)
    _names(fig, flat, options)
    said = caption(
        f"{sentence(y)} against {x_words(kind)}{panel_words(layout)}.",
        *sentences(
            [(s, d) for items in found for s, _, d in items], options.spec.band, options.spec.level
        ),
        remark,
        f"Dashed: bound {bound}." if bound is not None else "",
        "Labels used are means over replicas." if kind == "labels" else "",
        dropped,
        *layout.notes,
    )
    return fig, said


Items = list[tuple[Series, np.ndarray, Drawn]]


def _found(
    layout: Layout,
    values: Callable[[Series, Panel], np.ndarray],
    kind: str,
    options: Options,
) -> tuple[list[Items], str]:
    """Return what is drawn in every panel, and a sentence about points that cannot be."""
    every = [along(s, kind) for s in layout.series]
    # A logarithmic axis has no 0: the policy before the first label is left out there.
    positive = [x[x > 0] for x in every]
    log = all(len(x) for x in positive) and sheets.positive_range(positive) >= _LEAST_RANGE
    found: list[Items] = []
    start = other = False
    for panel in layout.panels:
        items: Items = []
        for series in panel.series:
            x, table = along(series, kind), values(series, panel)
            kept = ~np.isnan(table).any(axis=0) & ((x > 0) | (not log))
            start |= bool((~kept & (x <= 0)).any())
            other |= bool((~kept & (x > 0)).any())
            if kept.any():
                drawn = line_and_band(table[:, kept], options.spec.band, options.spec.level)
                items.append((series, x[kept], drawn))
        found.append(items)
    if not any(found):
        message = "No point can be drawn: the values or the bound are nowhere positive and finite."
        raise ValueError(message)
    said = ["The start has no place on the logarithmic axis and is left out."] if start else []
    said += ["Points where the bound is not positive and finite are left out."] if other else []
    return found, " ".join(said)


def _scales(found: list[Items]) -> str:
    items = [item for panel in found for item in panel]
    logs = "x" if sheets.positive_range([x for _, x, _ in items]) >= _LEAST_RANGE else ""
    y = sheets.positive_range([d.middle for _, _, d in items])
    return logs + ("y" if y >= _LEAST_RANGE else "")


def _floor(found: list[Items]) -> float:
    """Return a height below all curves, where bands end that reach 0 on a logarithmic axis."""
    seen = _heights([item for panel in found for item in panel])
    return float(seen.min()) / 10.0 if seen.size else 0.0


def _heights(items: Items) -> np.ndarray:
    """Return all heights of curves that a logarithmic axis can show."""
    heights = np.concatenate([d.middle for _, _, d in items])
    return np.asarray(heights[np.isfinite(heights) & (heights > 0)])


def _draw(ax: Axes, series: Series, x: np.ndarray, drawn: Drawn, floor: float | None) -> None:
    look = style.series(series.look)
    lower = drawn.lower
    if lower is not None and floor is not None:
        lower = np.where(lower > 0, lower, floor)
    curves.curve(
        ax,
        x,
        drawn.middle,
        lower,
        drawn.upper,
        sheets.wrapped(series.label, ax.figure) + (" (median)" if drawn.infinite else ""),
        look.color,
        look.line,
        marker=look.marker if len(x) <= _FEW else None,
    )


def _bounds(ax: Axes, bound: str, series: list[Series], kind: str, logs: str) -> None:
    drawn = []
    for s in series:
        x, y = along(s, kind), bound_values(bound, s)
        kept = np.isfinite(y) & ((x > 0) | ("x" not in logs)) & ((y > 0) | ("y" not in logs))
        if kept.any():
            drawn.append((s, x[kept], y[kept]))
    if drawn:
        draw_bounds(ax, bound, drawn)


def _near(items: Items, level: float) -> bool:
    """Return whether a line at ``level`` leaves the curves their room."""
    seen = _heights(items)
    return bool(seen.size and seen.min() < 10 * level and seen.max() > level / 10)


def _names(fig: Figure, panels: list[Axes], options: Options) -> None:
    names = panels[0].get_legend_handles_labels()[1]
    short = all("\n" not in str(name) for name in names)
    if len(panels) == 1 and options.spec.width == "text" and 1 < len(names) <= _MOST_ENDS and short:
        axes.end_labels(panels[0])
        return
    sheets.legend(fig, panels)
