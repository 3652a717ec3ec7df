"""What the study of chi-squared must find at a fixed weight, by enumeration.

Nothing here is of the estimators and planners under study. Where ``n`` is large the instance leaves
one thing to chance: how the third action fared in the about two comparisons that it took part in.
The rewards of the other two are known there up to ``sqrt(8 / n)``.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit, wrightomega
from scipy.stats import poisson

_MOST = 12
"""Comparisons of one kind beyond this many have probability 1e-9."""
_RARE = 1e-9


def expected_regret(n: float, beta: float, chi_weight: float) -> float:
    """Return the limiting expected regret at weight ``beta``, for known rewards but the third.

    Parameters
    ----------
    n
        Number of pairs, large.
    beta
        Weight of the regulariser, positive.
    chi_weight
        Weight of chi-squared within it, beside KL: 0 for KL alone, 1 for chi-squared + KL.
    """
    delta = 1.0 / math.log(n)
    chance, third = _estimates(n, delta)
    rewards = np.stack([np.zeros_like(third), np.full_like(third, -delta), third], axis=-1)
    pi0 = np.array([0.5, 0.5 - 1.0 / n, 1.0 / n])
    pi = _policy(rewards, pi0, beta, chi_weight)
    return float(chance @ (delta * pi[:, 1] + 0.5 * pi[:, 2]))


def _estimates(n: float, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities, and the estimated reward of the third action over the first."""
    # Wins and losses of the third action against the first and the second: independent, and
    # Poisson up to 1 / n.
    win1, win2 = expit(-0.5), expit(delta - 0.5)
    second = 1.0 - 2.0 / n
    counts = np.arange(_MOST + 1)
    laws = [poisson(m).pmf(counts) for m in
            (win1, 1.0 - win1, second * win2, second * (1.0 - win2))]  # fmt: skip
    chance = np.einsum("a,b,c,d->abcd", *laws)
    likely = np.nonzero(chance > _RARE)
    w1, l1, w2, l2 = (counts[k].astype(float) for k in likely)
    # Rewards differ by at most 1: the third lies between 1 below the first and 1 above the second.
    low, high = np.full(w1.size, -1.0), np.full(w1.size, 1.0 - delta)
    for _ in range(60):
        r = (low + high) / 2.0
        score = w1 + w2 - (w1 + l1) * expit(r) - (w2 + l2) * expit(r + delta)
        # Without a comparison: the middle.
        score = np.where(w1 + l1 + w2 + l2 > 0, score, -delta / 2.0 - r)
        low, high = np.where(score > 0, r, low), np.where(score > 0, high, r)
    return chance[likely] / chance[likely].sum(), (low + high) / 2.0


def _policy(rewards: np.ndarray, pi0: np.ndarray, beta: float, chi_weight: float) -> np.ndarray:
    """Return policies whose ratio ``w`` to pi0 has ``chi_weight w + log w = (r - c) / beta``."""
    y = rewards / beta
    if chi_weight == 0.0:
        top = y + np.log(pi0)
        pi = np.exp(top - top.max(axis=-1, keepdims=True))
        return np.asarray(pi / pi.sum(axis=-1, keepdims=True))
    # u = chi_weight w solves u + log u = y - c + log chi_weight.
    shift = math.log(chi_weight)
    reach = chi_weight / pi0.min() + math.log(1.0 / pi0.min()) + 1.0
    low, high = y.min(axis=-1) - reach, y.max(axis=-1) + reach
    for _ in range(120):
        c = (low + high) / 2.0
        total = (wrightomega(y - c[:, None] + shift) / chi_weight) @ pi0
        low, high = np.where(total > 1.0, c, low), np.where(total > 1.0, high, c)
    pi = pi0 * wrightomega(y - c[:, None] + shift) / chi_weight
    return np.asarray(pi / pi.sum(axis=-1, keepdims=True))
