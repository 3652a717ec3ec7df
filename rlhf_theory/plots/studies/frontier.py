"""The reward-KL frontier: how far from pi0 a learner goes, and what it gains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_theory.plots import axes, curves, style
from rlhf_theory.plots.studies import sheets
from rlhf_theory.plots.studies.bands import Drawn, line_and_band
from rlhf_theory.plots.studies.frames import PRIMARY, Layout, Panel, Series, arrange
from rlhf_theory.plots.studies.sheets import Options
from rlhf_theory.plots.studies.words import (
    caption,
    infinite_words,
    metric_words,
    panel_words,
    percent,
    replica_words,
    sentence,
)

# A policy this close to pi0 in every replica is pi0.
_SAME = 1e-12

Item = tuple[Series, Drawn, Drawn]


@sheets.kind("frontier", title="Gap against KL to the reference policy", options=("relative",))
def draw(frame: pd.DataFrame, options: Options) -> tuple[Figure, str]:
    """Draw one path per learner from its first policy to its last, which has intervals."""
    if options.spec.relative and options.spec.metric not in (None, "gap"):
        message = f"relative=True is about the gap; got metric={options.spec.metric!r}."
        raise ValueError(message)
    metric = "gap" if options.spec.relative else options.spec.metric
    layout = arrange(
        frame, [PRIMARY, "kl"], metric=metric, facet=options.spec.facet, hue=options.spec.hue
    )
    start = _pi0_gaps(layout) if options.spec.relative else {}
    found, notes = sheets.drawable(
        layout, lambda panel, series: _item(panel, series, start, options), "frontier"
    )
    drawn = [item for panel in found for item in panel]
    positive = sheets.positive_range([y.middle for _, _, y in drawn])
    logs = not options.spec.relative and positive >= 4.0
    titles = [p.title for p in layout.panels]
    # How far a learner may go depends on the world: panels have scales of their own.
    fig, panels = sheets.grid(titles, options, sharex="none", sharey="none")
    flat = [own[0] for own in panels]
    for ax, items in zip(flat, found, strict=True):
        if logs:
            axes.log_axes(ax, "y")
        else:
            sheets.few_ticks(ax, "y")
        for series, x, y in items:
            _path(ax, series, x, y)
        sheets.few_ticks(ax)
    y_words = [
        "J(π) − J(π0)" if options.spec.relative else metric_words(panel.metric)
        for panel in layout.panels
    ]
    sheets.labels(fig, flat, metric_words("kl"), y_words)
    sheets.legend(fig, flat)
    infinite = infinite_words([(s, max(x.infinite, y.infinite)) for s, x, y in drawn])
    said = caption(
        f"{sentence(y_words)} against KL(π‖π0){panel_words(layout)}: one path per "
        "learner, from its first recorded policy (small ring) to its last (large marker).",
        _crosses([s for s, _, _ in drawn], options.spec.level),
        "Every panel has its own scales." if len(flat) > 1 else "",
        f"Infinite values: {infinite}; what is infinite there has the median of all replicas for "
        "its mean, without an interval."
        if infinite
        else "",
        *notes,
        *layout.notes,
    )
    return fig, said


def _crosses(series: list[Series], level: float) -> str:
    if all(s.n_replicas == 1 for s in series):
        return "There is one replica, so there are no intervals."
    return (
        f"Both are means over {replica_words(series)}; crosses are {percent(level)} bootstrap "
        "intervals of the last means."
    )


def _item(
    panel: Panel, series: Series, start: Mapping[str, Mapping[int, float]], options: Options
) -> Item:
    tables = series.tables["kl"], _heights(panel, series, start, options)
    x, y = (line_and_band(table, level=options.spec.level) for table in tables)
    return series, x, y


def _heights(
    panel: Panel,
    series: Series,
    start: Mapping[str, Mapping[int, float]],
    options: Options,
) -> np.ndarray:
    table = series.tables[panel.metric]
    if not options.spec.relative:
        return table
    known = start.get(series.world, {})
    if any(int(r) not in known for r in series.replicas):
        message = (
            "left out, as the gap of π0 is not known in all its replicas (no learner of this world "
            "starts from π0)."
        )
        raise ValueError(message)
    with np.errstate(invalid="ignore"):
        start_gaps = np.array([known[int(r)] for r in series.replicas])
        return np.asarray(start_gaps[:, None] - table)


def _pi0_gaps(layout: Layout) -> dict[str, dict[int, float]]:
    """Return the gap of pi0 per world and replica, from learners that start there."""
    gaps: dict[str, dict[int, float]] = {}
    for panel in layout.panels:
        for s in panel.series:
            if np.all(s.tables["kl"][:, 0] <= _SAME):
                # Replica r of a world is one problem, whatever the learner.
                first = zip(s.replicas, s.tables[panel.metric][:, 0], strict=True)
                gaps.setdefault(s.world, {}).update({int(r): float(v) for r, v in first})
    return gaps


def _path(ax: Axes, series: Series, x: Drawn, y: Drawn) -> None:
    look = style.series(series.look)
    name = sheets.wrapped(series.label, ax.figure) + (
        " (median)" if x.infinite or y.infinite else ""
    )
    curves.curve(ax, x.middle, y.middle, label=name, color=look.color, style=look.line)
    ax.scatter(x.middle[0], y.middle[0], s=7, facecolor=style.PAPER, edgecolor=look.color, zorder=3)
    end = (x.middle[-1], y.middle[-1])
    if y.lower is not None and y.upper is not None:
        curves.points(
            ax, [end[0]], [end[1]], y.lower[-1:], y.upper[-1:], "", look.color, marker=look.marker
        )
    else:
        curves.points(ax, [end[0]], [end[1]], color=look.color, marker=look.marker)
    if x.lower is not None and x.upper is not None:
        ends = [x.lower[-1], x.upper[-1]]
        curves.curve(
            ax, ends, [end[1]] * 2, label=f"{name}, interval of KL", color=look.color, width=1.0
        )
        # In the numbers, not in the legend.
        ax.get_lines()[-1].set_label("_interval")
