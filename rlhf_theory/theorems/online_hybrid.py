"""Theorem ``online-hybrid``: offline data first, then pi0 as the enhancer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_theory.arrays import to_numpy
from rlhf_theory.evaluation.coverage import fast_rate_constant, fisher_of_sampling
from rlhf_theory.evaluation.statistics import Interval, mean_interval
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Check, Part, Sweep, Theorem
from rlhf_theory.theorems.checks import near
from rlhf_theory.theorems.frames import select
from rlhf_theory.theorems.online_runs import (
    Certificate,
    TwoTerms,
    Watch,
    Watched,
    bound_held,
    certificates,
    curves_of,
    draw_bounds,
    exploring_learners,
    played,
    table,
)
from rlhf_theory.theorems.panels import dotted, interval_points, remark, stacked
from rlhf_theory.theorems.spread import label_spread
from rlhf_theory.theorems.sweeps import linear_world, replica_parts
from rlhf_theory.worlds.bandit import Bandit

# Slack of the predicted gap at the largest number of offline pairs, beyond Monte Carlo error: set
# before looking. The prediction is a limit, and takes pi* for the main agent of all rounds.
_SLACK = 0.20

_HYBRID = "π0 as enhancer"
# Black and grey: the colours belong to the enhancers.
_LOOKS = {
    "poor": style.SeriesStyle("ink", "-", "o"),
    "good": style.SeriesStyle("muted", (0, (5, 1.6)), "s"),
}
_NO_PAIRS = style.SeriesStyle("ink", (0, (1.2, 1.2)), "")
_COVERAGE = {"poor": "from π0", "good": "half from π*"}


# --------------------------------------------------------------------------- measure


def _world(sweep: Sweep, replicas: int) -> Bandit:
    return linear_world(
        sweep,
        replicas,
        eta=sweep["eta"],
        theta_norm=sweep["norm"],
        reference="peaked",
        peak=sweep["peak"],
    )


def _runs(sweep: Sweep) -> list[tuple[str, str, int]]:
    """Return (learner, coverage, offline pairs) of every run."""
    runs = [(_HYBRID, "poor", 0)]
    for coverage in _COVERAGE:
        runs += [(_HYBRID, coverage, n) for n in sweep["offline"]]
    others = [name for name in exploring_learners(sweep) if name != _HYBRID]
    return runs + [(name, "poor", sweep["shown"]) for name in others]


def _parts(sweep: Sweep) -> Sequence[Part]:
    names = ("learner", "coverage", "offline")
    return replica_parts(sweep, [dict(zip(names, run, strict=True)) for run in _runs(sweep)])


def _measure(sweep: Sweep, part: Part, key: Key) -> pd.DataFrame:
    """Return curves per replica.

    Columns learner, coverage, offline (pairs), round, replica, labels, gap, left, one bound (a) per
    radius rule, and the two terms of the theorem, enhancer and coverage_term.
    """
    name, coverage, offline = (part.settings[k] for k in ("learner", "coverage", "offline"))
    world = _world(sweep, sweep["replicas"])
    rules = certificates(sweep)
    watches: tuple[Watch, ...] = (
        *(Certificate(name, rule) for name, rule in rules.items()),
        TwoTerms(rules["R2′"], world.optimum),
    )
    frame = curves_of(
        Watched(learner=exploring_learners(sweep)[name], watches=watches),
        replace(world, behaviour=_dial(sweep, coverage)),
        sweep,
        part,
        key.child("rounds"),
        offline_pairs=offline,
    )
    frame = frame.rename(columns={"coverage": "coverage_term"})
    return frame.assign(learner=name, coverage=coverage, offline=offline)


# --------------------------------------------------------------------------- curves


def _part(frame: pd.DataFrame, learner: str, coverage: str, offline: int) -> pd.DataFrame:
    part = select(frame, learner=learner, offline=offline)
    # Without offline pairs there is nothing to cover.
    return part if offline == 0 else select(part, coverage=coverage)


def _dial(sweep: Sweep, coverage: str) -> float:
    return float(sweep["good"]) if coverage == "good" else 0.0


def _sizes(sweep: Sweep) -> list[int]:
    return [0, *sweep["offline"]]


def _predicted(sweep: Sweep, coverage: str, offline: float) -> float:
    """Return the gap that the Fisher information of all pairs implies, pi* for the main agent."""
    world = _world(sweep, 1)
    x, weights = world.population
    law = world.covering(_dial(sweep, coverage)).log_probs(x)
    off = fisher_of_sampling(x, weights, law, law, world.theta_star)
    on = fisher_of_sampling(x, weights, world.log_pi_star, x.log_pi0, world.theta_star)
    total = offline * off + float(sweep["batch"] * sweep["rounds"]) * on
    limit = fast_rate_constant(total, x, weights, world.log_pi_star, world.problem.eta)
    return float(to_numpy(limit)[0])


def _final(frame: pd.DataFrame, coverage: str, offline: int) -> Interval:
    """Return the mean gap of the hybrid learner after the last round."""
    return mean_interval(table(_part(frame, _HYBRID, coverage, offline), "gap")[:, -1])


def _over_prediction(frame: pd.DataFrame, sweep: Sweep, coverage: str, offline: int) -> Interval:
    want, found = _predicted(sweep, coverage, offline), _final(frame, coverage, offline)
    return Interval(found.value / want, found.lower / want, found.upper / want)


# --------------------------------------------------------------------------- judge


def _judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    parts = [_part(frame, *run) for run in _runs(sweep)]
    worst = f"worst of {len(parts)} runs"
    most, delta = max(sweep["offline"]), sweep["delta"]
    return [
        *(
            bound_held(
                f"bound (a) with {rule} held at all rounds, {worst}",
                parts,
                [f"bound {rule}"],
                delta,
            )
            for rule in certificates(sweep)
        ),
        bound_held(
            "bound of the theorem, β‖Eφ(π¹) − Eφ(π0)‖ + β‖Eφ(π*) − Eφ(π0)‖ with R2′, held at all "
            f"rounds, {worst}",
            parts,
            ["enhancer", "coverage_term"],
            delta,
        ),
        *(
            near(
                f"final gap with {most} offline pairs {words}, over its prediction",
                _over_prediction(frame, sweep, coverage, most),
                1.0,
                _SLACK,
                f"1 within {_SLACK:.0%} and the 95 % interval",
            )
            for coverage, words in _COVERAGE.items()
        ),
    ]


# --------------------------------------------------------------------------- draw


def _draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    fig, (rounds, add, enhancers, bounds) = style.figure(2, 2, aspect=0.72)
    axes.log_axes(rounds, "xy")
    axes.log_axes(enhancers, "y")
    axes.log_axes(bounds, "y")
    _draw_labels(rounds, frame, sweep)
    _draw_added(add, frame, sweep)
    for index, name in enumerate(exploring_learners(sweep)):
        gap = table(_part(frame, name, "poor", sweep["shown"]), "gap")
        curves.mean_curve(enhancers, np.arange(gap.shape[1]), gap, name, style.series(index))
    _draw_bounds(bounds, frame, sweep)
    enhancers.set(
        title=f"Enhancers after {sweep['shown']} offline pairs",
        xlabel="round",
        ylabel="J(π*) − J(π¹)",
    )
    axes.legend(fig)
    return fig


def _draw_labels(panel: Axes, frame: pd.DataFrame, sweep: Sweep) -> None:
    for size in _sizes(sweep):
        for coverage in _COVERAGE if size else ("poor",):
            part = _part(frame, _HYBRID, coverage, size)
            used = table(part, "labels").mean(axis=0)
            # Without offline pairs the first policy has no label, and no place on this axis.
            first = 0 if size else 1
            look = _LOOKS[coverage] if size else _NO_PAIRS
            curves.mean_curve(panel, used[first:], table(part, "gap")[:, first:], "", look)
    panel.set(title="Gap against all labels", xlabel="labels, offline included")
    panel.set_ylabel("J(π*) − J(π¹)")


def _draw_added(panel: Axes, frame: pd.DataFrame, sweep: Sweep) -> None:
    axes.log_axes(panel, "xy")
    grid = np.geomspace(0.7 * min(sweep["offline"]), 1.4 * max(sweep["offline"]))
    none = _final(frame, "poor", 0)
    curves.level(panel, none.value)
    remark(panel, "no offline pairs", (grid[-1], none.value), (0, 3), style.MUTED)
    for coverage, words in _COVERAGE.items():
        found = stacked([_final(frame, coverage, n) for n in sweep["offline"]])
        look = _LOOKS[coverage]
        interval_points(panel, sweep["offline"], found, f"offline pairs {words}", look)
        dotted(panel, grid, [_predicted(sweep, coverage, n) for n in grid], look.color)
    panel.set(title="What offline data add", xlabel="offline pairs", ylabel="gap at the end")


def _draw_bounds(panel: Axes, frame: pd.DataFrame, sweep: Sweep) -> None:
    part = _part(frame, _HYBRID, "poor", sweep["shown"])
    lines = {"two terms, R2′": (played(part, "enhancer") + played(part, "coverage_term"), 8)}
    for rule, above in (("R2′", 8), ("R4", -11)):
        lines[f"bound (a), {rule}"] = (played(part, f"bound {rule}"), above)
    draw_bounds(panel, played(part, "left"), lines)
    panel.set_title(f"Bounds after {sweep['shown']} offline pairs")


def _caption(frame: pd.DataFrame, sweep: Sweep) -> str:
    replicas = frame["replica"].nunique()
    return (
        f"Hybrid learning: offline pairs first, then {sweep['batch']} pairs a round of the main "
        "agent and π0, in a world whose π0 is peaked away from good actions. Top left: gap against "
        "all labels; dotted: no offline pairs, black: "
        f"{', '.join(map(str, sweep['offline']))} pairs from π0, grey dashed: as many from the "
        f"mixture of π0 and π* (weight {sweep['good']:g}). Top right: gap after "
        f"{sweep['rounds']} rounds, dotted as the Fisher information of all pairs predicts it. "
        "Bottom left: other enhancers after the same offline data from π0. Bands and bars there: "
        f"95 % bootstrap intervals of the mean over {replicas} replicas. Bottom right: left side "
        "of the theorem, median with a band from the 5 % to the 95 % quantile over replicas, below "
        "medians of the bounds: the two terms of the theorem and bound (a)."
    )


def _constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    for coverage, words in _COVERAGE.items():
        for size in _sizes(sweep):
            found = _final(frame, coverage, size)
            numbers[f"final gap, {size} offline pairs {words}; predicted"] = (
                f"{found.value:.4f}; {_predicted(sweep, coverage, size):.4f}"
            )
    for name in exploring_learners(sweep):
        gap = table(_part(frame, name, "poor", sweep["shown"]), "gap")[:, -1]
        numbers[f"final gap, {sweep['shown']} offline pairs from π0, {name}"] = float(gap.mean())
    part = _part(frame, _HYBRID, "poor", sweep["shown"])
    for rule in certificates(sweep):
        ratio = played(part, f"bound {rule}") / played(part, "left")
        numbers[f"bound (a) / left side at the last round, median, {rule}"] = float(
            np.median(ratio[:, -1])
        )
    return numbers | label_spread(_world(sweep, 1))


_FULL: dict[str, Any] = {
    "replicas": 1024,
    "block": 128,
    "instance": 0,
    "contexts": 10,
    "actions": 8,
    "dim": 5,
    "eta": 0.3,
    "norm": 0.7,
    "theta_bound": 1.0,
    "peak": 3.0,
    "delta": 0.05,
    "lam": 1.0,
    "multiplier": 0.1,
    "batch": 64,
    "rounds": 12,
    "offline": [200, 1000, 5000],
    "shown": 200,
    "good": 0.5,
}

THEOREM = Theorem(
    name="online-hybrid",
    order=4,
    title="Offline data first, then π0 explores: the hybrid algorithm",
    claim=(
        "With π0 as the enhancer and offline data in Σ_t, on the event ‖θ̂_t − θ*‖_{Σ_t} ≤ β_t for "
        "all t: J(π*) − J(π¹_t) + η KL(π* ‖ π¹_t) ≤ β_t ‖E φ(x,π¹_t) − E φ(x,π0)‖_{Σ_t⁻¹} + "
        "β_t ‖E φ(x,π*) − E φ(x,π0)‖_{Σ_t⁻¹}. The first term is at most β_t/√m in some round t0, "
        "T = Õ(d); the second is how well offline and online data cover π* against π0. Bound (a) "
        "of the optimistic theorem holds here too and needs no π*."
    ),
    source="[2312.11456], hybrid theorem (talk, Theorem 2, part 2), constants from memory; the "
    "two-term form with explicit constants and bound (a) are derived in the theory sheet, 1.3",
    assumptions=(
        "Linear rewards with |φ| ≤ 1 and |θ*| ≤ B, B known; Bradley–Terry labels.",
        "Offline pairs are two draws from the behaviour policy: π0, or half π0 and half π*.",
        "The radius holds at all times (R2′, R4); R4 by Laplace's approximation of its integral.",
    ),
    departures=(
        "Σ sums observed pairs, offline ones included, unnormalised; the slide leaves out the "
        "offline ones.",
        "The bound is checked at every round with both terms, instead of at one round t0 with the "
        "first term replaced by its rate.",
        "The prediction of what offline data add (Fisher information of all pairs) is no part of "
        "the theorem; it is a limit, so agreement is required at the most offline pairs only.",
        "The constrained maximum of bound (a) is certified as far as the search with many starts "
        "finds the global one.",
        "|θ*| is smaller than the bound B, so that the norm ball is inactive in the limit.",
    ),
    quick={**_FULL, "replicas": 128, "rounds": 8, "offline": [200, 4000]},
    full=_FULL,
    cost=2.0,
    parts=_parts,
    measure=_measure,
    judge=_judge,
    draw=_draw,
    caption=_caption,
    constants=_constants,
)
