"""Theorem ``offline-pessimism``: what pessimism guarantees offline, and how fast the gap falls."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rlhf_theory.evaluation.statistics import (
    Slope,
    clopper_pearson,
    line_slope,
    mean_interval,
    resample,
    slope_bootstrap,
)
from rlhf_theory.theorems.card import Check, Part, Sabotage, Sweep, Theorem
from rlhf_theory.theorems.checks import below, fact, near, often
from rlhf_theory.theorems.frames import select
from rlhf_theory.theorems.offline_pessimism_figure import LOOKS, draw
from rlhf_theory.theorems.offline_pessimism_study import (
    RIGHT,
    base_cell,
    limit_constant,
    measure,
    parts,
    rows,
    table,
    world_of,
)
from rlhf_theory.theorems.spread import label_spread

# Option I is solved to 1e-10 in units of reward; a bound may be missed by that.
_ROUNDING = 1e-9
_SLACK = 0.05
_SLOPE_SLACK = 0.1
_BOTH = ("Option I", "Option II")


# --------------------------------------------------------------------------- fits


def _slope(frame: pd.DataFrame, learner: str, sweep: Sweep) -> Slope:
    n, gap = table(rows(frame, "learners", learner))
    return slope_bootstrap(n, gap, window=(sweep["slope_from"], np.inf))


# --------------------------------------------------------------------------- judge


def _held(frame: pd.DataFrame, name: str, learner: str, sweep: Sweep) -> Check:
    """Return whether the bound held often enough, in the worst of all cells of its rule."""
    part = frame[(frame["learner"] == learner) & (frame["study"] != "rules")]
    cell = part.groupby(["study", "setting", "pairs"])["excess"]
    hits = cell.agg(lambda e: int((e <= _ROUNDING).sum()))
    share = clopper_pearson(hits.to_numpy(), cell.size().to_numpy())
    return often(
        f"{name}: how often the bound held, worst of {hits.size} worlds and sample sizes",
        share.at(int(np.argmin(share.lower))),
        1.0 - sweep["delta"],
        f"at least 1 − δ = {1 - sweep['delta']:g} (all of the interval)",
    )


def _implied(frame: pd.DataFrame) -> Check:
    """Return whether the bounds hold whenever the set contains the truth, for any radius."""
    inside = frame[frame["event"] == 1.0]
    outside = frame[frame["event"] == 0.0]
    broken = int((inside["excess"] > _ROUNDING).sum())
    return fact(
        f"bounds broken while the set contains θ*, any radius ({len(inside):,} policies)",
        broken,
        f"0; of the {len(outside):,} policies whose set misses θ*, "
        f"{(outside['excess'] > _ROUNDING).mean():.0%} break it",
        passed=broken == 0 and len(inside) > 0,
    )


def _limit(frame: pd.DataFrame, learner: str, sweep: Sweep) -> Check:
    """Return whether the gap has the limit that its bonus and its noise give it, over all worlds.

    The mean over worlds of gap over limit: its interval has a half width of .02 for the options
    and .06 for the greedy learner (128 replicas), so that a right algorithm fails only where it is
    off by more than 3.5 standard errors (.05 % for each of three checks). With half the radius the
    options have .31 and .37 of their limit.
    """
    part = select(frame, study="limit", learner=learner)
    ratio = part.assign(ratio=part["gap"] / part["limit"]).groupby("replica")["ratio"].mean()
    return near(
        f"{learner}: gap over its limit, n = {sweep['pairs_limit']:.0e}, mean over "
        f"{part['setting'].nunique()} worlds",
        mean_interval(ratio.to_numpy()),
        1.0,
        _SLACK,
        f"1 within {_SLACK:.0%} and the 95 % interval",
    )


def _order(frame: pd.DataFrame, sweep: Sweep) -> Check:
    """Return whether the radius grows with the dimension no faster than its root."""
    at = np.array(sweep["dims"], dtype=float)
    parts = [rows(frame, "dimension", "Option I", f"{d}") for d in sweep["dims"]]
    over = [table(p, "right")[1][:, -1] / table(p, "coverage")[1][:, -1] for p in parts]
    return below(
        "Option I: power of d in the bound over C*/√n",
        resample(np.stack(over, axis=1), line_slope(np.log(at))).at(0),
        0.5,
        "below 1/2 (all of the interval)",
    )


def _judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    return [
        _held(frame, "Option I against π*, π0 and the worst for Option II", "Option I", sweep),
        _held(frame, "Option II against every comparator", "Option II", sweep),
        _held(frame, "Option II with a likelihood set (R4)", "likelihood set", sweep),
        _implied(frame),
        _order(frame, sweep),
        *(_limit(frame, learner, sweep) for learner in ("greedy", *_BOTH)),
        near(
            f"greedy: slope of the gap, n ≥ {sweep['slope_from']:,}",
            _slope(frame, "greedy", sweep),
            -1.0,
            _SLOPE_SLACK,
            f"−1 within {_SLOPE_SLACK:g} and the 95 % interval",
        ),
    ]


# --------------------------------------------------------------------------- card


def _caption(frame: pd.DataFrame, sweep: Sweep) -> str:
    world = sweep["world"]
    replicas = frame["replica"].nunique()
    return (
        f"Offline learners on n pairs from π0 × π0 ({world['contexts']} contexts, "
        f"{world['actions']} actions, d = {world['dim']}, η = {world['eta']:g}). Learners: mean "
        "gap over the predicted 1/n limit of the greedy plug-in (1 is that limit; dotted, those of "
        "the options). Theorem: both sides for the comparator π*, the left with its KL term, the "
        "right dashed and falling like 1/√n; dotted, the 1/n limit of greed. Tightness: right over "
        "left side for Option II, by rule for the radius; line and band are median and 5–95 % "
        "quantiles over replicas. Dimension and coverage (behaviour (1−k)π0 + kπ*, π0 peaked away "
        "from good actions): Option II; dotted, greedy. Coefficient: left sides against "
        "C* = √n |E[φ(π*) − φ(π0)]| in the norm of Σ⁻¹, in worlds whose π0 is more and more "
        "peaked; same colours. All other bands: 95 % bootstrap intervals of the mean over "
        f"{replicas:,} replicas."
    )


def _constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    world = world_of(base_cell(sweep), {**sweep, "replicas": 1})
    numbers: dict[str, float | str] = label_spread(world) | {
        "tr(F⁻¹C*)/(2η)": limit_constant(sweep),
    }
    for learner in _BOTH:
        part = rows(frame, "learners", learner)
        part = part[part["pairs"] == part["pairs"].max()]
        ratio = float((part["right"] / part["left"]).median())
        numbers[f"{learner}: bound over left side at the largest n (median)"] = ratio
    part = rows(frame, "learners", "Option I")
    numbers["C* (Option I, largest n)"] = float(
        part.loc[part["pairs"] == part["pairs"].max(), "coverage"].mean()
    )
    for learner in ("greedy", *_BOTH):
        part = select(frame, study="limit", learner=learner)
        limits = part.groupby("setting")["limit"].mean() * sweep["pairs_limit"]
        numbers[f"{learner}: limit of n × gap, over worlds"] = (
            f"{limits.min():.3g} to {limits.max():.3g}"
        )
    for learner in LOOKS:
        slope = _slope(frame, learner, sweep)
        numbers[f"{learner}: slope, n ≥ {sweep['slope_from']:,}"] = (
            f"{slope.value:.3f} ({slope.lower:.3f} to {slope.upper:.3f})"
        )
    for learner in ("Option I, β/10", "Option II, β/10"):
        part = rows(frame, "learners", learner)
        numbers[f"{learner}: set contains θ*, bound held (all n)"] = (
            f"{part['event'].mean():.1%}, {(part['excess'] <= _ROUNDING).mean():.1%}"
        )
    return numbers


_FULL = {
    "replicas": 1024,
    "block": 64,
    "delta": 0.05,
    "theta_bound": 1.0,
    "world": {
        "contexts": 20,
        "actions": 10,
        "dim": 5,
        "eta": 0.1,
        "theta_norm": 0.75,
        "reference": "uniform",
        "seed": 0,
    },
    "pairs": [100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000],
    "pairs_few": [100, 1000, 10_000, 100_000, 1_000_000],
    "slope_from": 100_000,
    "dims": [2, 5, 10, 20],
    "coverages": [0.0, 0.1, 0.3, 0.9],
    "peak": 2.0,
    "peaks": [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0],
    "pairs_fixed": 100_000,
    "pairs_limit": 10_000_000_000,
    **RIGHT,
    "rules": ["R1'", "R2'", "R4", "R5"],
    "pairs_rules": [100, 1000, 10_000, 100_000, 1_000_000],
    "small": {"contexts": 3, "actions": 4, "dim": 3},
    "pairs_likelihood": [100, 10_000],
}


def _of_learners(part: Part) -> bool:
    """Return whether a part is of the worlds that sabotages are tried in."""
    return part.settings["study"] in ("learners", "limit")


def _wrong(name: str, **settings: float | str) -> Sabotage:
    return Sabotage(name=name, settings=settings, touches=_of_learners)


_SABOTAGES = (
    _wrong("sign of the bonus flipped", bonus_factor=-1.0),
    _wrong("greed in place of pessimism", bonus_factor=0.0),
    _wrong("radius halved", bonus_factor=0.5),
    _wrong("the worst action everywhere", plays="the worst action"),
    _wrong("labels ignored", misread=0.5),
    _wrong("winners taken for losers", misread=1.0),
    _wrong("plans with 1.2 η", planning_factor=1.2),
)

THEOREM = Theorem(
    name="offline-pessimism",
    order=1,
    title="Pessimism offline: the loss against any comparator is bounded by its coverage",
    claim=(
        "With probability at least 1 − δ, for every comparator π: for Option II (pointwise bonus) "
        "J(π) − J(π̂) + η E KL(π‖π̂) ≤ 2β E_{x,a∼π} |φ(x,a) − φ(x,π0)|_{Σ⁻¹}; for Option I "
        "(expected bonus) the same with 2β |E_x[φ(x,π) − φ(x,π0)]|_{Σ⁻¹}. So both are 2β C*/√n, "
        "with C* a coefficient of how π is covered and β growing no faster than √d. With a fixed η "
        "the gap to π* falls faster, like 1/n: it tends to tr(F⁻¹ E Cov_{π*}(φ))/(2ηn), which "
        "greed has too, and E Var_{π*}(b)/(2η), the price of the bonus b."
    ),
    source="[2312.11456], offline theorem, Options I and II (Theorem 1 of the talk); KL terms and "
    "factor 2β as derived in the theory sheet, 1.2; 1/n limits: identity I4",
    assumptions=(
        "Linear reward with |θ*| = 0.75 ≤ B = 1, Bradley–Terry labels, design fixed in advance.",
        "The confidence set contains θ* with probability 1 − δ (rule R1′ here, by default).",
        "The 1/n limits: π0 × π0 sees every direction, the ball is inactive, and n is so large "
        "that errors of the reward are small against η (n = 10¹⁰; at 10⁶ the bonus still is not).",
    ),
    departures=(
        "The radius is R1′ of the theory sheet, with explicit constants, in place of c√d.",
        "Option I is checked against the comparators π*, π0 (where its bound is 0) and the worst "
        "of Option II; Option II against the worst of all comparators, which is closed-form.",
        "Ensembles are Bayesian bootstraps of the linear model, centred per context.",
    ),
    quick={
        **_FULL,
        "replicas": 128,
        "pairs": [100, 1000, 10_000, 100_000, 1_000_000],
        "pairs_few": [100, 10_000, 1_000_000],
        "dims": [2, 5, 20],
        "coverages": [0.0, 0.1, 0.9],
        "peaks": [0.0, 1.0, 2.0, 3.0],
        "pairs_rules": [100, 10_000, 1_000_000],
    },
    full=_FULL,
    version=2,
    cost=3.0,
    parts=parts,
    measure=measure,
    judge=_judge,
    draw=draw,
    caption=_caption,
    constants=_constants,
    sabotages=_SABOTAGES,
)
