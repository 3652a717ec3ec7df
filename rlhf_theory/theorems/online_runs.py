"""What the online theorems share: learners that are watched, and runs as tidy curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rlhf_theory.algorithms.baselines import SameLawPairs
from rlhf_theory.algorithms.certificates import best_round, online_bound
from rlhf_theory.algorithms.enhancers import (
    FromReference,
    OnPolicy,
    Optimistic,
    require_ellipsoid,
)
from rlhf_theory.algorithms.online_iterative import OnlineIterative, OnlineState
from rlhf_theory.arrays import Array, to_numpy
from rlhf_theory.core import Enhancer, OnlineAlgorithm, PairFeedback, Policy, Problem
from rlhf_theory.data import PreferenceData
from rlhf_theory.estimators.confidence import Adaptive, ConfidenceRule, MarginalLikelihood, Scaled
from rlhf_theory.evaluation.coverage import coverage_coefficient
from rlhf_theory.evaluation.statistics import clopper_pearson
from rlhf_theory.experiments.runner import run
from rlhf_theory.plots import curves, style
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Check, Part, Sweep
from rlhf_theory.theorems.checks import often
from rlhf_theory.theorems.frames import by_replica
from rlhf_theory.theorems.panels import remark
from rlhf_theory.theorems.sweeps import block_of
from rlhf_theory.worlds.bandit import Bandit

Watch = Callable[[OnlineState, Problem, object, Key], tuple[Mapping[str, Array], object]]
"""From state, problem, its own memory (None at first) and key to a report and the new memory."""


# What a run records and the curves have under another name, or not at all.
_DROPPED = ("gap", "jeffreys", "labels", "kl", "residual", "converged")


@dataclass(frozen=True, eq=False)
class _Memory:
    state: OnlineState
    parts: tuple[Any, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Watched:
    """An online learner that also reports what others see in it before every round.

    Attributes
    ----------
    learner
        Plays as if nobody watched.
    watches
        Reports, joined with the learner's own.
    """

    learner: OnlineAlgorithm[OnlineState]
    watches: tuple[Watch, ...]

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> _Memory:
        """Return the learner's state, with empty memories."""
        return _Memory(self.learner.init(problem, data, key), (None,) * len(self.watches))

    def step(
        self, state: _Memory, problem: Problem, feedback: PairFeedback, key: Key
    ) -> tuple[_Memory, Mapping[str, Array]]:
        """Look, then play one round."""
        report: dict[str, Array] = {}
        parts = []
        for index, watch in enumerate(self.watches):
            seen, memory = watch(
                state.state, problem, state.parts[index], key.child("watch", index)
            )
            report |= seen
            parts.append(memory)
        new, own = self.learner.step(state.state, problem, feedback, key)
        return _Memory(new, tuple(parts)), {**own, **report}

    def policy(self, state: _Memory) -> Policy:
        """Return the learner's policy."""
        return self.learner.policy(state.state)


@dataclass(frozen=True, eq=False)
class Certificate:
    """Bound (a) on the left side of the theorem, from what the learner knows before the round.

    Attributes
    ----------
    name
        Name of the radius rule; reports ``"bound <name>"`` and, from bound (c), which needs no
        search, ``"closed <name>"``.
    rule
        A rule whose radius holds at all times; the learner must fit as it does.
    """

    name: str
    rule: ConfidenceRule

    def __call__(
        self, state: OnlineState, problem: Problem, memory: object, key: Key
    ) -> tuple[Mapping[str, Array], object]:
        """Return the bound; the memory is the direction of the last search."""
        confidence = self.rule.confidence_set(state.fit, state.data, problem)
        found = online_bound(problem, state.plan.value, confidence, key, start=memory, n_random=2)
        closed = online_bound(problem, state.plan.value, confidence, key, form="pointwise")
        report = {f"bound {self.name}": found.value, f"closed {self.name}": closed.value}
        return report, found.warm


@dataclass(frozen=True, eq=False)
class TwoTerms:
    """The right side of the hybrid theorem: what pi0 leaves open, and how it covers pi*.

    Attributes
    ----------
    rule
        A radius that holds at all times.
    optimum
        The optimal policy, known to the study only.
    """

    rule: ConfidenceRule
    optimum: Policy

    def __call__(
        self, state: OnlineState, problem: Problem, memory: object, key: Key
    ) -> tuple[Mapping[str, Array], object]:
        """Return both terms; there is nothing to remember."""
        confidence = self.rule.confidence_set(state.fit, state.data, problem)
        ball = require_ellipsoid(confidence)
        x, weights = problem.population(key, 0)

        def bonus(policy: Policy) -> Array:
            return ball.beta * coverage_coefficient(x, weights, policy.log_probs(x), ball.sigma, 1)

        return {"enhancer": bonus(state.plan.value), "coverage": bonus(self.optimum)}, memory


