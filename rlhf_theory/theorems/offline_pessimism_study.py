"""What the theorem ``offline-pessimism`` measures: losses, bounds and events per replica."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from rlhf_theory import worlds
from rlhf_theory.algorithms.offline_ensemble import EnsembleMinimum, UncertaintyWeighted
from rlhf_theory.algorithms.offline_pessimistic import OfflineGreedy, OfflinePessimistic
from rlhf_theory.arrays import Array, expand_rows, inner, to_numpy
from rlhf_theory.core import ConfidenceSet, OfflineAlgorithm, Policy, Problem, Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.estimators.confidence import (
    Adaptive,
    ConfidenceRule,
    Ellipsoid,
    FixedDesign,
    MarginalLikelihood,
    Scalable,
    Scaled,
    Wald,
)
from rlhf_theory.evaluation.coverage import (
    coverage_coefficient,
    fast_rate_constant,
    fisher_of_sampling,
)
from rlhf_theory.evaluation.pessimism import (
    bonus_constant,
    comparator_excess,
    comparator_loss,
    expected_bound,
    log_ratio_reward,
    pointwise_bound,
    reward_interval,
)
from rlhf_theory.features import centred, mean_shift
from rlhf_theory.planners.argmax import argmax_log_probs
from rlhf_theory.policies import FunctionPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Part, Sweep
from rlhf_theory.theorems.frames import by_replica, select
from rlhf_theory.theorems.sabotaged_learners import (
    bonus_flipped,
    misread,
    plans_with,
    plays_the_worst,
)
from rlhf_theory.theorems.sweeps import block_of, nested_data, replica_parts
from rlhf_theory.worlds.bandit import Bandit

COLUMNS = ["study", "setting", "learner", "pairs", "replica", "gap", "left", "right", "excess"]
COLUMNS += ["event", "coverage", "limit"]
"""``left`` and ``right`` are the two sides of the theorem for the comparator pi*, ``excess`` the
largest difference over the comparators that are checked, ``event`` whether the confidence set
contains theta*, ``coverage`` the coefficient C*; NaN where a learner has no bound. ``limit`` is the
gap that errors small against eta would have; NaN but in the study of that name."""


RIGHT: Sweep = {
    "bonus_factor": 1.0,
    "planning_factor": 1.0,
    "misread": 0.0,
    "plays": "its plan",
}
"""The settings of a sweep by which sabotages make a learner wrong, as they are right."""


@dataclass(frozen=True)
class Cell:
    """One world and behaviour with the learners that meet it."""

    study: str
    setting: str
    world: dict[str, Any]
    pairs: list[int]
    learners: tuple[str, ...]
    behaviour: float = 0.0
    rules: tuple[str, ...] = field(default=("R1'",))


def cells(sweep: Sweep) -> Iterator[Cell]:
    """Return all cells of a sweep."""
    base, few = dict(sweep["world"]), sweep["pairs_few"]
    both = ("Option I", "Option II")
    every = ("greedy", *both, "Option I, β/10", "Option II, β/10", "ensemble minimum", "UWO")
    yield Cell("learners", "", base, sweep["pairs"], every)
    for dim in sweep["dims"]:
        yield Cell("dimension", f"{dim}", {**base, "dim": dim}, few, ("greedy", *both))
    away = {**base, "reference": "peaked"}
    for k in sweep["coverages"]:
        world = {**away, "peak": sweep["peak"]}
        yield Cell("coverage", f"{k:g}", world, few, ("greedy", *both), behaviour=k)
    for peak in sweep["peaks"]:
        world = {**away, "peak": peak}
        yield Cell("coefficient", f"{peak:g}", world, [sweep["pairs_fixed"]], ("greedy", *both))
        yield Cell("limit", f"{peak:g}", world, [sweep["pairs_limit"]], ("greedy", *both))
    for name in sweep["rules"]:
        yield Cell("rules", name, base, sweep["pairs_rules"], both, rules=(name,))
    small = {**base, **sweep["small"]}
    yield Cell("likelihood", "R4", small, sweep["pairs_likelihood"], ("likelihood set",))


def rule(name: str, sweep: Sweep) -> ConfidenceRule:
    """Return a rule of the theory sheet by its name."""
    bound, delta = sweep["theta_bound"], sweep["delta"]
    known: dict[str, ConfidenceRule] = {
        "R1'": FixedDesign(theta_bound=bound, delta=delta),
        "R2'": Adaptive(theta_bound=bound, delta=delta),
        "R4": MarginalLikelihood(theta_bound=bound, delta=delta),
        "R5": Wald(theta_bound=bound, delta=delta),
        "R4 set": MarginalLikelihood(theta_bound=bound, delta=delta, form="likelihood"),
    }
    return known[name]


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A rule with the estimate of the data at hand, which all rules here share."""

    rule: ConfidenceRule
    solution: Solution[Array]

    def __call__(self, data: PreferenceData, problem: Problem) -> Array:
        return self.rule(data, problem)

    def fit(
        self,
        data: PreferenceData,  # noqa: ARG002
        design: Design | None = None,  # noqa: ARG002
        start: Solution[Array] | None = None,  # noqa: ARG002
    ) -> Solution[Array]:
        return self.solution

    def confidence_set(
        self,
        fit: Solution[Array],
        data: PreferenceData,
        problem: Problem | None = None,
        design: Design | None = None,
    ) -> Scalable:
        return self.rule.confidence_set(fit, data, problem, design)


