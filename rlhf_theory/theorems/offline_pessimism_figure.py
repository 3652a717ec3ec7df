"""The figure of the theorem ``offline-pessimism``."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_theory.evaluation.statistics import mean_interval
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.plots.style import SeriesStyle
from rlhf_theory.theorems.card import Sweep
from rlhf_theory.theorems.frames import select
from rlhf_theory.theorems.offline_pessimism_study import (
    against_coverage,
    limit_constant,
    rows,
    table,
)
from rlhf_theory.theorems.panels import dotted, interval_curve

LOOKS = {
    "greedy": 1,
    "Option I": 2,
    "Option II": 0,
    "Option I, β/10": 8,
    "Option II, β/10": 6,
    "ensemble minimum": 3,
    "UWO": 4,
}
"""Learners and the number of their style."""

_BOTH = ("Option I", "Option II")


def _mean_curve(ax: Axes, part: pd.DataFrame, column: str, label: str, look: SeriesStyle) -> None:
    curves.mean_curve(ax, *table(part, column), label, look)


def draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    """Draw the figure from the curves."""
    fig, panels = style.figure(3, 2, aspect=0.98)
    _draw_learners(panels[0], frame, sweep)
    _draw_bounds(panels[1], frame, sweep)
    _draw_rules(panels[2], frame, sweep)
    _draw_settings(panels[3], frame, "dimension", [str(d) for d in sweep["dims"]], "d = {}")
    ks = [f"{k:g}" for k in sweep["coverages"]]
    _draw_settings(panels[4], frame, "coverage", ks, "k = {}")
    _draw_coefficient(panels[5], frame, sweep)
    axes.legend(fig, panels[:2])
    return fig


def _draw_learners(ax: Axes, frame: pd.DataFrame, sweep: Sweep) -> None:
    axes.log_axes(ax)
    limit = limit_constant(sweep)
    for learner, index in LOOKS.items():
        part = rows(frame, "learners", learner)
        scaled = part.assign(ratio=part["gap"] * part["pairs"] / limit)
        _mean_curve(ax, scaled, "ratio", learner, style.series(index))
    curves.level(ax, 1.0, "tr(F⁻¹C*)/(2ηn)", color="ink")
    for learner in _BOTH:
        # The peak 0 is the base world; there the limit is a constant over n.
        part = select(frame, study="limit", learner=learner, setting="0")
        level = float(part["limit"].mean()) * sweep["pairs_limit"] / limit
        span = np.array([sweep["pairs"][0], sweep["pairs"][-1]], dtype=float)
        dotted(ax, span, np.full(2, level), style.series(LOOKS[learner]).color, width=1.0)
    ax.set(title="Learners", xlabel="pairs n", ylabel="gap / [tr(F⁻¹C*)/(2ηn)]")


def _draw_bounds(ax: Axes, frame: pd.DataFrame, sweep: Sweep) -> None:
    axes.log_axes(ax)
    for learner in _BOTH:
        look = style.series(LOOKS[learner])
        part = rows(frame, "learners", learner)
        _mean_curve(ax, part, "left", learner, look)
        n, right = table(part, "right")
        curves.bound(ax, n, right.mean(axis=0), f"bound, {learner}", look.color)
    _mean_curve(ax, rows(frame, "learners", "greedy"), "left", "greedy", style.series(1))
    # Near the optimum both Kullback-Leibler terms are equal: the left side is twice the gap.
    n = np.array([sweep["pairs"][0], sweep["pairs"][-1]], dtype=float)
    limit = 2.0 * limit_constant(sweep) / n
    dotted(ax, n, limit, "ink", width=1.1)
    ax.set(title="Theorem", xlabel="pairs n", ylabel="gap + η KL(π*‖π̂)")


def _draw_rules(ax: Axes, frame: pd.DataFrame, sweep: Sweep) -> None:
    axes.log_axes(ax)
    for index, name in enumerate(sweep["rules"]):
        look = style.series(index)
        part = rows(frame, "rules", "Option II", name)
        ratio = part.assign(ratio=part["right"] / part["left"])
        n, values = table(ratio, "ratio")
        low, middle, high = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
        curves.band(ax, n, low, middle, high, name, look.color, look.line)
    curves.level(ax, 1.0, color="muted")
    ax.set(title="Tightness", xlabel="pairs n", ylabel="bound / left side")
    axes.legend(ax.figure, [ax], inside=ax, loc="upper left")  # type: ignore[arg-type]


def _draw_settings(
    ax: Axes, frame: pd.DataFrame, study: str, settings: list[str], words: str
) -> None:
    axes.log_axes(ax)
    for index, setting in enumerate(settings):
        look = style.series(index)
        part = rows(frame, study, "Option II", setting)
        _mean_curve(ax, part, "gap", words.format(setting), look)
        n, gap = table(rows(frame, study, "greedy", setting))
        dotted(ax, n, gap.mean(axis=0), look.color, width=0.8)
    ax.set(title=study.capitalize(), xlabel="pairs n", ylabel="gap J(π*) − J(π̂)")
    axes.legend(ax.figure, [ax], inside=ax, loc="lower left")  # type: ignore[arg-type]


def _draw_coefficient(ax: Axes, frame: pd.DataFrame, sweep: Sweep) -> None:
    axes.log_axes(ax)
    for learner in ("greedy", *_BOTH):
        look = style.series(LOOKS[learner])
        at, left = against_coverage(frame, learner)
        mean = mean_interval(left)
        interval_curve(ax, at, mean, learner, look)
        curves.points(ax, at, mean.value, color=look.color, size=2.4)
    part = select(frame, study="coefficient", learner="Option I")
    cell = part.groupby("setting")[["coverage", "right"]].mean().sort_values("coverage")
    look = style.series(LOOKS["Option I"])
    curves.bound(ax, cell["coverage"], cell["right"], "bound, Option I", look.color)
    ax.set(
        title=f"Coefficient, n = {axes.number(sweep['pairs_fixed'])}",
        xlabel="C*",
        ylabel="gap + η KL(π*‖π̂)",
    )
