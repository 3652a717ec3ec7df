"""Reward and preference models that are linear in their parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_theory.arrays import Array, full_like, inner, int_like, namespace
from rlhf_theory.core import PreferenceModel, RewardModel
from rlhf_theory.data import Contexts
from rlhf_theory.errors import ShapeError


@dataclass(frozen=True, eq=False)
class LinearReward:
    """The reward ``<theta, phi(x, a)>``.

    Attributes
    ----------
    theta
        Shape ``(R, d)`` or ``(1, d)``.
    """

    theta: Array

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``."""
        return contexts.lookup(lambda c: inner(c.phi, self.theta))


@dataclass(frozen=True, eq=False)
class TableReward:
    """A reward given for every action of finitely many contexts, shape ``(R, X, A)``."""

    table: Array

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``."""
        return contexts.from_table(self.table)


@dataclass(frozen=True, eq=False)
class RewardDifference:
    """The payoff ``r(x, a) - r(x, b)``: Bradley-Terry seen as a game, logit payoff."""

    reward: RewardModel

    def payoff(self, contexts: Contexts) -> Array:
        """Return payoffs, shape ``(R, B, A, A)``."""

        def difference(c: Contexts) -> Array:
            r = self.reward.rewards(c)
            return r[..., :, None] - r[..., None, :]

        return contexts.lookup(difference)


def skew_matrix(theta: Array, dim: int) -> Array:
    """Return the skew matrix ``W`` of the bilinear preference.

    Parameters
    ----------
    theta
        Entries ``W_ij``, ``i < j``, row by row, shape ``(R, d (d + 1) / 2)``; the first ``d`` are
        the row of the constant feature, so ``theta = (-theta_bt, 0)`` is a Bradley-Terry reward.
    dim
        Number of features ``d``; ``W`` has one row more, the constant first.

    Returns
    -------
    Array of shape ``(R, d + 1, d + 1)``.
    """
    xp = namespace(theta)
    k = dim + 1
    if theta.shape[-1] != k * (k - 1) // 2:
        message = (
            f"A bilinear preference over d={dim} features has {k * (k - 1) // 2} parameters; "
            f"got {theta.shape[-1]}."
        )
        raise ShapeError(message)
    i, j = np.triu_indices(k, k=1)
    where = np.full((k, k), i.size, dtype=np.int64)
    where[i, j] = np.arange(i.size)
    padded = xp.concat([theta, full_like((theta.shape[0], 1), 0.0, theta)], axis=-1)
    upper = xp.reshape(
        xp.take(padded, int_like(where.ravel(), theta), axis=-1), (theta.shape[0], k, k)
    )
    return upper - xp.matrix_transpose(upper)


@dataclass(frozen=True, eq=False)
class SkewBilinear:
    r"""The bilinear preference :math:`R(x,a,b) = f_a^\top W f_b`, ``f = (1, phi)``, ``W`` skew.

    Attributes
    ----------
    theta
        Entries ``W_ij``, ``i < j``, shape ``(R, d (d + 1) / 2)``; see `skew_matrix`.
    """

    theta: Array

    def payoff(self, contexts: Contexts) -> Array:
        """Return payoffs, shape ``(R, B, A, A)``."""

        def bilinear(c: Contexts) -> Array:
            phi = c.phi
            xp = namespace(phi)
            f = xp.concat([full_like((*phi.shape[:-1], 1), 1.0, phi), phi], axis=-1)
            w = skew_matrix(self.theta, phi.shape[-1])[:, None, :, :]
            payoff = xp.matmul(xp.matmul(f, w), xp.matrix_transpose(f))
            # Skew to the last bit, which the equilibrium solvers rely on.
            return 0.5 * (payoff - xp.matrix_transpose(payoff))

        return contexts.lookup(bilinear)


@dataclass(frozen=True, eq=False)
class ProbabilityPreference:
    """The payoff ``P(a beats b) - 1/2`` of a model that gives the logit of ``P``."""

    logit: PreferenceModel

    def payoff(self, contexts: Contexts) -> Array:
        """Return payoffs, shape ``(R, B, A, A)``."""
        logit = self.logit.payoff(contexts)
        # sigma(u) - 1/2, skew to the last bit and exact for small u.
        return 0.5 * namespace(logit).tanh(0.5 * logit)


@dataclass(frozen=True, eq=False)
class TablePreference:
    """A payoff given for every pair of actions of finitely many contexts, ``(R, X, A, A)``."""

    table: Array

    def payoff(self, contexts: Contexts) -> Array:
        """Return payoffs, shape ``(R, B, A, A)``."""
        return contexts.from_table(self.table)