def world_of(cell: Cell, sweep: Sweep) -> Bandit:
    """Return the world of a cell with all replicas."""
    return worlds.linear(**cell.world, replicas=sweep["replicas"])


def parts(sweep: Sweep) -> Sequence[Part]:
    """Return a part for every cell and block of replicas."""
    return replica_parts(sweep, [{"study": c.study, "setting": c.setting} for c in cells(sweep)])


def measure(sweep: Sweep, part: Part, key: Key) -> pd.DataFrame:
    """Run a block of replicas of a cell; see `COLUMNS`."""
    name = part.settings["study"], part.settings["setting"]
    cell = next(c for c in cells(sweep) if (c.study, c.setting) == name)
    first, world, own = block_of(part, world_of(cell, sweep), key.child(*name))
    frames = measure_cell(cell, world, sweep, own, first)
    return pd.concat(frames, ignore_index=True)[COLUMNS]


def measure_cell(
    cell: Cell, world: Bandit, sweep: Sweep, key: Key, first: int = 0
) -> list[pd.DataFrame]:
    """Fit nested data of increasing size with every learner of a cell; see `COLUMNS`.

    Parameters
    ----------
    cell
        Sample sizes, learners, rules and behaviour; its world's settings are not looked at.
    world
        The world, or a block of its replicas.
    sweep
        Has ``theta_bound`` and ``delta``; of `RIGHT` what is to be wrong.
    key
        Address of the draws of this block.
    first
        Number of the block's first replica.
    """
    frames = []
    sweep = {**RIGHT, **sweep}
    world = replace(world, behaviour=cell.behaviour)
    for n, drawn in nested_data(world, cell.pairs, key):
        data = misread(drawn, sweep["misread"])
        fit = rule(cell.rules[0], sweep).fit(data)
        for name in cell.learners:
            learner, radius = _learner(name, cell, sweep, fit)
            policy = learner(world.problem, data, key.child("learner", name, n)).value
            if sweep["plays"] == "the worst action":
                policy = _worst(world)
            values, confidence = _outcome(world, policy), None
            if radius is not None:
                confidence = radius.confidence_set(fit, data, world.problem)
                values |= _sides(name, world, confidence, policy, n)
            if cell.study == "limit":
                values["limit"] = _limit(name, world, confidence, n)
            frame = pd.DataFrame({k: to_numpy(v) for k, v in values.items()})
            frame["replica"] = np.arange(first, first + len(frame))
            frames.append(
                frame.assign(study=cell.study, setting=cell.setting, learner=name, pairs=n)
            )
    return frames


def _learner(
    name: str, cell: Cell, sweep: Sweep, fit: Solution[Array]
) -> tuple[OfflineAlgorithm, ConfidenceRule | None]:
    """Return a learner by its name, and the rule of its bound if it has one."""
    bound = sweep["theta_bound"]
    eta_factor, bonus_factor = sweep["planning_factor"], sweep["bonus_factor"]
    if name == "greedy":
        return plans_with(OfflineGreedy(theta_bound=bound), eta_factor), None
    if name == "ensemble minimum":
        return EnsembleMinimum(theta_bound=bound), None
    if name == "UWO":
        return UncertaintyWeighted(theta_bound=bound), None
    base: ConfidenceRule = _Fitted(
        rule("R4 set" if name == "likelihood set" else cell.rules[0], sweep), fit
    )
    radius = Scaled(base, 0.1) if name.endswith("β/10") else base
    option: Any = "I" if _expected(name) else "II"
    # The bound is that of the right radius, whatever the learner does with it.
    size = abs(bonus_factor)
    used = radius if size == 1.0 else Scaled(radius, size)
    pessimist = OfflinePessimistic(radius=used, option=option)
    learner = bonus_flipped(pessimist) if bonus_factor < 0.0 else pessimist
    return plans_with(learner, eta_factor), radius


def _expected(name: str) -> bool:
    """Return whether a learner takes its bonus once for the whole policy."""
    return name.partition(",")[0] == "Option I"


def _worst(world: Bandit) -> Policy:
    """Return the policy that plays the worst action everywhere."""
    theta = world.theta_star
    return FunctionPolicy(lambda x: plays_the_worst(x, inner(centred(x), theta)))


