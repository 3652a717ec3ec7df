"""Online iterative RLHF: a main agent that exploits and an enhancer that explores."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_theory.algorithms.enhancers import Optimistic
from rlhf_theory.algorithms.rounds import OnlineState, Rounds
from rlhf_theory.arrays import Array
from rlhf_theory.core import Enhancer, Planner, Policy, Problem, RewardModel, Solution
from rlhf_theory.data import PreferenceData
from rlhf_theory.designs import Design
from rlhf_theory.planners.gibbs import Gibbs
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.roles import learner

__all__ = ["OnlineIterative", "OnlineState"]


@learner(
    "online-iterative",
    {
        "enhancer": "from-reference",
        "radius": {"kind": "constant", "beta": 0.5},
        "batch_size": 5,
    },
)
@dataclass(frozen=True, eq=False, kw_only=True)
class OnlineIterative(Rounds):
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
    planner: Planner[RewardModel] = field(default_factory=Gibbs)

    def _design(self, data: PreferenceData) -> Design:
        return data.differences

    def _plan(
        self, theta: Array, problem: Problem, key: Key, start: Policy | None
    ) -> Solution[Policy]:
        return self.planner(LinearReward(theta), problem, key, start)
