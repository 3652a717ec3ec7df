"""The distribution over replicas at the end of the runs: who fails, how often, how badly."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_theory.plots import axes, curves, style
from rlhf_theory.plots.studies import sheets
from rlhf_theory.plots.studies.frames import PRIMARY, Series
from rlhf_theory.plots.studies.sheets import Options
from rlhf_theory.plots.studies.words import (
    caption,
    infinite_words,
    metric_words,
    panel_words,
    replica_words,
    short,
)

_MARKS = (0.05, 0.5, 0.95)


@sheets.kind("tails", title="Tails over replicas")
def draw(frame: pd.DataFrame, options: Options) -> tuple[Figure, str]:
    """Draw the share of replicas whose final value is at least x."""
    layout = sheets.arranged(frame, [PRIMARY], options)
    found = [[(s, s.tables[panel.metric][:, -1]) for s in panel.series] for panel in layout.panels]
    everything = [item for part in found for item in part]
    finite = [values[np.isfinite(values)] for _, values in everything]
    if not any(len(values) for values in finite):
        message = "No tail can be drawn: all final values are infinite."
        raise ValueError(message)
    logs = "xy" if sheets.positive_range(finite) >= 4.0 else "y"
    one = len({panel.metric for panel in layout.panels}) == 1
    titles = [p.title for p in layout.panels]
    fig, panels = sheets.grid(titles, options, sharex="all" if one else "none")
    flat = [own[0] for own in panels]
    for ax, part in zip(flat, found, strict=True):
        axes.log_axes(ax, logs)  # type: ignore[arg-type]
        for series, values in part:
            _draw(ax, series, values)
        if "x" not in logs:
            sheets.few_ticks(ax)
    metrics = " or ".join(dict.fromkeys(short(p.metric) for p in layout.panels))
    final = [f"final {metric_words(panel.metric)}, x" for panel in layout.panels]
    sheets.labels(fig, flat, final, "share of replicas ≥ x")
    sheets.legend(fig, flat)
    every = [s for s, _ in everything]
    infinite = infinite_words([(s, int(np.isinf(v).sum())) for s, v in everything], unit="")
    ends = sorted({(s.counted, float(s.place[-1])) for s in every})
    at = ", ".join(
        f"after {at:g} rounds" if counted == "round" else f"from {at:g} pairs"
        for counted, at in ends
    )
    said = caption(
        f"Share of {replica_words(every)} whose final {metrics} ({at}) is at least x"
        f"{panel_words(layout)}.",
        "Markers: the 5 %, 50 % and 95 % quantiles of the replicas, from left to right.",
        f"Infinite values: {infinite}; these curves end at the share of such replicas, "
        "and markers among them are not drawn."
        if infinite
        else "",
        *layout.notes,
    )
    return fig, said


def _draw(ax: Axes, series: Series, values: np.ndarray) -> None:
    look = style.series(series.look)
    ordered = np.sort(values)
    count = len(ordered)
    # The share of values at or above the i-th smallest; equal values share the largest.
    place = np.searchsorted(ordered, ordered, side="left")
    share = (count - place) / count
    seen = np.isfinite(ordered)
    if not seen.any():
        return
    name = sheets.wrapped(series.label, ax.figure)
    curves.curve(ax, ordered[seen], share[seen], label=name, color=look.color, style=look.line)
    # Between two values the share is that of the larger one.
    ax.get_lines()[-1].set_drawstyle("steps-pre")
    marks = np.quantile(values, _MARKS, method="inverted_cdf")
    heights = [(values >= mark).mean() for mark in marks]
    kept = np.isfinite(marks)
    curves.points(
        ax, marks[kept], np.asarray(heights)[kept], color=look.color, marker=look.marker, size=2.6
    )
