"""Wrong online learners and wrong certificates, for the sabotages of the online cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlhf_theory.algorithms.baselines import SameLawPairs
from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy, Optimistic
from rlhf_theory.algorithms.online_iterative import OnlineIterative, OnlineState
from rlhf_theory.arrays import Array
from rlhf_theory.core import (
    OnlineAlgorithm,
    PairFeedback,
    Planner,
    Policy,
    Problem,
    Solution,
)
from rlhf_theory.data import Comparisons, PairQuery, PreferenceData
from rlhf_theory.designs import Design
from rlhf_theory.estimators.confidence import ConfidenceRule, Scalable, Scaled
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Sweep
from rlhf_theory.theorems.online_runs import Watch
from rlhf_theory.theorems.sabotaged_learners import recounted

RIGHT: Sweep = {
    "explores": True,
    "radius_factor": 1.0,
    "counted": 1.0,
    "bound_factor": 1.0,
    "planning_factor": 1.0,
    "misread": 0.0,
    "remembers": True,
}
"""Settings of a sweep that change nothing: whether the enhancer is another policy than the main
agent; factors of radii, of the counts of pairs in them, of bounds and of eta in planning; the share
of labels that is read the wrong way round; whether labels of earlier rounds are kept."""


def sabotaged_rule(rule: ConfidenceRule, sweep: Sweep) -> ConfidenceRule:
    """Return a radius rule as the sweep has it wrong."""
    if sweep["counted"] != 1.0:
        rule = _Counted(rule, sweep["counted"])
    return rule if sweep["radius_factor"] == 1.0 else Scaled(rule, sweep["radius_factor"])


def sabotaged_bound(watch: Watch, sweep: Sweep) -> Watch:
    """Return a watch whose reports are multiplied as the sweep has bounds wrong."""
    if sweep["bound_factor"] == 1.0:
        return watch

    def wrong(
        state: OnlineState, problem: Problem, memory: object, key: Key
    ) -> tuple[Mapping[str, Array], object]:
        report, memory = watch(state, problem, memory, key)
        return {name: sweep["bound_factor"] * value for name, value in report.items()}, memory

    return wrong


def sabotaged_learner(learner: OnlineAlgorithm[Any], sweep: Sweep) -> OnlineAlgorithm[Any]:
    """Return a learner as the sweep has it wrong."""
    found: OnlineAlgorithm[Any] = learner
    if isinstance(learner, SameLawPairs):
        found = replace(learner, learner=sabotaged_parts(learner.learner, sweep))
    elif isinstance(learner, OnlineIterative):
        found = sabotaged_parts(learner, sweep)
    wrong: OnlineAlgorithm[Any] = misled(found, sweep)
    return wrong


def misled(learner: Any, sweep: Sweep) -> Any:
    """Return a learner that misreads labels, or forgets them, as the sweep says."""
    if not sweep["misread"] and sweep["remembers"]:
        return learner
    return _Misled(learner, sweep["misread"], remembers=sweep["remembers"])


def sabotaged_parts(learner: OnlineIterative, sweep: Sweep) -> OnlineIterative:
    """Return a learner with its enhancer, planner and radius as the sweep has them wrong."""
    if not sweep["explores"] and isinstance(learner.enhancer, Optimistic | FromReference):
        learner = replace(learner, enhancer=OnPolicy())
    if sweep["planning_factor"] != 1.0:
        factor = sweep["planning_factor"]
        learner = replace(learner, planner=OtherPenalty(learner.planner, factor))
    return replace(learner, radius=sabotaged_rule(learner.radius, sweep))


@dataclass(frozen=True)
class _Counted:
    """A rule to which every comparison counts ``factor`` times in the set, not in the fit."""

    rule: ConfidenceRule
    factor: float

    def __call__(self, data: PreferenceData, problem: Problem) -> Array:
        return self.rule(recounted(data, self.factor), problem)

    def fit(
        self,
        data: PreferenceData,
        design: Design | None = None,
        start: Solution[Array] | None = None,
    ) -> Solution[Array]:
        return self.rule.fit(data, design, start)

    def confidence_set(
        self,
        fit: Solution[Array],
        data: PreferenceData,
        problem: Problem | None = None,
        design: Design | None = None,
    ) -> Scalable:
        return self.rule.confidence_set(fit, recounted(data, self.factor), problem, design)


@dataclass(frozen=True)
class OtherPenalty:
    """A planner of any model that plans with ``factor * eta``."""

    planner: Planner[Any]
    factor: float

    def __call__(
        self, model: Any, problem: Problem, key: Key, start: Policy | None = None
    ) -> Solution[Policy]:
        """Return the plan of that penalty."""
        settings: Any = problem  # every problem is a dataclass with its eta
        other = replace(settings, eta=self.factor * problem.eta)
        return self.planner(model, other, key, start)


@dataclass(frozen=True, eq=False)
class _Misled:
    """A learner that misreads a share of every label, or forgets earlier rounds."""

    learner: OnlineAlgorithm[OnlineState]
    misread: float
    remembers: bool

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> OnlineState:
        return self.learner.init(problem, data, key)

    def step(
        self, state: OnlineState, problem: Problem, feedback: PairFeedback, key: Key
    ) -> tuple[OnlineState, Mapping[str, Array]]:
        def read(query: PairQuery, key: Key) -> Comparisons:
            record = feedback(query, key)
            return replace(record, y=record.y + self.misread * (1.0 - 2.0 * record.y))

        if not self.remembers:
            state = replace(state, data=recounted(state.data, 0.0))
        return self.learner.step(state, problem, read, key)

    def policy(self, state: OnlineState) -> Policy:
        return self.learner.policy(state)


@dataclass(frozen=True)
class _Partly(OnlineState):
    """The state of a learner, and the comparisons that it fits to."""

    fitted: PreferenceData


@dataclass(frozen=True, eq=False)
class Unfitted:
    """A learner with offline pairs in its data, and so in ``Sigma``, but not in its fit."""

    learner: OnlineAlgorithm[OnlineState]

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> OnlineState:
        """Fit to nothing."""
        return self._partly(data, recounted(data, 0.0), problem, key)

    def step(
        self, state: OnlineState, problem: Problem, feedback: PairFeedback, key: Key
    ) -> tuple[OnlineState, Mapping[str, Array]]:
        """Play one round, and fit to those that were played."""
        new, report = self.learner.step(state, problem, feedback, key)
        known: Any = state
        count = known.fitted.count + new.data.count - state.data.count
        wins = known.fitted.wins + new.data.wins - state.data.wins
        return self._partly(new.data, new.data.reweighted(count, wins), problem, key), report

    def policy(self, state: OnlineState) -> Policy:
        """Return the learner's policy."""
        return self.learner.policy(state)

    def _partly(
        self, data: PreferenceData, fitted: PreferenceData, problem: Problem, key: Key
    ) -> _Partly:
        own = self.learner.init(problem, fitted, key)
        return _Partly(data, own.fit, own.confidence, own.plan, fitted)
