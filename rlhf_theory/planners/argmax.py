"""Planning without regularisation: all mass on the action of largest reward."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_theory.arrays import Array, full_like, log_softmax, namespace
from rlhf_theory.core import Policy, Problem, RewardModel, Solution, closed_form
from rlhf_theory.policies import FunctionPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner


def argmax_log_probs(rewards: Array, log_pi0: Array, tie: float = 1e-12) -> Array:
    """Return the policy that plays an action of largest reward.

    Parameters
    ----------
    rewards, log_pi0
        Shape ``(R, B, A)``; absent actions (``log_pi0 = -inf``) are never played.
    tie
        Rewards that close to the largest count as equal: such actions share in proportion to pi0.

    Returns
    -------
    Log-probabilities, shape ``(R, B, A)``; the limit of the Gibbs policy for ``eta -> 0``.
    """
    xp = namespace(rewards, log_pi0)
    none = full_like((1,), -math.inf, rewards)
    present = xp.where(log_pi0 > -math.inf, rewards, none)
    best = xp.max(present, axis=-1, keepdims=True)
    return log_softmax(xp.where(present >= best - tie, log_pi0, none))


@planner("argmax")
@dataclass(frozen=True)
class Argmax:
    """Plan greedily, without KL; the problem's ``eta`` plays no part.

    Attributes
    ----------
    tie
        Rewards that close to the largest count as equal.

    Source: [2301.11270], the greedy policy of Theorem 3.9.
    """

    tie: float = 1e-12

    def __call__(
        self,
        model: RewardModel,
        problem: Problem,
        key: Key,  # noqa: ARG002
        start: Policy | None = None,  # noqa: ARG002
    ) -> Solution[Policy]:
        """Return the greedy policy."""
        policy = FunctionPolicy(lambda c: argmax_log_probs(model.rewards(c), c.log_pi0, self.tie))
        like = problem.empty_data().count
        return closed_form(problem.tabulate(policy), problem.n_replicas, like)
