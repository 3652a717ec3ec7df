"""Paired comparisons at equal numbers of labels, as a forest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rlhf_theory.errors import check_choice
from rlhf_theory.evaluation.comparisons import pairs_of
from rlhf_theory.evaluation.equal_labels import LabelCurves, last_common
from rlhf_theory.evaluation.statistics import paired_difference
from rlhf_theory.plots.studies import sheets
from rlhf_theory.plots.studies.forest import forest, forest_inches, names_inches
from rlhf_theory.plots.studies.frames import PRIMARY, Layout, Panel, Series
from rlhf_theory.plots.studies.sheets import Options
from rlhf_theory.plots.studies.words import caption, panel_words, percent, short

# All pairs are shown up to this number of learners; more are compared with one of them.
_ALL = 3
_LONG = 24  # characters


@dataclass(frozen=True)
class _Row:
    """The difference of two series: its mean, over how many replicas and at how many labels."""

    value: float
    lower: float
    upper: float
    replicas: int
    infinite: int
    labels: float = math.nan


@sheets.kind("pairs", title="Paired differences", options=("baseline",))
def draw(frame: pd.DataFrame, options: Options) -> tuple[Figure, str]:
    """Draw mean differences over shared replicas, at the last number of labels that both have."""
    layout = sheets.arranged(frame, [PRIMARY, "labels"], options)
    looks = {s.label: s.look for s in layout.series}
    names = sorted(looks, key=lambda name: looks[name])
    if len(names) < 2:
        message = f"Pairs need at least two series; got {', '.join(names)}."
        raise ValueError(message)
    baseline = options.spec.baseline or ("all" if len(names) <= _ALL else names[0])
    check_choice("baseline", baseline, ["all", *names])
    pairs = pairs_of(names, baseline)
    words = [f"{a} − {b}" if baseline == "all" else a for a, b in pairs]
    found = [_rows(panel, pairs, options.spec.level) for panel in layout.panels]
    if not any(math.isfinite(row.value) for rows in found for row in rows if row is not None):
        message = "No pair can be compared: none shares a panel and replicas with finite values."
        raise ValueError(message)
    fig, panels = sheets.grid(
        [p.title for p in layout.panels],
        options,
        heights=[forest_inches(words)],
        side=names_inches(words),
        sharex="none",
    )
    for (ax,), rows in zip(panels, found, strict=True):
        forest(
            ax,
            words,
            [math.nan if r is None else r.value for r in rows],
            [math.nan if r is None else r.lower for r in rows],
            [math.nan if r is None else r.upper for r in rows],
            "mean difference",
            [None if baseline == "all" else looks[a] for a, _ in pairs],
            zero=True,
        )
    metrics = " or ".join(dict.fromkeys(short(p.metric) for p in layout.panels))
    to = "" if baseline == "all" else f" to {baseline}"
    # A long name is in the caption only.
    short_to = to if len(to) <= _LONG else " to the baseline"
    flat = [own[0] for own in panels]
    x_words = [f"difference in {short(panel.metric)}{short_to}" for panel in layout.panels]
    sheets.labels(fig, flat, x_words, None, side=names_inches(words))
    return fig, _caption(layout, pairs, found, f"{metrics}{to}", options)


def _rows(panel: Panel, pairs: list[tuple[str, str]], level: float) -> list[_Row | None]:
    by_name = {s.label: s for s in panel.series}
    return [
        _compare(by_name[a], by_name[b], panel.metric, level)
        if a in by_name and b in by_name
        else None
        for a, b in pairs
    ]


def _compare(a: Series, b: Series, metric: str, level: float) -> _Row | None:
    _, first, second = np.intersect1d(a.replicas, b.replicas, return_indices=True)
    if len(first) == 0:
        return None
    both = [
        LabelCurves(s.tables["labels"][rows], s.tables[metric][rows])
        for s, rows in ((a, first), (b, second))
    ]
    count = last_common(both)
    one, two = (curve.at(count) for curve in both)
    if np.isnan([one, two]).any():
        return None
    labels = float(count.mean())
    infinite = int((np.isinf(one) | np.isinf(two)).sum())
    if infinite:
        return _Row(math.nan, math.nan, math.nan, len(first), infinite, labels)
    found = paired_difference(one, two, level=level)
    if len(first) == 1:
        return _Row(float(found.value), math.nan, math.nan, 1, 0, labels)
    return _Row(float(found.value), *found.ends, len(first), 0, labels)


def _caption(
    layout: Layout,
    pairs: list[tuple[str, str]],
    found: list[list[_Row | None]],
    words: str,
    options: Options,
) -> str:
    rows = [row for part in found for row in part if row is not None]
    counts = sorted({row.replicas for row in rows})
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    infinite, apart = [], []
    for panel, part in zip(layout.panels, found, strict=True):
        place = f" in {panel.title}" if panel.title else ""
        for (a, b), row in zip(pairs, part, strict=True):
            if row is None:
                apart.append(f"{a} and {b}{place}")
            elif row.infinite:
                infinite.append(f"{a} and {b}{place} ({row.infinite} of {row.replicas} replicas)")
    labels = sorted(round(row.labels) for row in rows)
    span = f"{labels[0]}" if labels[0] == labels[-1] else f"{labels[0]} to {labels[-1]}"
    return caption(
        f"Paired differences in {words}{panel_words(layout)}, at the last number of labels that "
        f"both have ({span}, mean over replicas; linear in its logarithm between rows): means over "
        f"{count} shared replicas; below 0 the first is better where small is good.",
        f"Intervals: {percent(options.spec.level)} bootstrap over replicas, each on its own (not "
        "corrected for their number); hollow where the interval holds 0."
        if counts[-1] > 1
        else "There is one replica, so there are no intervals.",
        f"Not compared, because values are infinite: {', '.join(infinite)}." if infinite else "",
        f"Not compared, for no replica or number of labels of both: {', '.join(apart)}."
        if apart
        else "",
        *layout.notes,
    )
