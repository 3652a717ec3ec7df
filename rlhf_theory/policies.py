"""Policies as values, and their divergences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf_theory.arrays import Array, logsumexp, namespace, take_rows
from rlhf_theory.core import Policy
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_nonnegative

__all__ = [
    "FunctionPolicy",
    "MixturePolicy",
    "ReferencePolicy",
    "TablePolicy",
    "entropy",
    "expectation",
    "kl",
    "uniform_log_probs",
]


@dataclass(frozen=True, eq=False)
class TablePolicy:
    """A policy over finitely many contexts.

    Attributes
    ----------
    table
        Log-probabilities, shape ``(R, X, A)`` or ``(1, X, A)``.
    """

    table: Array

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``; contexts must carry ids."""
        if contexts.ids is None:
            message = "A TablePolicy needs contexts with ids; these have none."
            raise ValueError(message)
        if contexts.table is None and contexts.shape[1] == self.table.shape[1]:
            return self.table  # the whole table, in order
        return take_rows(self.table, contexts.ids)


@dataclass(frozen=True, eq=False)
class FunctionPolicy:
    """A policy given by a function from contexts to log-probabilities ``(R, B, A)``."""

    function: Callable[[Contexts], Array]

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``."""
        return contexts.lookup(self.function)


@dataclass(frozen=True, eq=False)
class ReferencePolicy:
    """The reference policy pi0."""

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``."""
        return contexts.log_pi0


@dataclass(frozen=True, eq=False)
class MixturePolicy:
    """A mixture: draws one policy per context, then an action.

    Attributes
    ----------
    policies
        The components.
    weights
        Their probabilities; a component of weight 0 never acts.
    """

    policies: Sequence[Policy]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        for w in self.weights:
            check_nonnegative("weights", w)
        total = math.fsum(self.weights)
        if len(self.weights) != len(self.policies) or abs(total - 1.0) > 1e-9:
            message = (
                f"weights must be one probability per policy; got {len(self.policies)} policies "
                f"and {len(self.weights)} weights that sum to {total}."
            )
            raise ValueError(message)

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``."""
        parts = [
            p.log_probs(contexts) + math.log(w)
            for p, w in zip(self.policies, self.weights, strict=True)
            if w > 0
        ]
        xp = namespace(*parts)
        return logsumexp(xp.stack(list(xp.broadcast_arrays(*parts)), axis=0), axis=0)


def uniform_log_probs(log_pi0: Array) -> Array:
    """Return the uniform distribution over present actions, same shape as ``log_pi0``."""
    xp = namespace(log_pi0)
    present = log_pi0 > -math.inf
    n = xp.sum(xp.astype(present, log_pi0.dtype), axis=-1, keepdims=True)
    return xp.where(present, -xp.log(n), log_pi0)


def expectation(log_p: Array, values: Array) -> Array:
    """Return ``E_{a ~ p} values(a)``, shape ``(R, B)``; absent actions count nothing."""
    xp = namespace(log_p, values)
    p = xp.exp(log_p)
    return xp.sum(xp.where(p > 0, p * values, xp.zeros_like(p)), axis=-1)


def kl(log_p: Array, log_q: Array) -> Array:
    """Return ``KL(p || q)`` over the last axis, shape ``(R, B)``.

    Infinite where ``p`` has mass and ``q`` has none; absent actions of both count nothing. Summed
    as ``p log(p/q) - p + q``, whose terms are never negative, so that it does not cancel for
    policies that are close.
    """
    xp = namespace(log_p, log_q)
    absent = log_p == -math.inf
    gap = log_q - xp.where(absent, log_q, log_p)  # log(q/p); 0 where p is absent
    gap = xp.where(absent, xp.zeros_like(gap), gap)
    # p (e^gap - 1 - gap); an absent action of p adds q. Where p is far below q that is q - p (1 +
    # gap): nothing cancels there, and e^gap would overflow.
    p, q = xp.exp(log_p), xp.exp(log_q)
    near = gap <= 1.0
    gap_near = xp.where(near, gap, xp.zeros_like(gap))
    gap_far = xp.where(near, xp.zeros_like(gap), gap)
    term = xp.where(near, p * (xp.expm1(gap_near) - gap_near), q - p * (1.0 + gap_far))
    term = xp.where(absent, q, term)
    return xp.sum(term, axis=-1)


def entropy(log_p: Array) -> Array:
    """Return the entropy in nats over the last axis, shape ``(R, B)``."""
    xp = namespace(log_p)
    p = xp.exp(log_p)
    return -xp.sum(xp.where(p > 0, p * log_p, xp.zeros_like(p)), axis=-1)
