"""Wrong algorithms for sabotages of cards, made of right ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rlhf_theory.algorithms.offline_pessimistic import OfflinePessimistic
from rlhf_theory.arrays import Array, inner
from rlhf_theory.core import OfflineAlgorithm, Policy, Problem, Solution
from rlhf_theory.data import Contexts, PreferenceData
from rlhf_theory.features import centred
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.policies import FunctionPolicy
from rlhf_theory.randomness import Key


def misread(data: PreferenceData, share: float) -> PreferenceData:
    """Return data in which a share of the labels of every pair is read the wrong way round.

    A half: labels are ignored; 1: all winners are losers.
    """
    if share == 0.0:
        return data
    return data.reweighted(data.count, data.wins + share * (data.count - 2.0 * data.wins))


def plans_with(learner: OfflineAlgorithm, factor: float) -> OfflineAlgorithm:
    """Return the learner that plans with ``factor * eta``."""
    return learner if factor == 1.0 else _OtherPenalty(learner, factor)


def bonus_flipped(learner: OfflinePessimistic) -> OfflineAlgorithm:
    """Return the learner that adds the bonus which a pessimist subtracts, in either option."""
    return _BonusFlipped(learner)


def plays_the_worst(contexts: Contexts, rewards: Array) -> Array:
    """Return log-probabilities of the action of least reward, nearly surely, ``(R, B, A)``."""
    return gibbs_log_probs(-rewards, contexts.log_pi0, 1e-3)


@dataclass(frozen=True, eq=False)
class _OtherPenalty:
    learner: OfflineAlgorithm
    factor: float

    def __call__(self, problem: Problem, data: PreferenceData, key: Key) -> Solution[Policy]:
        settings: Any = problem  # every problem is a dataclass with its eta
        return self.learner(replace(settings, eta=self.factor * problem.eta), data, key)


@dataclass(frozen=True, eq=False)
class _BonusFlipped:
    learner: OfflinePessimistic

    def __call__(self, problem: Problem, data: PreferenceData, key: Key) -> Solution[Policy]:
        plan = self.learner(problem, data, key)
        theta = self.learner.radius.fit(data).value

        def log_probs(x: Contexts) -> Array:
            # What the policy is the Gibbs policy of, mirrored at the estimate.
            lower = problem.eta * (plan.value.log_probs(x) - x.log_pi0)
            return gibbs_log_probs(2.0 * inner(centred(x), theta) - lower, x.log_pi0, problem.eta)

        return replace(plan, value=FunctionPolicy(log_probs))
