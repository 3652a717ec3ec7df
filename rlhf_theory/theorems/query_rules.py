"""Rules that choose which pairs to compare, for the study of confidence sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhf_theory.arrays import Array, inner
from rlhf_theory.bounds import wilks_threshold
from rlhf_theory.data import PreferenceData
from rlhf_theory.estimators.ellipsoid import design_matrix
from rlhf_theory.planners.gibbs import gibbs_log_probs
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key, categorical


@dataclass(frozen=True, eq=False)
class Query:
    """What a rule may use to choose ``m`` pairs per replica: the past, never the labels to come.

    Attributes
    ----------
    problem
        Contexts, features, pi0, eta.
    data
        Comparisons so far.
    theta
        Estimate from them, shape ``(R, d)``.
    ids
        Contexts in question, shape ``(R, m)``.
    key
        Address of the rule's own randomness.
    """

    problem: FiniteProblem
    data: PreferenceData
    theta: Array
    ids: Array
    key: Key

    def at(self, table: np.ndarray) -> np.ndarray:
        """Return the rows of a table ``(R, X, ...)`` for the contexts in question."""
        return np.asarray(table[np.arange(table.shape[0])[:, None], self.ids])

    def squared_widths(self) -> np.ndarray:
        """Return ``|phi(x, a) - phi(x, b)|^2`` in ``V^-1``, ``V = I + sum z z^T``: (R, X, A, A)."""
        inverse = np.linalg.inv(design_matrix(self.data.differences, self.data.count, 1.0))
        phi = self.problem.phi
        gram = phi @ inverse[:, None] @ np.swapaxes(phi, -1, -2)
        own = np.diagonal(gram, axis1=-2, axis2=-1)
        return np.asarray(np.maximum(own[..., :, None] + own[..., None, :] - 2.0 * gram, 0.0))


def _fixed(query: Query) -> tuple[np.ndarray, np.ndarray]:
    """Choose two distinct actions uniformly: independent of all labels."""
    n_actions = query.problem.phi.shape[2]
    first, second = np.triu_indices(n_actions, k=1)
    u = query.key.child("pair").uniform_numpy(*query.ids.shape)
    pair = np.floor(u * first.size).astype(np.int64)
    return first[pair], second[pair]


def _gshf(query: Query) -> tuple[np.ndarray, np.ndarray]:
    """Exploit with one action, explore with the other (as in GSHF, per context).

    The first comes from the Gibbs policy of the estimate; the second is the action whose reward
    relative to it is the least certain.
    """
    problem = query.problem
    log_pi = gibbs_log_probs(inner(problem.phi, query.theta), problem.log_pi0, problem.eta)
    u = query.key.child("a1").uniform_numpy(*query.ids.shape)
    a1 = categorical(query.at(log_pi), u)
    width = query.at(query.squared_widths())
    width = np.take_along_axis(width, a1[..., None, None], axis=2)[..., 0, :]
    np.put_along_axis(width, a1[..., None], -1.0, axis=-1)
    return a1, width.argmax(axis=-1)


def _max_inp(query: Query) -> tuple[np.ndarray, np.ndarray]:
    """Compare the least certain pair among actions that nothing confidently beats (MaxInP).

    Confidence has the size of a 95 % Wald interval around the estimate, so that actions drop out
    within the run.
    """
    width = query.squared_widths()
    reward = inner(query.problem.phi, query.theta)
    lead = reward[..., :, None] - reward[..., None, :]
    # The Wald metric is about V / 4 where probabilities are moderate.
    beta = 2.0 * np.sqrt(2.0 * wilks_threshold(query.theta.shape[-1], 0.05))
    plausible = np.all(lead + beta * np.sqrt(width) >= 0.0, axis=-1)
    both = plausible[..., :, None] & plausible[..., None, :]
    n_actions = width.shape[-1]
    # Where one action is left, it meets the action that is the least certain against it.
    either = plausible[..., :, None] | plausible[..., None, :]
    alone = plausible.sum(axis=-1)[..., None, None] < 2
    # Every pair in one order: the width of (b, a) may differ from that of (a, b) in the last bit.
    allowed = np.where(alone, either, both) & np.triu(np.ones((n_actions, n_actions), bool), k=1)
    score = query.at(np.where(allowed, width, -1.0))
    best = score.reshape(*score.shape[:2], -1).argmax(axis=-1)
    return best // n_actions, best % n_actions


QUERY_RULES: dict[str, Callable[[Query], tuple[np.ndarray, np.ndarray]]] = {
    "fixed": _fixed,
    "GSHF": _gshf,
    "MaxInP": _max_inp,
}
"""The rules by name; NumPy only."""
