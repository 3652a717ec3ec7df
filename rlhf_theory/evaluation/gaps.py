"""Exact values and gaps of enumerable policies, in forms that do not cancel."""

from __future__ import annotations

import math

from rlhf_theory.arrays import Array, full_like, namespace
from rlhf_theory.policies import expectation, kl


def over_contexts(values: Array, weights: Array) -> Array:
    """Return ``E_x values``, shape ``(R,)``; a context of weight 0 counts nothing.

    Parameters
    ----------
    values
        Shape ``(R, B)`` or ``(1, B)``; may be infinite where a weight is 0.
    weights
        Probabilities of the contexts, shape ``(R, B)`` or ``(1, B)``.
    """
    xp = namespace(values, weights)
    counted = xp.where(weights > 0, values, xp.zeros_like(values))
    return xp.sum(weights * counted, axis=-1)


def mean_kl(log_p: Array, log_q: Array, weights: Array) -> Array:
    """Return ``E_x KL(p || q)``, shape ``(R,)``, for policies ``(R, B, A)``."""
    return over_contexts(kl(log_p, log_q), weights)


def objective(log_pi: Array, rewards: Array, log_pi0: Array, weights: Array, eta: float) -> Array:
    """Return ``J(pi) = E_x [E_pi r - eta KL(pi || pi0)]``, shape ``(R,)``.

    Source: theory sheet 0.1. Compare policies by `suboptimality`, not by differences of this.
    """
    reward = over_contexts(expectation(log_pi, rewards), weights)
    return reward - eta * mean_kl(log_pi, log_pi0, weights)


def suboptimality(log_pi: Array, log_pi_star: Array, weights: Array, eta: float) -> Array:
    """Return ``J(pi*) - J(pi) = eta E_x KL(pi || pi*)``, shape ``(R,)``.

    Exact for every ``pi`` when ``pi* = O(r*, eta, pi0)`` (identity I1 of the theory sheet).
    """
    return eta * mean_kl(log_pi, log_pi_star, weights)


def regret(log_pi: Array, rewards: Array, log_pi0: Array, weights: Array) -> Array:
    """Return ``E_x [max_a r - E_pi r]`` without regularisation, shape ``(R,)``, never negative.

    Parameters
    ----------
    log_pi, rewards, log_pi0
        Shape ``(R, B, A)``; the maximum is over actions that are present (``log_pi0 > -inf``).
    weights
        Shape ``(R, B)``.
    """
    xp = namespace(log_pi, rewards)
    none = full_like((1,), -math.inf, rewards)
    best = xp.max(xp.where(log_pi0 > -math.inf, rewards, none), axis=-1, keepdims=True)
    return over_contexts(expectation(log_pi, best - rewards), weights)


def jeffreys(log_pi: Array, log_pi_star: Array, weights: Array, eta: float) -> Array:
    """Return ``J(pi*) - J(pi) + eta E_x KL(pi* || pi)``, the left side of the theorems.

    Equal to ``eta`` times the Jeffreys divergence of ``pi`` and ``pi*``, shape ``(R,)`` (identity
    I2 of the theory sheet; [2409.02392], Proposition 2).
    """
    forward = mean_kl(log_pi_star, log_pi, weights)
    return eta * (mean_kl(log_pi, log_pi_star, weights) + forward)
