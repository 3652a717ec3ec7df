"""Win rates between policies, and the winners of social choice."""

from __future__ import annotations

from typing import NamedTuple

from rlhf_theory.arrays import Array, check_finite, full_like, namespace
from rlhf_theory.errors import check_shape
from rlhf_theory.evaluation.gaps import over_contexts

# Probabilities this close to 1/2, and scores this close to the best, count as ties.
_TIE = 1e-12


def win_rate_per_context(prob: Array, log_pi: Array, log_other: Array) -> Array:
    """Return ``P(pi beats pi')`` per context, shape ``(R, B)``.

    Parameters
    ----------
    prob
        Probabilities that the first action wins, shape ``(R, B, A, A)``; 1/2 on the diagonal.
    log_pi, log_other
        Log-probabilities of the two policies, shape ``(R, B, A)``.
    """
    xp = namespace(prob, log_pi, log_other)
    against = xp.matmul(prob, xp.exp(log_other)[..., None])[..., 0]
    return xp.sum(xp.exp(log_pi) * against, axis=-1)


def win_rate(prob: Array, log_pi: Array, log_other: Array, weights: Array) -> Array:
    """Return ``E_x P(pi beats pi')``, shape ``(R,)``; 1/2 of a policy against itself.

    ``weights`` are the probabilities of the contexts, shape ``(R, B)`` or ``(1, B)``; the rest as
    in `win_rate_per_context`.

    Source: theory sheet 8.
    """
    return over_contexts(win_rate_per_context(prob, log_pi, log_other), weights)


def borda_scores(prob: Array, log_opponent: Array) -> Array:
    """Return ``E_{b ~ mu} P(a beats b)``, shape ``(R, B, A)``, for opponents ``mu``.

    Parameters
    ----------
    prob
        Probabilities that the first action wins, shape ``(R, B, A, A)``.
    log_opponent
        Law of the opponent, shape ``(R, B, A)``; uniform in the classical score, which then
        includes the action's own 1/2.

    Source: theory sheet 9.3.
    """
    xp = namespace(prob, log_opponent)
    return xp.matmul(prob, xp.exp(log_opponent)[..., None])[..., 0]


def copeland_scores(prob: Array, present: Array | None = None) -> Array:
    """Return how many other actions each beats, ties counted 1/2, shape ``(R, B, A)``.

    ``present`` ``(R, B, A)`` tells which actions there are; absent ones are nobody's opponents.
    """
    xp = namespace(prob)
    one, half = xp.ones_like(prob), full_like((1,), 0.5, prob)
    score = xp.where(prob > 0.5 + _TIE, one, xp.where(prob < 0.5 - _TIE, xp.zeros_like(prob), half))
    if present is not None:
        score = xp.where(present[..., None, :], score, xp.zeros_like(score))
    # Everyone ties with itself.
    return xp.sum(score, axis=-1) - 0.5


class Winners(NamedTuple):
    """Winners as masks, shape ``(R, B, A)`` each; several where they tie.

    Attributes
    ----------
    condorcet
        The action that beats every other; none where there is a cycle.
    borda
        The actions with the largest mean win probability against a uniform opponent.
    copeland
        The actions that beat most others.
    """

    condorcet: Array
    borda: Array
    copeland: Array


def winners(prob: Array, present: Array | None = None) -> Winners:
    """Return the Condorcet, Borda and Copeland winners of every context.

    Parameters
    ----------
    prob
        Probabilities that the first action wins, shape ``(R, B, A, A)``, with ``P(a, b) + P(b, a)
        = 1``.
    present
        Which actions there are, shape ``(R, B, A)`` or ``(1, B, A)``; None: all. At least one.
    """
    check_shape("prob", prob, (None, None, None, None), "(R, B, A, A)")
    check_finite("prob", prob)
    xp = namespace(prob)
    if not bool(xp.all(xp.abs(prob + xp.matrix_transpose(prob) - 1.0) < 1e-6)):
        message = "prob must satisfy P(a, b) + P(b, a) = 1; for payoffs P - 1/2 add 1/2."
        raise ValueError(message)
    if present is None:
        present = prob[..., 0] == prob[..., 0]
    count = xp.sum(xp.astype(present, prob.dtype), axis=-1, keepdims=True)
    opponent = xp.where(present, -xp.log(count), full_like((1,), -float("inf"), prob))
    copeland = copeland_scores(prob, present)
    return Winners(
        present & (copeland > count - 1.0 - 0.25),
        _largest(borda_scores(prob, opponent), present),
        _largest(copeland, present),
    )


def _largest(scores: Array, present: Array) -> Array:
    """Return where a score is the largest of those present."""
    xp = namespace(scores)
    scores = xp.where(present, scores, full_like((1,), -float("inf"), scores))
    return scores >= xp.max(scores, axis=-1, keepdims=True) - _TIE