def _outcome(world: Bandit, policy: Policy) -> dict[str, Array]:
    """Return the columns that every learner has, each of shape ``(R,)``."""
    metrics = world.evaluate(policy)
    nothing = np.full(world.n_replicas, np.nan)
    missing = dict.fromkeys(("right", "excess", "event", "coverage", "limit"), nothing)
    return {"gap": metrics["gap"], "left": metrics["jeffreys"], **missing}


def _sides(
    name: str, world: Bandit, confidence: ConfidenceSet, policy: Policy, n: int
) -> dict[str, Array]:
    """Return bound, excess, event and coverage of a pessimistic policy."""
    x, weights = world.population
    star, log_pi = world.log_pi_star, policy.log_probs(x)
    truth = inner(centred(x), world.theta_star)
    g = log_ratio_reward(truth, log_pi, x.log_pi0, world.problem.eta)
    lower, upper = reward_interval(confidence, x)
    if _expected(name):
        right = expected_bound(confidence, x, weights, star)
        # The supremum over comparators is a program of its own: pi*, pi0, whose bound is 0 (the
        # policy is never worse than pi0), and the worst comparator of Option II stand for it.
        worst = argmax_log_probs(g - (upper - lower), x.log_pi0)
        excess = np.max(
            [
                to_numpy(comparator_loss(pi, log_pi, g, weights))
                - to_numpy(expected_bound(confidence, x, weights, pi))
                for pi in (star, x.log_pi0, worst)
            ],
            axis=0,
        )
    else:
        right = pointwise_bound(lower, upper, weights, star)
        excess = comparator_excess(upper - lower, g, weights, log_pi)
    r = world.n_replicas
    inside = confidence.contains(world.theta_star)
    values = {"right": expand_rows(right, r), "excess": excess, "event": inside}
    if isinstance(confidence, Ellipsoid):
        values["coverage"] = coverage_coefficient(x, weights, star, confidence.sigma, float(n))
    return values


def _limit(name: str, world: Bandit, confidence: ConfidenceSet | None, n: int) -> Array:
    """Return the gap of a learner where its error is small against eta, ``(R,)``.

    ``confidence`` is the set of its bonus; None for one that has no bonus.
    """
    x, weights = world.population
    star, eta = world.log_pi_star, world.problem.eta
    noise = np.full(world.n_replicas, limit_of(world) / n)
    if confidence is None:
        return noise
    if not isinstance(confidence, Ellipsoid):
        message = f"The limit is that of an ellipsoid; got {type(confidence).__name__}."
        raise TypeError(message)
    if _expected(name):
        v = to_numpy(mean_shift(x, weights, star))
        u = np.linalg.solve(to_numpy(confidence.sigma), v[..., None])[..., 0]
        u *= (to_numpy(confidence.beta) / np.sqrt(np.sum(u * v, axis=-1)))[:, None]
        error = inner(centred(x), u)
    else:
        lower, upper = reward_interval(confidence, x)
        error = (upper - lower) / 2.0
    return noise + bonus_constant(error, star, weights, eta)


# --------------------------------------------------------------------------- curves


def rows(frame: pd.DataFrame, study: str, learner: str, setting: str = "") -> pd.DataFrame:
    """Return the rows of one learner in one cell."""
    return select(frame, study=study, learner=learner, setting=setting)


def table(part: pd.DataFrame, column: str = "gap") -> tuple[np.ndarray, np.ndarray]:
    """Return sample sizes ``(T,)`` and a column per replica ``(R, T)``."""
    return by_replica(part, "pairs", column)


def base_cell(sweep: Sweep) -> Cell:
    """Return the cell of all learners in the base world."""
    return next(cells(sweep))


def limit_constant(sweep: Sweep) -> float:
    """Return ``tr(F^-1 C*) / (2 eta)`` of the base world."""
    return limit_of(world_of(base_cell(sweep), {**sweep, "replicas": 1}))


def limit_of(world: Bandit) -> float:
    """Return ``tr(F^-1 C*) / (2 eta)`` of a world, of its first replica, for pairs from pi0."""
    x, weights = world.population
    fisher = fisher_of_sampling(x, weights, x.log_pi0, x.log_pi0, world.theta_star)
    limit = fast_rate_constant(fisher, x, weights, world.log_pi_star, world.problem.eta)
    return float(to_numpy(limit)[0])


def against_coverage(frame: pd.DataFrame, learner: str) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients C* and left sides ``(R, worlds)`` at fixed pairs, one world per peak."""
    part = select(frame, study="coefficient", learner=learner)
    bounded = select(frame, study="coefficient", learner="Option II")
    at = bounded.groupby("setting")["coverage"].mean().sort_values()
    wide = part.pivot_table(index="replica", columns="setting", values="left")[list(at.index)]
    return at.to_numpy(dtype=float), wide.to_numpy(dtype=float)
