"""The figure of the theorem ``nash-general-preference``."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_theory.evaluation.statistics import clopper_pearson, mean_interval
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.theorems.card import Sweep
from rlhf_theory.theorems.nash_general_preference_study import (
    BRADLEY_TERRY,
    EQUILIBRIUM,
    GIBBS,
    NASH,
    PESSIMISTIC,
    exact,
    held,
    rows,
    table,
)
from rlhf_theory.theorems.panels import dotted, interval_points
from rlhf_theory.worlds.bandit import Game

_LOOKS = {
    name: style.series(k) for name, k in zip((*NASH, BRADLEY_TERRY), (0, 2, 3, 1), strict=True)
}


def draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    """Draw the figure from the curves."""
    fig, panels = style.figure(3, 2, aspect=0.98)
    _draw_learners(panels[0], frame, "logit")
    _draw_learners(panels[1], frame, "probability")
    _draw_dial(panels[2], frame)
    _draw_bound(panels[3], frame, sweep)
    _draw_held(panels[4], frame, sweep)
    _draw_offline(panels[5], frame, sweep)
    corners = ("upper left", "lower left", (0.0, 0.14), "lower left")
    for ax, corner in zip(panels[2:], corners, strict=True):
        axes.legend(fig, [ax], inside=ax, loc=corner)
    axes.legend(fig, panels[:2])
    return fig


def _draw_learners(ax: Axes, frame: pd.DataFrame, game: Game) -> None:
    axes.log_axes(ax)
    for name, look in _LOOKS.items():
        part = rows(frame, "rounds", name, game)
        _, gap = table(part)
        labels = table(part, "labels")[1].mean(axis=0)
        # The first policy has no label, and no place on this axis: it is pi0.
        curves.mean_curve(ax, labels[1:], gap[:, 1:], name, look)
    limit = exact(frame, "floor", game)
    curves.level(ax, limit, "Bradley–Terry, n = ∞", _LOOKS[BRADLEY_TERRY].color)
    curves.level(ax, exact(frame, "start", game), "π0", "muted")
    ax.set(title=f"{game.capitalize()} payoff", xlabel="labels", ylabel="exploitability")


def _draw_dial(ax: Axes, frame: pd.DataFrame) -> None:
    part = rows(frame, "population", GIBBS)
    at, limit = table(part)
    dotted(ax, at, limit[0], _LOOKS[BRADLEY_TERRY].color, "Bradley–Terry, n = ∞")
    for name, words, look in (
        (GIBBS, "Bradley–Terry", _LOOKS[BRADLEY_TERRY]),
        (EQUILIBRIUM, "Nash", _LOOKS[NASH[0]]),
    ):
        c, gap = table(rows(frame, "dial", name))
        interval_points(ax, c, mean_interval(gap), words, look)
    ax.set(title="Intransitivity", xlabel="intransitivity c", ylabel="exploitability")


def _draw_bound(ax: Axes, frame: pd.DataFrame, sweep: Sweep) -> None:
    axes.log_axes(ax)
    look = _LOOKS[NASH[0]]
    for index, c in enumerate(sweep["multipliers"]):
        part = rows(frame, "rounds", NASH[0], multiplier=c)
        labels, bound = table(part, "labels")[1].mean(axis=0), table(part, "bound")[1]
        if index == 0:
            curves.mean_curve(ax, labels[1:], table(part)[1][:, 1:], "exploitability", look)
        if c in sweep["shown"]:
            line = style.series(sweep["shown"].index(c)).line
            words = "bound" if c == 1.0 else f"bound, β × {c:g}"
            curves.curve(
                ax, labels[1:], bound[:, 1:].mean(axis=0), label=words, color="ink", style=line
            )
    curves.level(ax, exact(frame, "floor", "logit"), color=_LOOKS[BRADLEY_TERRY].color)
    _room_below(ax, 2.2)
    ax.set(title="Observable bound", xlabel="labels", ylabel="exploitability")


def _draw_held(ax: Axes, frame: pd.DataFrame, sweep: Sweep) -> None:
    axes.log_axes(ax, "x")
    distance = table(rows(frame, "rounds", NASH[0]), "distance")[1].max(axis=1)
    grid = np.geomspace(0.05, 1.0, 200)
    inside = [(distance <= c).mean() for c in grid]
    curves.curve(ax, grid, inside, label="R* in set", color="muted")
    for study, learner, words, look in (
        ("rounds", NASH[0], "online", _LOOKS[NASH[0]]),
        ("offline", PESSIMISTIC, "offline", style.series(4)),
    ):
        cs = sweep["multipliers" if study == "rounds" else "offline_multipliers"]
        cs = [c for c in cs if c > 0]
        hits = np.array([held(rows(frame, study, learner, multiplier=c)).sum() for c in cs])
        share = clopper_pearson(hits, frame["replica"].nunique())
        interval_points(ax, cs, share, words, look)
    curves.level(ax, 1.0 - sweep["delta"], "1 − δ")
    # Room for the legend to the left of the curve.
    ax.set(xlim=(5e-3, 1.4), ylim=(-0.05, 1.09))
    ax.set(title="How often bounds held", xlabel="multiplier of β", ylabel="share of replicas")


def _draw_offline(ax: Axes, frame: pd.DataFrame, sweep: Sweep) -> None:
    axes.log_axes(ax)
    for index, c in enumerate(sweep["offline_multipliers"]):
        part = rows(frame, "offline", PESSIMISTIC, multiplier=c)
        n, left = table(part)
        curves.mean_curve(ax, n, left, f"β × {c:g}", style.series(index))
    n, bound = table(rows(frame, "offline", PESSIMISTIC), "bound")
    curves.bound(ax, n, bound.mean(axis=0), "bound, β × 1")
    _room_below(ax, 2.6)
    ax.set(title="Offline", xlabel="pairs n", ylabel="exploitability + η KL(π*‖π̂)")


def _room_below(ax: Axes, decades: float) -> None:
    """Make room for a legend below falling curves."""
    low, high = ax.get_ylim()
    ax.set_ylim(low * 10.0**-decades, high)
