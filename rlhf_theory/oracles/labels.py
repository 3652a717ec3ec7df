"""Labels drawn from an oracle, and the table of its win probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_theory.arrays import Array, expand_rows, int_like, namespace
from rlhf_theory.core import PairFeedback, PreferenceOracle
from rlhf_theory.data import Comparisons, Contexts, PairQuery
from rlhf_theory.randomness import Key, bernoulli


@dataclass(frozen=True, eq=False)
class _Draw:
    oracle: PreferenceOracle

    def __call__(self, query: PairQuery, key: Key) -> Comparisons:
        prob = self.oracle.prob(query.contexts, query.a1, query.a2)
        n_replicas, n = query.a1.shape
        prob = expand_rows(prob, n_replicas)
        return query.answered(bernoulli(prob, key.uniform(n_replicas, n, like=prob)))


def feedback_from(oracle: PreferenceOracle) -> PairFeedback:
    """Return labels drawn from an oracle: all that a learner gets to see of it.

    The uniforms are addressed by the key, so two learners that ask for the same pair at the same
    place of the same round get the same answer.
    """
    return _Draw(oracle)


def preference_matrix(oracle: PreferenceOracle, contexts: Contexts) -> Array:
    """Return ``P(a beats b | x)`` for all pairs, shape ``(R|1, B, A, A)``.

    At once where the oracle has a method ``probabilities``, else by asking about pair after pair.
    """
    at_once = getattr(oracle, "probabilities", None)
    if at_once is not None:
        told: Array = at_once(contexts)
        return told
    _, b, a, _ = contexts.shape
    like = contexts.like
    columns = []
    for first in range(a):
        row = []
        for second in range(a):
            a1 = int_like([[first] * b], like)
            a2 = int_like([[second] * b], like)
            row.append(oracle.prob(contexts, a1, a2))
        columns.append(namespace(like).stack(row, axis=-1))
    return namespace(like).stack(columns, axis=-2)


def log_odds(prob: Array) -> Array:
    """Return ``log P(a, b) - log P(b, a)`` of win probabilities ``(R, B, A, A)``, finite and skew.

    Probabilities are taken as at least 1e-300, so that certain wins have large but finite odds.
    """
    xp = namespace(prob)
    log = xp.log(xp.where(prob > 1e-300, prob, 1e-300 * xp.ones_like(prob)))
    return log - xp.matrix_transpose(log)


def preference_logits(oracle: PreferenceOracle, contexts: Contexts) -> Array:
    """Return the logits of the win probabilities of all pairs, shape ``(R, B, A, A)``, skew.

    Exact where the oracle has a method ``logits``: a probability that has rounded to 0 or 1 no
    longer tells its logit.
    """
    exact = getattr(oracle, "logits", None)
    if exact is None:
        return log_odds(preference_matrix(oracle, contexts))
    logits: Array = exact(contexts)
    return logits
