"""Wrong algorithms for sabotages of cards, made of right ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from rlhf_theory.algorithms.offline_pessimistic import OfflinePessimistic
from rlhf_theory.arrays import Array, inner, log_softmax, namespace
from rlhf_theory.core import ConfidenceSet, OfflineAlgorithm, Policy, Problem, Solution
from rlhf_theory.data import Contexts, PreferenceData
from rlhf_theory.features import centred, mean_feature
from rlhf_theory.planners.chi_squared import chi_squared_log_probs, log_omega
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


def recounted(data: PreferenceData, factor: float) -> PreferenceData:
    """Return data in which every comparison counts ``factor`` times; 0: none is left."""
    return data if factor == 1.0 else data.reweighted(factor * data.count, factor * data.wins)


def misreads(learner: OfflineAlgorithm, share: float) -> OfflineAlgorithm:
    """Return the learner that reads a share of the labels the wrong way round, as `misread`."""
    return learner if share == 0.0 else _Misreading(learner, share)


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
class UpperBound:
    """The upper bound where `LowerBound` has the lower one: settings as there."""

    confidence: ConfidenceSet
    reference: Policy

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``."""

        def upper(c: Contexts) -> Array:
            nu = mean_feature(c, self.reference.log_probs(c))
            return self.confidence.upper(c.phi - nu[:, :, None, :])

        return contexts.lookup(upper)


def plans_chi_squared(rewards: Array, log_pi0: Array, eta: float, weight: float) -> Array:
    """Return the maximiser under ``eta (weight chi-squared + KL)``, shape ``(R, B, A)``.

    Log-probabilities, by the right planners where the weight is 1, or 0 for KL alone.
    """
    if weight == 0.0:
        return gibbs_log_probs(rewards, log_pi0, eta)
    if weight == 1.0:
        return chi_squared_log_probs(rewards, log_pi0, eta)[0]
    # The ratio w solves weight w + log w = (r - c) / eta: so does u = weight w up to a shift, with
    # sum pi0 u = weight. Bisection for c.
    xp, shift = namespace(rewards), math.log(weight)
    y = rewards / eta + shift
    reach = weight * xp.exp(xp.max(-log_pi0, axis=-1)) + xp.max(-log_pi0, axis=-1) + abs(shift) + 1
    low, high = xp.min(y, axis=-1) - reach, xp.max(y, axis=-1) + reach
    for _ in range(100):
        c = (low + high) / 2.0
        total = xp.sum(xp.exp(log_pi0 + log_omega(y - c[..., None]) - shift), axis=-1)
        low, high = xp.where(total > 1.0, c, low), xp.where(total > 1.0, high, c)
    return log_softmax(log_pi0 + log_omega(y - c[..., None]))


@dataclass(frozen=True, eq=False)
class _Misreading:
    learner: OfflineAlgorithm
    share: float

    def __call__(self, problem: Problem, data: PreferenceData, key: Key) -> Solution[Policy]:
        return self.learner(problem, misread(data, self.share), key)


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