def certificates(sweep: Sweep) -> dict[str, ConfidenceRule]:
    """Return the radius rules that hold at all times, by name."""
    more = {"theta_bound": sweep["theta_bound"], "delta": sweep["delta"], "lam": sweep["lam"]}
    return {"R2′": Adaptive(**more), "R4": MarginalLikelihood(**more)}


def exploring_learners(sweep: Sweep) -> dict[str, OnlineAlgorithm[Any]]:
    """Return learners by how they explore; all fit the MLE over the ball, as the radii demand."""
    rule = certificates(sweep)["R2′"]
    c = sweep["multiplier"]

    def learner(enhancer: Enhancer, multiplier: float = 1.0) -> OnlineIterative:
        radius = rule if multiplier == 1.0 else Scaled(rule, multiplier)
        return OnlineIterative(enhancer=enhancer, radius=radius, batch_size=sweep["batch"])

    # Exploration needs no more than a few digits.
    constrained, penalised = Optimistic(tol=1e-8), Optimistic(form="penalised", tol=1e-8)
    return {
        "constrained, β": learner(constrained),
        f"constrained, {c:g} β": learner(constrained, c),
        f"penalised, {c:g} β": learner(penalised, c),
        "π0 as enhancer": learner(FromReference()),
        "on-policy pairs": learner(OnPolicy()),
        "uniform pairs": SameLawPairs(learner=learner(OnPolicy())),
    }


def curves_of(
    learner: OnlineAlgorithm[Any],
    world: Bandit,
    sweep: Sweep,
    part: Part,
    key: Key,
    **more: Any,
) -> pd.DataFrame:
    """Return every round of a part's replicas: ``round, replica, labels`` and what was recorded.

    ``labels`` are those that the policy of the round has used; ``left`` is the left side of
    the theorems, the gap with the KL term. What only a played round reports is NaN in the last.
    """
    first, world, _ = block_of(part, world, key)
    trace = run(
        learner,
        world,
        rounds=sweep["rounds"],
        seed=key.seed_int(),
        block=sweep["block"],
        first_replica=first,
        **more,
    )
    reported = [name for name in trace.arrays if name not in _DROPPED]
    frame = trace.to_pandas()[["round", "replica", "labels", "gap", "jeffreys", *reported]]
    frame["replica"] += first
    return frame.rename(columns={"jeffreys": "left"})


def table(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return one column of one learner as ``(R, T + 1)``."""
    return by_replica(frame, "round", name)[1]


def played(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return one column of the rounds that were played, ``(R, T)``: what they report is there."""
    return table(frame, name)[:, :-1]


def always_held(left: np.ndarray, bound: np.ndarray) -> tuple[int, int]:
    """Return in how many replicas ``left <= bound`` at all rounds, and the number of replicas."""
    # Both sides are exact up to rounding and the tolerance of the search.
    held = np.all(left <= bound * (1.0 + 1e-6), axis=1)
    return int(held.sum()), int(held.size)


def held_check(name: str, counts: list[tuple[int, int]], delta: float) -> Check:
    """Return the check that a bound held at all rounds, for the worst of several learners."""
    share = clopper_pearson(*min(counts, key=lambda count: count[0] / count[1]))
    required = f"at least {1.0 - delta:g}, by the lower end of the 95 % interval"
    return often(name, share, 1.0 - delta, required)


def bound_held(name: str, parts: Iterable[pd.DataFrame], terms: list[str], delta: float) -> Check:
    """Return the check that the sum of ``terms`` bounded the left side in all rounds played.

    ``parts`` are the curves of learners, of which the worst counts.
    """
    counts = []
    for part in parts:
        right = np.sum([played(part, term) for term in terms], axis=0)
        counts.append(always_held(played(part, "left"), right))
    return held_check(name, counts, delta)


def best_rounds(bound: np.ndarray) -> np.ndarray:
    """Return the round ``t0`` of the smallest bound so far, shape ``(R, T)``."""
    return np.asarray(to_numpy(best_round(bound)))


def draw_bounds(panel: Axes, left: np.ndarray, lines: Mapping[str, tuple[np.ndarray, int]]) -> None:
    """Draw the left side of a theorem with its spread, and medians of bounds above it.

    Parameters
    ----------
    panel
        Panel with a logarithmic vertical axis.
    left
        Shape ``(R, T)``: median with a band from the 5 % to the 95 % quantile.
    lines
        From a label to a bound ``(R, T)`` and where its label stands, in points above the line.
    """
    at = np.arange(left.shape[1])
    low, middle, high = np.quantile(left, [0.05, 0.5, 0.95], axis=0)
    curves.curve(panel, at, middle, low, high, color="ink")
    written = [("left side", middle, 6)]
    for label, (bound, above) in lines.items():
        line = np.median(bound, axis=0)
        curves.bound(panel, at, line, label="")
        written.append((label, line, above))
    for label, line, above in written:
        remark(panel, label, (at[-1], line[-1]), (0, above), style.INK)
    panel.set(xlabel="round", ylabel="gap + η KL(π* ‖ π¹)")
