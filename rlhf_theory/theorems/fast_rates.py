"""Theorem ``fast-rates``: with a fixed penalty the gap of the plug-in policy falls like 1/n."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rlhf_theory.arrays import inner, to_numpy
from rlhf_theory.core import Solution
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.evaluation.coverage import fast_rate_constant, fisher_of_sampling
from rlhf_theory.evaluation.gaps import suboptimality
from rlhf_theory.evaluation.statistics import (
    Interval,
    line_slope,
    mean_interval,
    resample_means,
    slopes_between,
)
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Check, Part, Sabotage, Sweep, Theorem
from rlhf_theory.theorems.checks import near
from rlhf_theory.theorems.frames import select
from rlhf_theory.theorems.panels import dotted, interval_curve
from rlhf_theory.theorems.sabotaged_learners import misread
from rlhf_theory.theorems.spread import label_spread
from rlhf_theory.theorems.sweeps import block_of, linear_world, nested_data, replica_parts
from rlhf_theory.worlds.bandit import Bandit

# Slack of the agreement at the largest n, beyond Monte Carlo error: set before looking. The 95 %
# interval has a half width of .07 to .09 (384 replicas): a right algorithm fails a check only where
# it is off by more than 3.1 standard errors (.2 %), one that is off by 25 % passes in 2 % of cases.
_SLACK = 0.05
# Slopes before and after the crossover may differ from -1/2 and -1 by this, beyond Monte Carlo
# error; "before" and "after" mean a factor of 10 from it.
_SLOPE_SLACK = 0.1
_FAR = 10.0


# --------------------------------------------------------------------------- measure


def _world(sweep: Sweep, norm: float, replicas: int | None = None) -> Bandit:
    return linear_world(sweep, replicas, eta=min(sweep["penalties"]), theta_norm=norm)


def _parts(sweep: Sweep) -> Sequence[Part]:
    return replica_parts(sweep, [{"norm": norm} for norm in sweep["norms"]])


def _measure(sweep: Sweep, part: Part, key: Key) -> pd.DataFrame:
    """Fit nested data of increasing size and evaluate the plug-in policy of every penalty.

    Columns norm, penalty, pairs, replica, gap, constant.
    """
    norm = part.settings["norm"]
    # One key for all norms: their worst case is not a maximum over independent noise.
    first, world, key = block_of(part, _world(sweep, norm), key)
    x, weights = world.population
    reward = world.reward
    if reward is None:
        message = "The study needs a world with a reward."
        raise ValueError(message)
    truth = reward.rewards(x)
    fisher = fisher_of_sampling(x, weights, x.log_pi0, x.log_pi0, world.theta_star)
    best = {eta: gibbs_log_probs(truth, x.log_pi0, eta) for eta in sweep["penalties"]}
    constant = {
        eta: float(to_numpy(fast_rate_constant(fisher, x, weights, best[eta], eta))[0])
        for eta in sweep["penalties"]
    }
    rows = []
    fit: Solution[Any] | None = None
    for n, data in nested_data(world, sweep["pairs"], key):
        ridge = sweep["ridge"] + sweep["ridge_per_pair"] * n
        fit = bradley_terry_mle(misread(data, sweep["misread"]), ridge=ridge, start=fit)
        fitted = inner(x.phi, fit.require())
        for eta in sweep["penalties"]:
            plan = gibbs_log_probs(fitted, x.log_pi0, sweep["planning_factor"] * eta)
            gap = to_numpy(suboptimality(plan, best[eta], weights, eta))
            rows.append(
                {
                    "norm": norm,
                    "penalty": eta,
                    "pairs": n,
                    "replica": np.arange(first, first + gap.shape[0]),
                    "gap": gap,
                    "constant": constant[eta],
                }
            )
    return pd.concat([pd.DataFrame(row) for row in rows], ignore_index=True)


# --------------------------------------------------------------------------- curves


@dataclass(frozen=True, eq=False)
class _Curves:
    """Gaps ``(R, J, T)`` at one penalty, ``J`` norms and ``T`` sample sizes; limits ``(J,)``."""

    n: np.ndarray
    gaps: np.ndarray
    constants: np.ndarray
    penalty: float

    @property
    def ratio(self) -> np.ndarray:
        """``n gap / constant`` at the largest norm, shape ``(R, T)``; tends to 1 in the mean."""
        return np.asarray(self.n * self.gaps[:, -1, :] / self.constants[-1])

    @property
    def crossover(self) -> float:
        """``tr(F^-1 C*) / eta^2``: the limit needs n large against it; the largest over norms."""
        return float(2.0 * self.constants.max() / self.penalty)

    def worst(self, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
        """Return an interval for a function of worst-case curves ``(k, T)`` over the norms."""
        return resample_means([self.gaps], lambda m: statistic(m.max(axis=1)))

    def slope(self, low: float, high: float) -> Interval:
        """Return the slope of the worst case for ``low <= n <= high``; NaN below two points."""
        inside = (self.n >= low) & (self.n <= high)
        if inside.sum() < 2:
            return Interval(np.nan, np.nan, np.nan)
        slope = line_slope(np.log(self.n[inside]))
        return self.worst(lambda m: slope(m[:, inside])).at(0)


def _curves(frame: pd.DataFrame, penalty: float) -> _Curves:
    part = select(frame, penalty=penalty).sort_values(["replica", "norm", "pairs"])
    n, norms = np.unique(part["pairs"]), np.unique(part["norm"])
    gaps = part["gap"].to_numpy(dtype=float).reshape(-1, norms.size, n.size)
    limits = part.groupby("norm")["constant"].first().to_numpy(dtype=float)
    return _Curves(n.astype(float), gaps, limits, penalty)


# --------------------------------------------------------------------------- judge


def _judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    curves_by_penalty = [_curves(frame, eta) for eta in sweep["penalties"]]
    slowest = min(curves_by_penalty, key=lambda curve: curve.penalty)
    turn = slowest.crossover
    return [
        *(
            near(
                f"n × gap over its limit tr(F⁻¹C*)/(2η), η = {c.penalty:g}, n = {c.n[-1]:,.0f}",
                mean_interval(c.ratio[:, -1]),
                1.0,
                _SLACK,
                f"the 95 % interval meets 1 ± {_SLACK:.0%}",
            )
            for c in curves_by_penalty
        ),
        *(
            near(
                f"slope of the worst case {words} the crossover, η = {slowest.penalty:g}",
                slowest.slope(low, high),
                target,
                _SLOPE_SLACK,
                f"the 95 % interval meets {target:g} ± {_SLOPE_SLACK:g}",
            )
            for words, target, low, high in (
                ("before", -0.5, sweep["slope_from"], turn / _FAR),
                ("after", -1.0, _FAR * turn, np.inf),
            )
        ),
    ]


# --------------------------------------------------------------------------- draw


def _draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    fig, (left, middle, right) = style.figure(3, 1, aspect=1.02)
    axes.log_axes(left, "x")
    axes.log_axes(middle, "xy")
    axes.log_axes(right, "x")
    left.axhspan(1.0 - _SLACK, 1.0 + _SLACK, color=style.MUTED, alpha=0.15, linewidth=0)
    curves.level(left, 1.0, color="muted")
    for index, eta in enumerate(sweep["penalties"]):
        look, curve = style.series(index), _curves(frame, eta)
        label = f"η = {eta:g}"
        curves.mean_curve(left, curve.n, curve.ratio, label, look)
        worst = curve.worst(lambda m: m)
        interval_curve(middle, curve.n, worst, label, look)
        limit = curve.constants.max() / curve.n
        shown = limit <= worst.value.max()
        dotted(middle, curve.n[shown], limit[shown], look.color, width=0.8)
        at, slopes = slopes_between(curve.n, 2)
        interval_curve(right, at / curve.crossover, curve.worst(slopes), label, look)
    for value in (-0.5, -1.0):
        curves.level(right, value, color="muted")
    curves.level(right, 1.0, color="muted", axis="x")
    left.set_ylim(0.0, 2.0)
    right.set(xlim=(2e-3, 2e3), ylim=(-1.3, -0.2))
    left.set(title="One world", xlabel="pairs n", ylabel="n × gap / limit")
    middle.set(title="Worst case", xlabel="pairs n", ylabel="largest gap over norms of θ*")
    right.set(
        title="The crossover", xlabel="n η² / tr(F⁻¹C*)", ylabel="local slope of the worst case"
    )
    axes.legend(fig)
    return fig


def _caption(frame: pd.DataFrame, sweep: Sweep) -> str:
    replicas = frame["replica"].nunique()
    norms = sweep["norms"]
    return (
        "Gap J(π*) − J(π̂) of the plug-in policy (maximum likelihood, then the Gibbs oracle) from n "
        f"pairs drawn from π0 × π0. Left: one world (|θ*| = {norms[-1]:g}), n × gap over the "
        "predicted limit tr(F⁻¹C*)/(2η); the grey strip is ±5 %. Middle: the largest mean gap over "
        f"{len(norms)} norms of θ* from {norms[0]:g} to {norms[-1]:g}, with the limits of the "
        "worst norm dotted. Right: its local slope, between sample sizes a decade apart, against n "
        "in units of the crossover; the smaller the penalty, the later slope −1/2 turns into −1. "
        f"Bands: 95 % bootstrap intervals over {replicas} replicas."
    )


def _constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    for eta in sweep["penalties"]:
        curve = _curves(frame, eta)
        numbers[f"tr(F⁻¹C*)/(2η) at η = {eta:g}, |θ*| = {sweep['norms'][-1]:g}"] = float(
            curve.constants[-1]
        )
        numbers[f"crossover tr(F⁻¹C*)/η² at η = {eta:g}, worst norm"] = curve.crossover
    return numbers | label_spread(_world(sweep, sweep["norms"][-1], 1))


_FULL = {
    "replicas": 1024,
    "block": 64,
    "instance": 0,
    "contexts": 20,
    "actions": 10,
    "dim": 5,
    "norms": [0.003, 0.01, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0],
    "penalties": [1.0, 0.3, 0.1, 0.03],
    "pairs": [10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000],
    "slope_from": 30,
    "ridge": 0.01,
    "ridge_per_pair": 0.0,
    "misread": 0.0,
    "planning_factor": 1.0,
}

_SABOTAGES = (
    Sabotage(name="labels ignored", settings={"misread": 0.5}),
    Sabotage(name="winners taken for losers", settings={"misread": 1.0}),
    Sabotage(name="one label of twenty read the wrong way round", settings={"misread": 0.05}),
    Sabotage(name="plans with 1.2 η", settings={"planning_factor": 1.2}),
    Sabotage(name="a ridge that grows with n", settings={"ridge_per_pair": 0.001}),
)

THEOREM = Theorem(
    name="fast-rates",
    order=7,
    title="With a fixed KL penalty the gap falls like 1/n, not 1/√n",
    claim=(
        "For the plug-in policy π̂ = O(θ̂_MLE, η, π0) from n pairs, n · E[J(π*) − J(π̂)] → "
        "tr(F⁻¹C*)/(2η), with F the Fisher matrix of one pair and C* = E_x Cov_{π*}(φ). Over the "
        "worst rewards the gap is of order min(1/√n, 1/(ηn)): it falls with slope −1/2 up to "
        "n ≈ tr(F⁻¹C*)/η² and with slope −1 beyond."
    ),
    source="[2411.04625], upper and lower bounds of section 4 in outline; the constant is identity "
    "I4 of the theory sheet, derived there",
    assumptions=(
        "Linear rewards, Bradley–Terry labels, the model is well specified.",
        "π0 × π0 sees every direction in which π* varies: range(C*) ⊂ range(F).",
        "The limit needs n large against tr(F⁻¹C*)/η²; agreement is required at the largest n.",
    ),
    departures=(
        "One stage: all pairs come from π0 × π0; the paper's second stage samples from the plug-in "
        "policy of the first. The paper writes η for the inverse of our penalty.",
        "A ridge of 0.01 makes the estimator exist at small n; its share vanishes like 1/n. The "
        "norm ball of the paper is left out: it is inactive in the limit.",
        "Slope −1/2 is a statement about the worst case: in any one world with distinct actions "
        "the gap falls faster. It is shown for the largest mean gap over a grid of norms of θ*.",
    ),
    quick={
        **_FULL,
        "replicas": 384,
        "norms": [0.003, 0.03, 0.12, 0.35, 1.0],
    },
    full=_FULL,
    cost=1.0,
    parts=_parts,
    measure=_measure,
    judge=_judge,
    draw=_draw,
    caption=_caption,
    constants=_constants,
    sabotages=_SABOTAGES,
)
