"""Ensembles of reward fits by the Bayesian bootstrap, and the rewards they vote for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhf_theory.arrays import Array, as_like, inner, namespace, to_numpy
from rlhf_theory.core import Solution
from rlhf_theory.data import Contexts, PreferenceData
from rlhf_theory.errors import check_nonnegative, check_shape
from rlhf_theory.estimators.mle import bradley_terry_mle
from rlhf_theory.features import centred
from rlhf_theory.randomness import Key


@dataclass(frozen=True, eq=False)
class EnsembleReward:
    """A reward that is a function of the members' rewards.

    Attributes
    ----------
    thetas
        Members, shape ``(R, K, d)``.
    combine
        From the members' centred rewards ``(R, B, A, K)`` to one reward ``(R, B, A)``.
    """

    thetas: Array
    combine: Callable[[Array], Array]

    def rewards(self, contexts: Contexts) -> Array:
        """Return rewards, shape ``(R, B, A)``."""
        return contexts.lookup(lambda c: self.combine(_member_rewards(self.thetas, c)))


def _member_rewards(thetas: Array, contexts: Contexts) -> Array:
    """Return ``<theta_k, phi(x, a) - phi(x, pi0)>``, shape ``(R, B, A, K)``."""
    # Comparisons identify each member up to a constant per context: without centring, minimum and
    # variance compare constants that mean nothing (theory sheet 6.2, first trap).
    phi = centred(contexts)
    members = [inner(phi, thetas[:, k, :]) for k in range(thetas.shape[1])]
    return namespace(phi, thetas).stack(members, axis=-1)


@dataclass(frozen=True, eq=False)
class RewardEnsemble:
    """Members of an ensemble; their rewards are measured from the reference policy.

    Attributes
    ----------
    thetas
        Parameters, shape ``(R, K, d)``.
    """

    thetas: Array

    def __post_init__(self) -> None:
        check_shape("thetas", self.thetas, (None, None, None), "(R, K, d)")

    @property
    def size(self) -> int:
        """Number of members ``K``."""
        return int(self.thetas.shape[1])

    def mean(self) -> EnsembleReward:
        """Return the mean of the members."""
        return EnsembleReward(self.thetas, lambda r: namespace(r).mean(r, axis=-1))

    def min_reward(self) -> EnsembleReward:
        """Return the smallest member per action (worst-case optimisation).

        Five members are 1.163 standard deviations of pessimism; an ellipsoid of level 95 % in five
        dimensions is 3.33.

        Source: [2310.02743], WCO; theory sheet 6.2.
        """
        return EnsembleReward(self.thetas, lambda r: namespace(r).min(r, axis=-1))

    def uncertainty_weighted(self, weight: float, ddof: int = 0) -> EnsembleReward:
        """Return ``mean - weight * variance`` over members.

        Parameters
        ----------
        weight
            At least 0; 0 is the mean. The paper has 0.5 for best-of-n, 0.1 for PPO.
        ddof
            The variance divides by ``K - ddof``. The paper's code has 0 for best-of-n and 1 for
            PPO: the same name, different estimators.

        Source: [2310.02743], UWO.
        """
        check_nonnegative("weight", weight)
        if ddof not in (0, 1) or self.size <= ddof:
            message = f"ddof must be 0 or 1 and below the {self.size} members; got {ddof}."
            raise ValueError(message)

        def combine(r: Array) -> Array:
            xp = namespace(r)
            return xp.mean(r, axis=-1) - weight * xp.var(r, axis=-1, correction=ddof)

        return EnsembleReward(self.thetas, combine)


def bootstrap_weights(data: PreferenceData, key: Key) -> PreferenceData:
    """Return the data with Bayesian-bootstrap weights instead of counts.

    Every label gets an exponential weight, so ``w`` wins of a pair together get a Gamma weight of
    shape ``w``, and its losses one of shape ``c - w``: exact on counts.

    Source: Rubin (1981), Annals of Statistics 9(1).
    """
    wins, count = to_numpy(data.wins), to_numpy(data.count)
    losses = np.maximum(count - wins, 0.0)
    # Gamma draws reject, so each replica has its own generator.
    won, lost = np.zeros_like(wins), np.zeros_like(wins)
    for r in range(wins.shape[0]):
        generator = key.generator(r)
        seen = count[r] > 0
        won[r, seen] = generator.standard_gamma(wins[r, seen])
        lost[r, seen] = generator.standard_gamma(losses[r, seen])
    return data.reweighted(as_like(won + lost, data.count), as_like(won, data.count))


def bootstrap_ensemble(
    data: PreferenceData,
    key: Key,
    *,
    n_members: int = 5,
    ridge: float = 0.0,
    bound: float | None = None,
    scale: float = 1.0,
) -> Solution[RewardEnsemble]:
    """Fit an ensemble to Bayesian bootstraps of the data.

    Refitting the same data from other seeds would give the same vector: the likelihood is strictly
    concave (theory sheet 6.2, second trap).

    Parameters
    ----------
    data
        Comparisons; without any, all members are 0.
    key
        Address of the weights.
    n_members
        ``K``, at least 1.
    ridge, bound, scale
        As for `bradley_terry_mle`; the ridge has weight 1 in every member.

    Returns
    -------
    Solution with the largest residual over members; converged where all are.

    Source: [2310.02743]; theory sheet 6.2.
    """
    return ensemble_of(
        lambda some: bradley_terry_mle(some, ridge=ridge, bound=bound, scale=scale),
        data,
        key,
        n_members,
    )


def ensemble_of(
    fit: Callable[[PreferenceData], Solution[Array]],
    data: PreferenceData,
    key: Key,
    n_members: int,
) -> Solution[RewardEnsemble]:
    """Apply any linear estimator to Bayesian bootstraps of the data; see `bootstrap_ensemble`.

    Parameters
    ----------
    fit
        The estimator: parameters of shape ``(R, d)`` from comparisons.
    data, key, n_members
        As in `bootstrap_ensemble`.
    """
    if n_members < 1:
        message = f"n_members must be at least 1; got {n_members}."
        raise ValueError(message)
    fits = [fit(bootstrap_weights(data, key.child("member", k))) for k in range(n_members)]
    xp = namespace(fits[0].value)
    return Solution(
        RewardEnsemble(xp.stack([m.value for m in fits], axis=1)),
        xp.max(xp.stack([m.residual for m in fits], axis=0), axis=0),
        xp.all(xp.stack([m.converged for m in fits], axis=0), axis=0),
        max(m.n_iter for m in fits),
        fits[0].hint,
    )
