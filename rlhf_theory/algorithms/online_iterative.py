"""Online iterative RLHF: a main agent that exploits and an enhancer that explores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlhf_theory.algorithms.enhancers import Optimistic
from rlhf_theory.algorithms.rounds import compare, report
from rlhf_theory.arrays import Array
from rlhf_theory.core import (
    ConfidenceSet,
    Enhancer,
    PairFeedback,
    Planner,
    Policy,
    Problem,
    RewardModel,
    Solution,
)
from rlhf_theory.data import PreferenceData
from rlhf_theory.errors import check_positive
from rlhf_theory.estimators.confidence import ConfidenceRule, Constant
from rlhf_theory.planners.gibbs import Gibbs
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.roles import learner


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


@learner(
    "online-iterative",
    {
        "enhancer": "from-reference",
        "radius": {"kind": "constant", "beta": 0.5},
        "batch_size": 5,
    },
)
@dataclass(frozen=True, eq=False, kw_only=True)
class OnlineIterative:
    r"""Online GSHF: main agent and enhancer, labels in batches; with offline data the hybrid.

    Every round draws ``m`` contexts, ``a1`` from the main agent :math:`\pi_1 = O(\hat r, \eta,
    \pi_0)` and ``a2`` from the enhancer, asks for a label each, appends them to all data and fits
    again. Started with offline data and `FromReference` as enhancer it is the hybrid algorithm.

    Departures from the paper: ``Sigma`` is unnormalised and sums the observed pairs, offline ones
    included, where the paper writes the population covariance of the past policy pairs; the radius
    has explicit constants, or is any multiple of them; every main agent is deployed, and the
    choice of the round ``t0`` is left to the caller (`certificates.best_round`).

    Attributes
    ----------
    enhancer
        The policy of the second action: `Optimistic` (the paper's option I), `FromReference`
        (option II), or a baseline.
    radius
        Rule for the confidence set that the enhancer explores in; it also says how to fit. The
        default is a ridge fit with a small bonus and no guarantee; `Adaptive` and
        `MarginalLikelihood` have one (give them the norm of theta*), and `Scaled` multiplies their
        bonus.
    batch_size
        Labels ``m`` per round.
    planner
        Planning oracle of the main agent.

    Source: [2312.11456], Algorithm 2; [2405.07863], Algorithm 1.
    """

    enhancer: Enhancer = field(default_factory=Optimistic)
    radius: ConfidenceRule = field(default_factory=lambda: Constant(beta=1.0))
    batch_size: int = 32
    planner: Planner[RewardModel] = field(default_factory=Gibbs)

    def __post_init__(self) -> None:
        check_positive("batch_size", self.batch_size)

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> OnlineState:
        """Fit and plan from the data at hand, possibly none."""
        return self._refit(problem, data, None, key)

    def step(
        self, state: OnlineState, problem: Problem, feedback: PairFeedback, key: Key
    ) -> tuple[OnlineState, Mapping[str, Array]]:
        """Play one round; reports ``residual`` and ``converged``."""
        # The main agent pi1 = O(r_hat, eta, pi0) exploits, the enhancer pi2 explores around it.
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
        fit = self.radius.fit(data, start=fit_before)
        confidence = self.radius.confidence_set(fit, data, problem)
        plan = self.planner(LinearReward(fit.value), problem, key.child("plan"), start)
        return OnlineState(data, fit, confidence, plan)
