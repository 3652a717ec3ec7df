"""Paired comparisons at the end of the runs, as a forest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rlhf_theory.errors import check_choice
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
    """The difference of two series: its mean with interval, and over how many replicas."""

    value: float
    lower: float
    upper: float
    replicas: int
    infinite: int


@sheets.kind("pairs", title="Paired differences", options=("baseline",))
def draw(frame: pd.DataFrame, options: Options) -> tuple[Figure, str]:
    """Draw mean differences over shared replicas with intervals, one row per pair."""
    layout = sheets.arranged(frame, [PRIMARY], options)
    looks = {s.label: s.look for s in layout.series}
    names = sorted(looks, key=lambda name: looks[name])
    if len(names) < 2:
        message = f"Pairs need at least two series; got {', '.join(names)}."
        raise ValueError(message)
    baseline = options.spec.baseline or ("all" if len(names) <= _ALL else names[0])
    check_choice("baseline", baseline, ["all", *names])
    pairs = (
        list(combinations(names, 2))
        if baseline == "all"
        else [(name, baseline) for name in names if name != baseline]
    )
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
    ends = _ends(panel)
    return [
        _compare(by_name[a], by_name[b], panel.metric, ends, level)
        if a in by_name and b in by_name
        else None
        for a, b in pairs
    ]


def _ends(panel: Panel) -> dict[str, float]:
    """Return the last point that all series of a kind share, by what they count."""
    ends: dict[str, float] = {}
    for counted in {s.counted for s in panel.series}:
        shared = set.intersection(
            *(set(s.place.tolist()) for s in panel.series if s.counted == counted)
        )
        if not shared:
            message = f"Series of panel {panel.title or 1!r} share no {counted}; draw fewer cells."
            raise ValueError(message)
        ends[counted] = max(shared)
    return ends


def _compare(
    a: Series, b: Series, metric: str, ends: dict[str, float], level: float
) -> _Row | None:
    _, first, second = np.intersect1d(a.replicas, b.replicas, return_indices=True)
    if len(first) == 0:
        return None
    one, two = [
        s.tables[metric][rows, int(np.flatnonzero(s.place == ends[s.counted])[0])]
        for s, rows in ((a, first), (b, second))
    ]
    infinite = int((np.isinf(one) | np.isinf(two)).sum())
    if infinite:
        return _Row(math.nan, math.nan, math.nan, len(first), infinite)
    found = paired_difference(one, two, level=level)
    if len(first) == 1:
        return _Row(float(found.value), math.nan, math.nan, 1, 0)
    return _Row(float(found.value), *found.ends, len(first), 0)


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
    ends = {counted: end for panel in layout.panels for counted, end in _ends(panel).items()}
    at = " and ".join(
        f"after {end:g} rounds" if counted == "round" else f"from {end:g} pairs"
        for counted, end in sorted(ends.items(), reverse=True)
    )
    return caption(
        f"Paired differences in {words}, {at}{panel_words(layout)}: means over {count} shared "
        "replicas; below 0 the first is better where small is good.",
        f"Intervals: {percent(options.spec.level)} bootstrap over replicas, each on its own (not "
        "corrected for their number); hollow where the interval holds 0."
        if counts[-1] > 1
        else "There is one replica, so there are no intervals.",
        f"Not compared, because values are infinite: {', '.join(infinite)}." if infinite else "",
        f"Not compared, because they share no replica: {', '.join(apart)}." if apart else "",
        *layout.notes,
    )
