"""Theorem ``greedy-fails``: the greedy policy of the MLE fails at every n, pessimism does not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from rlhf_theory.algorithms.offline_pessimistic import LowerBound
from rlhf_theory.arrays import to_numpy
from rlhf_theory.bounds import curvature, pessimistic_mle_radius
from rlhf_theory.core import RewardModel
from rlhf_theory.data import PreferenceData
from rlhf_theory.estimators.confidence import ellipsoid
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.evaluation.statistics import clopper_pearson
from rlhf_theory.planners.argmax import argmax_log_probs
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.policies import TablePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.theorems.card import Check, Part, Sabotage, Sweep, Theorem
from rlhf_theory.theorems.checks import fact
from rlhf_theory.theorems.frames import select
from rlhf_theory.theorems.sabotaged_learners import UpperBound, misread
from rlhf_theory.theorems.spread import label_spread
from rlhf_theory.worlds.bandit import Bandit
from rlhf_theory.worlds.hard_instances import (
    greedy_failure,
    greedy_failure_data,
    greedy_failure_escape,
    greedy_failure_outcomes,
    greedy_failure_switch,
)

_LIMIT = 1.0 / (1.0 + math.e)  # sigma(-1): the single comparison is won by the worse action
_KINDS = ("exact", "sample")
_BEST, _REFERENCE = 3, 2  # a4 and a3
_REWARDS = np.array([-0.9, -1.0, 0.0, 0.1])
_LOSSES = _REWARDS.max() - _REWARDS
# Estimates are accurate to about 1e-8: rewards that close are ties.
_TIE = 1e-7
_BOUND = 2.0
# Norms of the paper: L = max |phi| in three dimensions; its curvature is at L B.
_GAMMA = curvature(math.sqrt(2.0) * _BOUND)
_PAPER_DIM = 3
# How far the switch may be from its predicted n. Where the best action is played with probability
# 1/2 the bonus equals the median of the estimate, which is the truth up to 1 / n: what is left is
# the reading between the n of the study, some of them 5 % on either side of a prediction.
_SWITCH_SLACK = 1.1


# --------------------------------------------------------------------------- learners


def _radius(sweep: Sweep, dim: int = _PAPER_DIM) -> float:
    """Return the radius of the paper, unnormalised."""
    return pessimistic_mle_radius(dim, _GAMMA, sweep["lam"], _BOUND, sweep["delta"])


def _switch(c: float, sweep: Sweep) -> float:
    """Return the predicted n of the switch from the reference action to the best one."""
    return greedy_failure_switch(c * _radius(sweep), sweep["lam"])


def _critical(sweep: Sweep) -> float:
    """Return the multiplier below which pessimism fails like greed, in the limit of large n."""
    return greedy_failure_escape(sweep["lam"], _BOUND) / _radius(sweep)


def _name(c: float) -> str:
    return f"c = {c:g}"


def _models(data: PreferenceData, sweep: Sweep) -> dict[str, RewardModel]:
    """Return what each learner plans with: the estimate, and its lower bound per multiplier.

    As `OfflineGreedy` and `OfflinePessimistic` do with ``theta_bound``, from one fit for all.
    """
    data = misread(data, sweep["misread"])
    theta_hat = bradley_terry_mle(data, bound=sweep["bound_factor"] * _BOUND).require()
    certain = TablePolicy(np.where(np.arange(4) == _REFERENCE, 0.0, -np.inf)[None, None])
    models: dict[str, RewardModel] = {"greedy": LinearReward(theta_hat)}
    radius = sweep["radius_factor"] * _radius(sweep, sweep["radius_dim"])
    bound = UpperBound if sweep["bonus_flipped"] else LowerBound
    for c in sweep["multipliers"]:
        models[_name(c)] = bound(ellipsoid(theta_hat, data, sweep["lam"], c * radius), certain)
    return models


# --------------------------------------------------------------------------- measure


def _parts(sweep: Sweep) -> Sequence[Part]:
    return [Part({"pairs": n, "kind": kind}) for n in sweep["pairs"] for kind in _KINDS]


def _measure(sweep: Sweep, part: Part, key: Key) -> pd.DataFrame:
    """Return how each action is played: ``kind, pairs``, then a column per learner and action.

    ``kind`` is "exact", one row of shares over all outcomes of the labels, or "sample", a row of
    probabilities per replica with drawn labels.
    """
    n, kind = part.settings["pairs"], part.settings["kind"]
    if kind == "exact":
        world, data, mass = greedy_failure_outcomes(n)
    else:
        world = greedy_failure(replicas=sweep["replicas"])
        data = greedy_failure_data(world, key.child("data", n), n)
    columns: dict[str, object] = {"kind": kind, "pairs": n}
    for learner, model in _models(data, sweep).items():
        played = _played(model, world)
        if kind == "exact":
            played = (mass @ played)[None]
        columns |= dict(zip(_columns(learner), played.T, strict=True))
    return pd.DataFrame(columns)


def _played(model: RewardModel, world: Bandit) -> np.ndarray:
    """Return the probability of each action in each replica, shape ``(R, A)``."""
    x, _ = world.population
    log_pi = argmax_log_probs(model.rewards(x), x.log_pi0, tie=_TIE)
    return np.asarray(np.exp(to_numpy(log_pi)[:, 0]))


def _gather(tables: Sequence[pd.DataFrame], sweep: Sweep) -> pd.DataFrame:
    """Return how often each action is played: ``kind, learner, pairs, action, share``."""
    rows = []
    for table in tables:
        kind, n = table["kind"].iloc[0], table["pairs"].iloc[0]
        mass = np.full(len(table), 1.0 / len(table))
        for learner in ("greedy", *map(_name, sweep["multipliers"])):
            # Contiguous as it was measured: the order in memory decides the last bits of sums.
            shares = mass @ np.ascontiguousarray(table[_columns(learner)].to_numpy())
            rows += [(kind, learner, n, a + 1, share) for a, share in enumerate(shares)]
    return pd.DataFrame(rows, columns=["kind", "learner", "pairs", "action", "share"])


def _columns(learner: str) -> list[str]:
    return [f"{learner}: a{k}" for k in (1, 2, 3, 4)]


# --------------------------------------------------------------------------- judge


def _table(frame: pd.DataFrame, kind: str, learner: str) -> tuple[np.ndarray, np.ndarray]:
    """Return sample sizes ``(T,)`` and shares of the actions ``(T, A)``."""
    part = select(frame, kind=kind, learner=learner)
    wide = part.pivot_table(index="pairs", columns="action", values="share")
    return wide.index.to_numpy(dtype=float), wide.to_numpy(dtype=float)


def _losses(shares: np.ndarray) -> np.ndarray:
    """Return expected losses, shape ``(T,)``."""
    return np.asarray(shares @ _LOSSES)


def _crossing(n: np.ndarray, best: np.ndarray) -> float:
    """Return the n at which the probability of the best action passes 1/2, read off in log n."""
    above = np.flatnonzero(best >= 0.5)
    if above.size == 0 or above[0] == 0:
        return math.inf if above.size == 0 else float(n[0])
    k = int(above[0])
    share = (0.5 - best[k - 1]) / (best[k] - best[k - 1])
    return float(np.exp(np.log(n[k - 1]) + share * np.log(n[k] / n[k - 1])))


def _worst_p_value(frame: pd.DataFrame, replicas: int) -> tuple[float, int]:
    """Return the smallest binomial p-value of samples against exact shares, and how many."""
    wide = frame.pivot_table(index=["learner", "pairs", "action"], columns="kind", values="share")
    values = [
        binomtest(round(sample * replicas), replicas, min(1.0, exact)).pvalue
        for exact, sample in zip(wide["exact"], wide["sample"], strict=True)
    ]
    return float(min(values)), len(values)


def _judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    n, shares = _table(frame, "exact", "greedy")
    greedy = _losses(shares)
    p_value, cells = _worst_p_value(frame, sweep["replicas"])
    return [
        fact(
            "greedy: smallest exact expected loss over n",
            greedy.min(),
            "above 0.1 at every n ≥ 2",
            passed=np.all(greedy > 0.1),
        ),
        fact(
            f"greedy: exact expected loss at n = {n[-1]:,.0f}, minus σ(−1)",
            greedy[-1] - _LIMIT,
            "within 1e-6 of 0",
            passed=abs(greedy[-1] - _LIMIT) <= 1e-6,
        ),
        fact(
            f"samples against enumeration: smallest of {cells} binomial p-values",
            p_value,
            f"at least 0.001/{cells}",
            passed=p_value >= 1e-3 / cells,
        ),
        *(_pessimist(frame, sweep, c) for c in sweep["multipliers"]),
    ]


def _pessimist(frame: pd.DataFrame, sweep: Sweep, c: float) -> Check:
    """Return whether a pessimist switches to the best action where it is predicted to."""
    n, shares = _table(frame, "exact", _name(c))
    loss = _losses(shares)
    critical = _critical(sweep)
    if c < critical:
        return fact(
            f"pessimist, c = {c:g}: exact expected loss at n = {n[-1]:,.0f}",
            loss[-1],
            f"σ(−1) = {_LIMIT:.4f} as for greed: c is below {critical:.3f}",
            passed=abs(loss[-1] - _LIMIT) <= 1e-3,
        )
    predicted = _switch(c, sweep)
    ratio = _crossing(n, shares[:, _BEST]) / predicted
    return fact(
        f"pessimist, c = {c:g}: n of the switch to the best action over its prediction",
        ratio,
        f"1 up to a factor of {_SWITCH_SLACK:g} (prediction {predicted:,.0f}); loss 0 at "
        f"the largest n (it is {loss[-1]:.1e})",
        passed=1 / _SWITCH_SLACK <= ratio <= _SWITCH_SLACK and loss[-1] <= 1e-4,
    )


# --------------------------------------------------------------------------- draw


def _draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    fig, (left, right) = style.figure(2, 1, aspect=0.72)
    for ax in (left, right):
        axes.log_axes(ax, "x")
    _curve(left, frame, sweep, "greedy", "greedy", style.series(1))
    curves.level(left, _LIMIT, "limit σ(−1)", color="muted")
    curves.bound(left, [sweep["pairs"][0], sweep["pairs"][-1]], [0.1, 0.1], "bound 0.1")
    left.set_ylim(0.0, 0.42)
    left.set(title="Greedy", xlabel="pairs n", ylabel="expected loss")
    for index, c in enumerate(sweep["multipliers"]):
        look = style.series((0, 2, 3, 4, 5)[index % 5])
        _curve(right, frame, sweep, _name(c), f"pessimist, c = {c:g}", look)
        if c >= _critical(sweep):
            at = _switch(c, sweep)
            right.axvline(at, color=look.color, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0)
    right.set_ylim(-0.012, 0.42)
    right.set(title="Pessimistic", xlabel="pairs n", ylabel="expected loss")
    axes.legend(fig)
    return fig


def _curve(
    ax: Axes, frame: pd.DataFrame, sweep: Sweep, learner: str, label: str, look: style.SeriesStyle
) -> None:
    n, shares = _table(frame, "exact", learner)
    curves.curve(ax, n, _losses(shares), label=label, color=look.color, style=look.line)
    n, shares = _table(frame, "sample", learner)
    mean = _losses(shares)
    spread = np.maximum(shares @ _LOSSES**2 - mean**2, 0.0)
    reach = 1.96 * np.sqrt(spread / sweep["replicas"])
    curves.points(ax, n, mean, mean - reach, mean + reach, color=look.color, size=2.6)


def _caption(frame: pd.DataFrame, sweep: Sweep) -> str:
    return (
        "Expected loss (best reward minus reward of the action played) on the instance with four "
        "actions: n − 1 comparisons of the two bad ones, a single one of a bad action with the "
        "reference. Lines: exact expectation by enumerating all outcomes of the labels. Points: "
        f"means over {sweep['replicas']:,} replicas with drawn labels; bars: 95 % normal "
        "intervals over replicas. Left: the greedy policy of the maximum-likelihood "
        "estimate. Right: pessimism with c times the radius of the paper; dotted, the predicted n "
        "of the switch from the reference action (loss 0.1) to the best one (loss 0). A "
        "multiplier that is too small fails like greed."
    )


def _constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    n, shares = _table(frame, "exact", "greedy")
    replicas = sweep["replicas"]
    numbers: dict[str, float | str] = {
        "σ(−1), probability of the misleading label": _LIMIT,
        f"greedy: exact loss at n = {n[0]:,.0f}": float(_losses(shares)[0]),
        "curvature γ = 1/(2 + e^{LB} + e^{−LB}), L = √2, B = 2": _GAMMA,
        "radius β (c = 1, unnormalised)": _radius(sweep),
        "critical multiplier": _critical(sweep),
    }
    for c in sweep["multipliers"]:
        if c >= _critical(sweep):
            n, shares = _table(frame, "exact", _name(c))
            numbers[f"switch at c = {c:g}: measured, predicted"] = (
                f"{_crossing(n, shares[:, _BEST]):,.0f}, {_switch(c, sweep):,.0f}"
            )
    n, shares = _table(frame, "sample", "greedy")
    bad = clopper_pearson(round(replicas * shares[-1, :2].sum()), replicas)
    numbers[f"greedy: share of replicas that play a bad action at n = {n[-1]:,.0f}"] = (
        f"{bad.value:.3f} (95 % Clopper–Pearson {bad.lower:.3f} to {bad.upper:.3f})"
    )
    return numbers | label_spread(greedy_failure(replicas=1))


_SABOTAGES = (
    Sabotage(name="sign of the bonus flipped", settings={"bonus_flipped": True}),
    Sabotage(name="radius halved", settings={"radius_factor": 0.5}),
    Sabotage(name="radius of a tenth", settings={"radius_factor": 0.1}),
    Sabotage(name="d = 2 in the radius", settings={"radius_dim": 2}),
    Sabotage(name="estimate over |θ| ≤ 2B", settings={"bound_factor": 2.0}),
    Sabotage(name="a tenth of the labels misread", settings={"misread": 0.1}),
    Sabotage(name="labels ignored", settings={"misread": 0.5}),
    Sabotage(name="winners taken for losers", settings={"misread": 1.0}),
)

_FULL = {
    "bonus_flipped": False,
    "radius_factor": 1.0,
    "radius_dim": _PAPER_DIM,
    "bound_factor": 1.0,
    "misread": 0.0,
    "replicas": 4000,
    "pairs": [
        2,
        3,
        5,
        10,
        20,
        50,
        100,
        200,
        350,
        515,
        568,
        750,
        1000,
        2000,
        5000,
        8200,
        9100,
        10_000,
        20_000,
        50_000,
        100_000,
        150_000,
        205_000,
        227_000,
        300_000,
        1_000_000,
    ],
    "multipliers": [0.02, 0.05, 0.2, 1.0],
    "lam": 0.1,
    "delta": 0.05,
}

THEOREM = Theorem(
    name="greedy-fails",
    order=2,
    version=2,
    title="The greedy policy of the MLE fails at every n; pessimism does not",
    claim=(
        "There is a problem with four actions and |θ*| ≤ B = 2 on which the greedy policy of the "
        "maximum-likelihood estimate over {⟨1, θ⟩ = 0, |θ| ≤ B} has E[loss] ≥ 0.1 for every n > 1, "
        "while the pessimistic policy converges to the best action."
    ),
    source="[2301.11270], Theorem 3.9; exact numbers from the theory sheet, 3.2",
    assumptions=(
        "One context, no KL term: policies play the action of largest (lower bound of the) reward.",
        "n − 1 comparisons of (a1, a2), one of (a2, a3), fixed in advance; Bradley–Terry labels.",
        "λ = 0.1 is fixed in the unnormalised scale, i.e. λ/n in the paper's: held fixed there, "
        "the switch would never come for large multipliers.",
    ),
    departures=(
        "The bonus form of the pessimistic policy: the set is the ellipsoid, without the paper's "
        "intersection with the ball.",
        "θ and φ are written in a basis of the plane ⟨1, θ⟩ = 0, so Σ is a 2 × 2 matrix; the "
        "radius keeps the paper's d = 3, and C = 1 for its unstated constant.",
        "The reference vector is v = φ(a3) = 0.",
    ),
    quick={**_FULL, "replicas": 1000},
    full=_FULL,
    cost=0.5,
    parts=_parts,
    measure=_measure,
    gather=_gather,
    judge=_judge,
    draw=_draw,
    caption=_caption,
    constants=_constants,
    sabotages=_SABOTAGES,
)
