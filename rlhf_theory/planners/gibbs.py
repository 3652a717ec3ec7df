"""The Gibbs policy: the planning oracle ``O(r, eta, pi0)``, exact by log-sum-exp."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_theory.arrays import Array, log_softmax, logsumexp
from rlhf_theory.core import Policy, Problem, RewardModel, Solution, closed_form
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_positive
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner


def gibbs_log_probs(rewards: Array, log_pi0: Array, eta: float) -> Array:
    r"""Return the Gibbs policy ``pi0 exp(r / eta) / Z``.

    Parameters
    ----------
    rewards, log_pi0
        Shape ``(R, B, A)``.
    eta
        Weight of the KL, positive.

    Returns
    -------
    Log-probabilities, shape ``(R, B, A)``; ``-inf`` where ``log_pi0`` is.
    """
    return log_softmax(log_pi0 + rewards / eta)


def log_partition(rewards: Array, log_pi0: Array, eta: float) -> Array:
    """Return ``eta log E_{pi0} exp(r / eta)``, the value of the best policy, shape ``(R, B)``."""
    return eta * logsumexp(log_pi0 + rewards / eta)


@dataclass(frozen=True, eq=False)
class GibbsPolicy:
    """The maximiser of ``E[r] - eta KL(pi || pi0)``.

    Attributes
    ----------
    model
        The reward ``r``.
    eta
        Weight of the KL, positive.
    """

    model: RewardModel
    eta: float

    def __post_init__(self) -> None:
        check_positive("eta", self.eta)

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``."""
        return contexts.lookup(
            lambda c: gibbs_log_probs(self.model.rewards(c), c.log_pi0, self.eta)
        )


@planner("gibbs")
@dataclass(frozen=True)
class Gibbs:
    """Plan exactly: ``pi_r = O(r, eta, pi0)``.

    Source: [2312.11456], planning oracle; identities I1, I5 of the theory sheet.
    """

    def __call__(
        self,
        model: RewardModel,
        problem: Problem,
        key: Key,  # noqa: ARG002
        start: Policy | None = None,  # noqa: ARG002
    ) -> Solution[Policy]:
        """Return the Gibbs policy of the problem's ``eta``."""
        policy = problem.tabulate(GibbsPolicy(model, problem.eta))
        like = problem.empty_data().count
        return closed_form(policy, problem.n_replicas, like)
