"""Online iterative RLHF: a main agent that exploits and an enhancer that explores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rlhf_theory.algorithms.enhancers import Optimistic
from rlhf_theory.arrays import Array, namespace
from rlhf_theory.core import (
    ConfidenceSet,
    Feedback,
    Planner,
    Policy,
    PreferenceData,
    Problem,
    RewardModel,
    Solution,
)
from rlhf_theory.errors import check_positive
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.planners.gibbs import Gibbs
from rlhf_theory.randomness import Key, categorical
from rlhf_theory.rewards import LinearReward

__all__ = ["Enhancer", "OnlineIterative", "OnlineState"]


class Enhancer(Protocol):
    """Chooses the policy that explores around the main agent."""

    def __call__(
        self, problem: Problem, pi1: Policy, confidence: ConfidenceSet, key: Key
    ) -> Policy:
        """Return the policy of the second action."""
        ...


@dataclass(frozen=True, eq=False)
class OnlineState:
    """What the next round needs.

    Attributes
    ----------
    data
        All comparisons so far.
    fit
        The estimate ``theta_hat``.
    confidence
        The confidence set around it.
    plan
        The main agent ``pi1 = O(r_hat, eta, pi0)``.
    """

    data: PreferenceData
    fit: Solution[Array]
    confidence: ConfidenceSet
    plan: Solution[Policy]


@dataclass(frozen=True, eq=False, kw_only=True)
class OnlineIterative:
    r"""Online GSHF: the main agent exploits, the enhancer explores, labels come in batches.

    Every round draws ``m`` contexts, ``a1 ~ pi1 = O(r_hat, eta, pi0)`` and ``a2 ~ pi2`` from the
    enhancer, asks for a label each, appends them to all data and fits again.

    Departures from the paper: the estimate is the maximum-likelihood one with a ridge instead of
    a norm constraint unless ``theta_bound`` is set; ``Sigma`` is unnormalised and sums the
    observed pairs, offline ones included, where the paper writes the population covariance of the
    past policy pairs divided by the batch; the last policy is deployed every round, and the
    choice of the round ``t0`` is left to the caller (`online_bound`).

    Attributes
    ----------
    enhancer
        The policy of the second action: `Optimistic` (the paper's option I), `FromReference`
        (option II, hybrid), or a baseline.
    radius
        Rule for the confidence set that the enhancer explores in.
    batch_size
        Labels ``m`` per round.
    lam
        Ridge of the estimate, and ``lambda`` of Sigma.
    theta_bound
        Fit over ``|theta| <= theta_bound`` without ridge; None for the ridge fit.
    scale
        Known scale ``s`` of the labels.
    planner
        Planning oracle of the main agent.

    Source: [2312.11456], Algorithm 2; [2405.07863], Algorithm 1.
    """

    enhancer: Enhancer = field(default_factory=Optimistic)
    radius: ConfidenceRule = field(default_factory=R2Prime)
    batch_size: int = 32
    lam: float = 1.0
    theta_bound: float | None = None
    scale: float = 1.0
    planner: Planner[RewardModel] = field(default_factory=Gibbs)

    def __post_init__(self) -> None:
        check_positive("batch_size", self.batch_size)
        check_positive("lam", self.lam)

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> OnlineState:
        """Fit and plan from the data at hand, possibly none."""
        return self._refit(problem, data, None, key)

    def step(
        self, state: OnlineState, problem: Problem, feedback: Feedback, key: Key
    ) -> tuple[OnlineState, Mapping[str, Array]]:
        """Play one round; reports ``residual``, ``converged`` and ``labels`` used so far."""
        r, m = problem.n_replicas, self.batch_size
        x = problem.sample_contexts(key.child("contexts"), m)

        # The main agent pi1 = O(r_hat, eta, pi0) exploits, the enhancer pi2 explores around it.
        pi1 = state.plan.value
        pi2 = self.enhancer(problem, pi1, state.confidence, key.child("enhancer"))
        a1 = categorical(pi1.log_probs(x), key.child("a1").uniform(r, m, like=x.like))
        a2 = categorical(pi2.log_probs(x), key.child("a2").uniform(r, m, like=x.like))

        # Compare and append (x, a1, a2, y) to D; fit and plan again.
        y = feedback(x, a1, a2, key.child("labels"))
        new = self._refit(problem, state.data.add(x, a1, a2, y), state, key)
        solved = new.plan.given(new.fit)
        report = {
            "residual": solved.residual,
            "converged": solved.converged,
            "labels": new.data.n_labels,
        }
        return new, report

    def policy(self, state: OnlineState) -> Policy:
        """Return the main agent; computes nothing."""
        return state.plan.value

    def _refit(
        self, problem: Problem, data: PreferenceData, last: OnlineState | None, key: Key
    ) -> OnlineState:
        ridge = self.lam if self.theta_bound is None else 0.0
        fit = bradley_terry_mle(
            data,
            ridge=ridge,
            bound=self.theta_bound,
            scale=self.scale,
            start=None if last is None else last.fit,
        )
        confidence = self.radius.confidence_set(fit, data, problem)
        start = None if last is None else last.plan.value
        plan = self.planner(LinearReward(fit.value), problem, key.child("plan"), start)
        return OnlineState(data, fit, confidence, plan)
