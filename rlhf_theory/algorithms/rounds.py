"""What all online learners do in a round: draw a batch, compare, append; and what they report.

`Rounds` is the whole of such a learner but for what it fits and how it plans.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf_theory.arrays import Array
from rlhf_theory.core import ConfidenceSet, Enhancer, PairFeedback, Policy, Problem, Solution
from rlhf_theory.data import PairQuery, PreferenceData
from rlhf_theory.designs import Design
from rlhf_theory.errors import check_positive
from rlhf_theory.estimators.confidence import ConfidenceRule, Constant
from rlhf_theory.randomness import Key, categorical


@dataclass(frozen=True, eq=False)
class OnlineState:
    """What the next round needs.

    Attributes
    ----------
    data
        All comparisons so far.
    fit
        The estimate, shape ``(R, p)``: ``theta_hat`` with ``p = d`` of a reward, or with
        ``p = d (d + 1) / 2`` of a bilinear preference.
    confidence
        The confidence set around it.
    plan
        The main agent, planned with the estimate.
    """

    data: PreferenceData
    fit: Solution[Array]
    confidence: ConfidenceSet
    plan: Solution[Policy]


@dataclass(frozen=True, eq=False, kw_only=True)
class Rounds(ABC):
    """A main agent that exploits what is learnt, and an enhancer that explores around it.

    Attributes
    ----------
    enhancer
        The policy of the second action.
    radius
        Rule for the confidence set that the enhancer explores in; it also says how to fit.
    batch_size
        Labels ``m`` per round.
    """

    enhancer: Enhancer
    radius: ConfidenceRule = field(default_factory=lambda: Constant(beta=1.0))
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_positive("batch_size", self.batch_size)

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> OnlineState:
        """Fit and plan from the data at hand, possibly none."""
        return self._refit(problem, data, None, key)

    def step(
        self, state: OnlineState, problem: Problem, feedback: PairFeedback, key: Key
    ) -> tuple[OnlineState, Mapping[str, Array]]:
        """Play one round; reports ``residual`` and ``converged``."""
        # The main agent pi1 exploits, the enhancer pi2 explores around it.
        pi1 = state.plan.value
        pi2 = self.enhancer(problem, pi1, state.confidence, key.child("enhancer"))

        # Draw a batch, compare, append (x, a1, a2, y) to D; fit and plan again.
        data = compare(problem, state.data, pi1, pi2, feedback, self.batch_size, key)
        new = self._refit(problem, data, state, key)
        return new, report(new.fit, new.plan)

    def policy(self, state: OnlineState) -> Policy:
        """Return the main agent; computes nothing."""
        return state.plan.value

    def _refit(
        self, problem: Problem, data: PreferenceData, last: OnlineState | None, key: Key
    ) -> OnlineState:
        fit_before, start = (None, None) if last is None else (last.fit, last.plan.value)
        design = self._design(data)
        fit = self.radius.fit(data, design, fit_before)
        confidence = self.radius.confidence_set(fit, data, problem, design)
        plan = self._plan(fit.value, problem, key.child("plan"), start)
        return OnlineState(data, fit, confidence, plan)

    @abstractmethod
    def _design(self, data: PreferenceData) -> Design:
        """Return the rows of the model that is fitted."""

    @abstractmethod
    def _plan(
        self, theta: Array, problem: Problem, key: Key, start: Policy | None
    ) -> Solution[Policy]:
        """Return the main agent of an estimate, from the last main agent where there is one."""


def compare(
    problem: Problem,
    data: PreferenceData,
    pi1: Policy,
    pi2: Policy,
    feedback: PairFeedback,
    batch_size: int,
    key: Key,
) -> PreferenceData:
    """Return the data with a batch ``x ~ d0, a1 ~ pi1, a2 ~ pi2`` labelled and appended.

    Draws from ``key`` at ``contexts``, ``a1``, ``a2`` and ``labels``, so that learners that share a
    key meet the same contexts and the same label noise.
    """
    r = problem.n_replicas
    x = problem.sample_contexts(key.child("contexts"), batch_size)
    a1 = categorical(pi1.log_probs(x), key.child("a1").uniform(r, batch_size, like=x.like))
    a2 = categorical(pi2.log_probs(x), key.child("a2").uniform(r, batch_size, like=x.like))
    return data.add(feedback(PairQuery(x, a1, a2), key.child("labels")))


def report(fit: Solution[Any], plan: Solution[Policy]) -> Mapping[str, Array]:
    """Return what every online learner records: ``residual`` and ``converged``."""
    solved = plan.given(fit)
    return {"residual": solved.residual, "converged": solved.converged}
