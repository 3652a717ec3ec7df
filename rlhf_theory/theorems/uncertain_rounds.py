"""A learner that explores in the paper's population covariances, and says how uncertain it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rlhf_theory.algorithms.online_iterative import OnlineIterative, OnlineState
from rlhf_theory.arrays import Array, eye_like, full_like, namespace, solve
from rlhf_theory.core import PairFeedback, Policy, Problem
from rlhf_theory.data import PreferenceData
from rlhf_theory.estimators.ellipsoid import Ellipsoid
from rlhf_theory.evaluation.coverage import policy_covariance
from rlhf_theory.features import mean_feature
from rlhf_theory.randomness import Key


@dataclass(frozen=True, eq=False)
class Explored:
    """State of the learner and ``Sigma`` in the per-batch scaling, shape ``(R, d, d)``."""

    state: OnlineState
    sigma: Array


@dataclass(frozen=True)
class _Given:
    policy: Policy

    def __call__(
        self,
        problem: Problem,  # noqa: ARG002
        pi1: Policy,  # noqa: ARG002
        confidence: object,  # noqa: ARG002
        key: Key,  # noqa: ARG002
    ) -> Policy:
        return self.policy


@dataclass(frozen=True, eq=False, kw_only=True)
class PopulationCovariance:
    """Online learning with the paper's ``Sigma_t``, population covariances of the past pairs.

    Per-batch scaling: ``Sigma_t = lambda I + sum_{s < t} E z z^T``. The enhancer explores in it,
    and the rounds report ``uncertainty``, ``|v_t|_{Sigma_t^-1}`` with
    ``v_t = E phi(x, pi1_t) - E phi(x, pi2_t)``.

    Attributes
    ----------
    learner
        Fits, plans, and has the enhancer.
    lam
        ``lambda``.
    """

    learner: OnlineIterative
    lam: float

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> Explored:
        """Return the learner's state, with ``Sigma = lambda I``."""
        like = full_like((problem.n_replicas, 1, 1), self.lam, data.count)
        sigma = like * eye_like(problem.dim, data.count)
        return Explored(self.learner.init(problem, data, key), sigma)

    def step(
        self, state: Explored, problem: Problem, feedback: PairFeedback, key: Key
    ) -> tuple[Explored, Mapping[str, Array]]:
        """Play one round; reports what the learner does, and ``uncertainty``."""
        inner = state.state
        pi1, beta = inner.plan.value, full_like((problem.n_replicas,), 1.0, inner.fit.value)
        confidence = Ellipsoid(inner.fit.value, beta, lambda: state.sigma)
        pi2 = self.learner.enhancer(problem, pi1, confidence, key.child("enhancer"))
        x, weights = problem.population(key, 0)
        p1, p2 = pi1.log_probs(x), pi2.log_probs(x)
        xp = namespace(p1, p2)
        difference = mean_feature(x, p1) - mean_feature(x, p2)
        v = xp.sum(weights[..., None] * difference, axis=1)
        # E z z^T for independent actions, as a sum of parts that are never negative.
        rows = weights[..., None] * difference
        spread = xp.matmul(xp.matrix_transpose(rows), difference)
        spread = spread + policy_covariance(x, weights, p1) + policy_covariance(x, weights, p2)
        new, report = replace(self.learner, enhancer=_Given(pi2)).step(
            inner, problem, feedback, key
        )
        width = xp.sqrt(xp.sum(v * solve(state.sigma, v), axis=-1))
        return Explored(new, state.sigma + spread), {**report, "uncertainty": width}

    def policy(self, state: Explored) -> Policy:
        """Return the learner's policy."""
        return self.learner.policy(state.state)
