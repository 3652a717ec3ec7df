"""Instances on which a method provably fails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.data import PreferenceData
from rlhf_theory.errors import check_positive
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.randomness import Key
from rlhf_theory.register import register
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds.bandit import Bandit, one_context

# Features and parameters of the paper, in three dimensions with <1, theta> = 0.
_PHI = ((1.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0))
_THETA_STAR = (-1.0, 0.1, 0.9)

# Outcomes of smaller probability than this in both tails are left out of an enumeration; and the
# logarithm of the largest number of pairs that is looked at.
_TAIL = 1e-14
_LARGEST = 30.0

GREEDY_FAILURE_PAIRS = (0, 3)
"""Rows of the pair table that the data compare: actions (1, 2) and actions (2, 3)."""


def _projected(v: Sequence[Any]) -> np.ndarray:
    """Return coordinates in an orthonormal basis of ``<1, v> = 0``, shape ``(..., 2)``."""
    basis = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]).T / np.sqrt([2.0, 6.0])
    return np.asarray(np.asarray(v) @ basis)


@register("world", "greedy-failure")
def greedy_failure(*, eta: float = 0.1, replicas: int = 64, name: str = "greedy-failure") -> Bandit:
    """Return the instance on which the greedy policy of the MLE fails at every ``n``.

    One context and four actions with rewards (-0.9, -1, 0, 0.1). Parameters live on
    ``<1, theta> = 0``; features and parameters are written in an orthonormal basis of that plane,
    so ``d = 2`` and the norm ball of the MLE needs no further constraint. Only actions (1, 2) are
    compared often, actions (2, 3) once: take the data from `greedy_failure_data`.

    Parameters
    ----------
    eta
        Weight of the KL for policies that use it; the theorem has none (argmax policies).
    replicas
        Number of replicas ``R``.
    name
        Name in tables and figures.

    Source: [2301.11270], Theorem 3.9; theory sheet 3.2.
    """
    theta = _projected(_THETA_STAR)[None]
    reward = LinearReward(theta)
    return Bandit(
        name=name,
        problem=one_context(_projected(_PHI), eta, replicas),
        oracle=BradleyTerry(reward),
        reward=reward,
        theta_star=theta,
        settings={"eta": eta, "theta_bound": 2.0},
    )


def greedy_failure_data(world: Bandit, key: Key, pairs: int) -> PreferenceData:
    """Return comparisons per replica: all but one of actions (1, 2), and one of (2, 3).

    Parameters
    ----------
    world
        From `greedy_failure`.
    key
        Address of the labels.
    pairs
        Number of comparisons, at least 1; the cost does not grow with it.
    """
    check_positive("pairs", pairs)
    prob = to_numpy(world.preferences)[0, 0]
    draws = [key.child("labels").generator(r) for r in range(world.n_replicas)]
    wins = [(draw.binomial(pairs - 1, prob[0, 1]), draw.binomial(1, prob[1, 2])) for draw in draws]
    return _compared(world, pairs, np.array(wins))


def _compared(world: Bandit, pairs: int, wins: np.ndarray) -> PreferenceData:
    """Return data with the wins of the pair that is seen often and of the other, ``(R, 2)``."""
    data = world.problem.empty_data()
    cells = list(GREEDY_FAILURE_PAIRS)
    count, won = np.zeros(data.count.shape), np.zeros(data.count.shape)
    count[:, cells] = pairs - 1, 1
    won[:, cells] = wins
    return data.reweighted(as_like(count, data.count), as_like(won, data.wins))


def greedy_failure_outcomes(pairs: int) -> tuple[Bandit, PreferenceData, np.ndarray]:
    """Return all outcomes of the labels, one per replica, with their probabilities.

    Parameters
    ----------
    pairs
        Number ``n`` of comparisons, at least 1; there are about ``min(2 n, 30 sqrt(n))`` outcomes.

    Returns
    -------
    The world, data and probabilities ``(R,)``, which miss at most 1e-13 of the mass.
    """
    from scipy.stats import binom  # noqa: PLC0415  (half a second that no other world needs)

    prob = to_numpy(greedy_failure(replicas=1).preferences)[0, 0]
    low, high = (float(binom.ppf(q, pairs - 1, prob[0, 1])) for q in (_TAIL, 1.0 - _TAIL))
    wins = np.arange(max(low - 1, 0), min(high + 1, pairs - 1) + 1)
    mass = binom.pmf(wins, pairs - 1, prob[0, 1])
    world = greedy_failure(replicas=2 * wins.size)
    both = np.stack([np.tile(wins, 2), np.repeat([0.0, 1.0], wins.size)], axis=-1)
    chance = np.concatenate([mass * (1.0 - prob[1, 2]), mass * prob[1, 2]])
    return world, _compared(world, pairs, both), chance


def _width(pairs: float, lam: float) -> float:
    """Return ``|phi_4 - phi_3|_{Sigma^-1}`` after so many comparisons."""
    phi = _projected(_PHI)
    often, once = phi[0] - phi[1], phi[1] - phi[2]
    sigma = lam * np.eye(2) + (pairs - 1) * np.outer(often, often) + np.outer(once, once)
    v = phi[3] - phi[2]
    return float(np.sqrt(v @ np.linalg.solve(sigma, v)))


def greedy_failure_switch(beta: float, lam: float) -> float:
    """Return the number of pairs at which the bonus of the best action falls to its reward, 0.1.

    Before, a pessimist of radius ``beta`` in ``lambda I + sum z z^T`` that measures from action 3
    plays that action, whose bonus is 0; infinite where the switch never comes.
    """
    from scipy.optimize import brentq  # noqa: PLC0415  (a quarter of a second, only for this)

    def excess(log_n: float) -> float:
        return beta * _width(math.exp(log_n), lam) - _THETA_STAR[1]

    if excess(0.0) <= 0:
        return 1.0
    return math.exp(brentq(excess, 0.0, _LARGEST)) if excess(_LARGEST) < 0 else math.inf


def greedy_failure_escape(lam: float, theta_bound: float) -> float:
    """Return the radius below which a pessimist fails like greed at large ``n``.

    Where the single comparison misleads, the estimate runs to the ball along the direction that was
    seen once, to ``theta_1 = t``. The bonus of action 1 has to outweigh that.
    """
    # |theta| = B on <1, theta> = 0 with theta_2 = c: 2 t^2 + 2 c t + 2 c^2 = B^2.
    c = _THETA_STAR[1]
    t = 0.5 * (-c + math.sqrt(2.0 * theta_bound**2 - 3.0 * c**2))
    # Its width for n to infinity: the largest t of theta = (t, 0, -t) with |theta|_Sigma = 1.
    return t * math.sqrt(1.0 + 2.0 * lam)


@register("world", "chi-squared")
def chi_squared(
    *, pairs: int = 10_000, eta: float = 0.1, replicas: int = 64, name: str = "chi-squared"
) -> Bandit:
    """Return the instance on which KL regularisation cannot do better than ``1 / log n``.

    One context, three actions with rewards ``(1/2, 1/2 - 1 / log n, 0)`` and one-hot features;
    pi0 is ``(1/2, 1/2 - 1/n, 1/n)``, so ``n`` pairs from pi0 compare the third action about twice.

    Parameters
    ----------
    pairs
        Number ``n`` of pairs for which the instance is hard, at least 3.
    eta
        Weight of the regulariser, whichever it is.
    replicas
        Number of replicas ``R``.
    name
        Name in tables and figures.

    Source: [2407.13399], section 2.3 for the failure of KL; theory sheet 6.1 for the instance.
    """
    if pairs < 3:
        message = f"pairs must be at least 3, so that pi0 is a distribution; got {pairs}."
        raise ValueError(message)
    pi0 = np.array([0.5, 0.5 - 1.0 / pairs, 1.0 / pairs])
    theta = np.array([[0.5, 0.5 - 1.0 / math.log(pairs), 0.0]])
    reward = LinearReward(theta)
    return Bandit(
        name=name,
        problem=one_context(np.eye(3), eta, replicas, np.log(pi0)),
        oracle=BradleyTerry(reward),
        reward=reward,
        theta_star=theta,
        settings={"pairs": pairs, "eta": eta, "reward_range": 1.0},
    )
