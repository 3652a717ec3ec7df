"""Policies as values, and their divergences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf_theory.arrays import Array, logsumexp, namespace
from rlhf_theory.core import Policy
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_weights
from rlhf_theory.roles import policy


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
        return contexts.from_table(self.table)


@dataclass(frozen=True, eq=False)
class FunctionPolicy:
    """A policy given by a function from contexts to log-probabilities ``(R, B, A)``."""

    function: Callable[[Contexts], Array]

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``."""
        return contexts.lookup(self.function)


@dataclass(frozen=True, eq=False)
class SolvedPolicy:
    """A policy that has been solved on all contexts of one table, and is computed on others.

    What a planner returns that solves on the population: `Problem.tabulate` makes a table of it
    where contexts are finite for good, and leaves it as it is where pools of actions change.

    Attributes
    ----------
    contexts
        The table, all of its contexts.
    table
        Log-probabilities there, shape ``(R, X, A)`` or ``(1, X, A)``.
    elsewhere
        The same policy on any contexts.
    """

    contexts: Contexts
    table: Array
    elsewhere: Policy

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``."""
        here = contexts is self.contexts or contexts.table is self.contexts
        if here and contexts.ids is not None:
            return contexts.from_table(self.table)
        return self.elsewhere.log_probs(contexts)


@policy("reference")
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
        check_weights(self.weights, len(self.policies), "policy", "policies")

    def log_probs(self, contexts: Contexts) -> Array:
        """Return log-probabilities, shape ``(R, B, A)``."""
        parts = [
            p.log_probs(contexts) + math.log(w)
            for p, w in zip(self.policies, self.weights, strict=True)
            if w > 0
        ]
        xp = namespace(*parts)
        return logsumexp(xp.stack(list(xp.broadcast_arrays(*parts)), axis=0), axis=0)


def check_log_probs(name: str, log_p: Array) -> None:
    """Raise ``ValueError`` unless log-probabilities ``(R, B, A)`` sum to one in every context.

    Also for NaN, and where no action is present.
    """
    xp = namespace(log_p)
    total = logsumexp(log_p)
    slack = max(1e-6, 100.0 * float(xp.finfo(log_p.dtype).eps))
    if not bool(xp.all(xp.abs(total) < slack)):
        worst = float(xp.max(xp.abs(xp.exp(total) - 1.0)))
        message = (
            f"{name} must be log-probabilities that sum to one in every context; the sums are off "
            f"by up to {worst:.1e}. Normalise with arrays.log_softmax."
        )
        raise ValueError(message)


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
    return xp.sum(p * xp.where(p > 0, values, xp.zeros_like(values)), axis=-1)


def kl(log_p: Array, log_q: Array) -> Array:
    """Return ``KL(p || q)`` over the last axis, shape ``(R, B)``.

    Infinite where ``p`` has mass and ``q`` has none; absent actions of both count nothing. Summed
    as ``p log(p/q) - p + q``, whose terms are never negative, so that it does not cancel for
    policies that are close.
    """
    xp = namespace(log_p, log_q)
    p, q = xp.exp(log_p), xp.exp(log_q)
    absent = p == 0.0  # mass that underflows counts as none
    zero = xp.zeros_like(log_p)
    gap = xp.where(absent, zero, log_q) - xp.where(absent, zero, log_p)  # log(q/p)
    near = gap <= 1.0
    all_near = bool(xp.all(near))
    g = gap if all_near else xp.where(near, gap, xp.zeros_like(gap))
    # p (e^g - 1 - g). The difference cancels for small g: 2e-13 is left of its accuracy at 1e-3,
    # where four terms of the series are good for 3e-15.
    series = g * g * (0.5 + g * (1.0 / 6.0 + g * (1.0 / 24.0 + g / 120.0)))
    term = p * xp.where(xp.abs(g) < 1e-3, series, xp.expm1(g) - g)
    if not all_near:
        # Where p is far below q the same is q - p (1 + g): nothing cancels, and e^g would overflow.
        term = xp.where(near, term, q - p * (1.0 + gap))
    return xp.sum(xp.where(absent, q, term), axis=-1)


def entropy(log_p: Array) -> Array:
    """Return the entropy in nats over the last axis, shape ``(R, B)``."""
    xp = namespace(log_p)
    finite = xp.where(log_p > -math.inf, log_p, xp.zeros_like(log_p))
    return -xp.sum(xp.exp(log_p) * finite, axis=-1)
