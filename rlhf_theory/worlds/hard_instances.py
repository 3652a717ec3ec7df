"""Instances on which a method provably fails."""

from __future__ import annotations

import math

import numpy as np

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.data import PreferenceData
from rlhf_theory.errors import check_positive
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds.world import World

__all__ = ["GREEDY_FAILURE_PAIRS", "chi_squared", "greedy_failure", "greedy_failure_data"]

# Features and parameters of the paper, in three dimensions with <1, theta> = 0.
_PHI = ((1.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0))
_THETA_STAR = (-1.0, 0.1, 0.9)

GREEDY_FAILURE_PAIRS = (0, 3)
"""Rows of the pair table that the data compare: actions (1, 2) and actions (2, 3)."""


def greedy_failure(*, eta: float = 0.1, replicas: int = 64, name: str = "greedy-failure") -> World:
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
    basis = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]).T / np.sqrt([2.0, 6.0])
    phi = (np.array(_PHI) @ basis)[None, None]
    theta = (np.array(_THETA_STAR) @ basis)[None]
    reward = LinearReward(theta)
    return World(
        name=name,
        problem=FiniteProblem(
            phi, np.full((1, 1, 4), -math.log(4.0)), np.ones((1, 1)), eta, replicas
        ),
        oracle=BradleyTerry(reward),
        reward=reward,
        theta_star=theta,
        settings={"eta": eta, "theta_bound": 2.0},
    )


def greedy_failure_data(world: World, key: Key, n: int) -> PreferenceData:
    """Return ``n`` comparisons per replica: ``n - 1`` of actions (1, 2) and one of (2, 3).

    Parameters
    ----------
    world
        From `greedy_failure`.
    key
        Address of the labels.
    n
        Number of comparisons, at least 1; the cost does not grow with it.
    """
    check_positive("n", n)
    data = world.problem.empty_data()
    prob = to_numpy(world.preferences)[0, 0]
    often, once = GREEDY_FAILURE_PAIRS
    count, wins = np.zeros(data.count.shape), np.zeros(data.count.shape)
    count[:, often], count[:, once] = n - 1, 1
    for r in range(world.n_replicas):
        draw = key.child("labels").generator(r)
        wins[r, often] = draw.binomial(n - 1, prob[0, 1])
        wins[r, once] = draw.binomial(1, prob[1, 2])
    return data.reweighted(as_like(count, data.count), as_like(wins, data.wins))


def chi_squared(
    *, n: int = 10_000, eta: float = 0.1, replicas: int = 64, name: str = "chi-squared"
) -> World:
    """Return the instance on which KL regularisation cannot do better than ``1 / log n``.

    One context, three actions with rewards ``(1/2, 1/2 - 1 / log n, 0)`` and one-hot features;
    pi0 is ``(1/2, 1/2 - 1/n, 1/n)``, so ``n`` pairs from pi0 compare the third action about twice.

    Parameters
    ----------
    n
        Number of pairs for which the instance is hard, at least 3.
    eta
        Weight of the regulariser, whichever it is.
    replicas
        Number of replicas ``R``.
    name
        Name in tables and figures.

    Source: [2407.13399], section 2.3 for the failure of KL; theory sheet 6.1 for the instance.
    """
    if n < 3:
        message = f"n must be at least 3, so that pi0 is a distribution; got {n}."
        raise ValueError(message)
    pi0 = np.array([0.5, 0.5 - 1.0 / n, 1.0 / n])
    theta = np.array([[0.5, 0.5 - 1.0 / math.log(n), 0.0]])
    reward = LinearReward(theta)
    return World(
        name=name,
        problem=FiniteProblem(
            np.eye(3)[None, None], np.log(pi0)[None, None], np.ones((1, 1)), eta, replicas
        ),
        oracle=BradleyTerry(reward),
        reward=reward,
        theta_star=theta,
        settings={"n": n, "eta": eta, "reward_range": 1.0},
    )
