"""Who wins, response against response."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_theory.arrays import Array, int_like, to_numpy
from rlhf_theory.core import PreferenceOracle
from rlhf_theory.data import Contexts
from rlhf_theory.oracles.labels import preference_matrix


def win_matrix(rewards: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return who has more: 1, 1/2 for ties, 0; ``(..., n)`` and ``(..., m)`` to ``(..., n, m)``."""
    gap = rewards[..., :, None] - others[..., None, :]
    return np.asarray(0.5 + 0.5 * np.sign(gap))


def off_diagonal_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over ``i != j`` of ``values[..., i, j]``, shape ``(...)``; at least 2 x 2."""
    n = values.shape[-1]
    diagonal = np.trace(values, axis1=-2, axis2=-1)
    return np.asarray((values.sum(axis=(-2, -1)) - diagonal) / (n * (n - 1)))


def pool_win_probabilities(oracle: PreferenceOracle, contexts: Contexts) -> np.ndarray:
    """Return ``P(a beats b | x)`` on pools, shape ``(R|1, N, K, K)``; 1/2 beside absent responses.

    Unlike `rlhf_theory.oracles.preference_matrix` it never asks about a response that is not there.
    """
    here = to_numpy(contexts.log_pi0) > -np.inf
    prob = to_numpy(preference_matrix(_Present(oracle, here[0]), contexts))
    both = here[..., :, None] & here[..., None, :]
    return np.where(both, np.asarray(prob, dtype=np.float64), 0.5)


@dataclass(frozen=True, eq=False)
class _Present:
    """A preference that is asked about present responses only, ``present`` of shape ``(N, K)``."""

    oracle: PreferenceOracle
    present: np.ndarray

    def prob(self, contexts: Contexts, a1: Array, a2: Array) -> Array:
        """Return the probability that ``a1`` wins, shape ``(R, B)``; of any pair where one is not.

        The answer is meaningless there, and finite.
        """
        first, second = to_numpy(a1)[0], to_numpy(a2)[0]
        rows = np.arange(self.present.shape[0])
        both = self.present[rows, first] & self.present[rows, second]
        # The first response takes the place of absent ones: every pool has it.
        asked = (int_like(np.where(both, a, 0)[None, :], a1) for a in (first, second))
        return self.oracle.prob(contexts, *asked)
