"""Labels drawn from an oracle, and the table of its win probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_theory.arrays import Array, expand_rows, int_like, namespace
from rlhf_theory.core import Feedback, PreferenceOracle
from rlhf_theory.data import Contexts
from rlhf_theory.randomness import Key, bernoulli

__all__ = ["feedback_from", "preference_matrix"]


@dataclass(frozen=True, eq=False)
class _Draw:
    oracle: PreferenceOracle

    def __call__(self, contexts: Contexts, a1: Array, a2: Array, key: Key) -> Array:
        prob = self.oracle.prob(contexts, a1, a2)
        n_replicas, n = a1.shape
        prob = expand_rows(prob, n_replicas)
        return bernoulli(prob, key.uniform(n_replicas, n, like=prob))


def feedback_from(oracle: PreferenceOracle) -> Feedback:
    """Return labels drawn from an oracle: all that a learner gets to see of it.

    The uniforms are addressed by the key, so two learners that ask for the same pair at the same
    place of the same round get the same answer.
    """
    return _Draw(oracle)


def preference_matrix(oracle: PreferenceOracle, contexts: Contexts) -> Array:
    """Return ``P(a beats b | x)`` for all pairs, shape ``(R, B, A, A)``."""
    r, b, a, _ = contexts.shape
    like = contexts.like
    columns = []
    for first in range(a):
        row = []
        for second in range(a):
            a1 = int_like([[first] * b], like)
            a2 = int_like([[second] * b], like)
            row.append(expand_rows(oracle.prob(contexts, a1, a2), r))
        columns.append(namespace(like).stack(row, axis=-1))
    return namespace(like).stack(columns, axis=-2)
