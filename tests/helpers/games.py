"""Random preference games, and a slow solver that shares nothing with the fast one."""

import numpy as np
from scipy.special import log_softmax

from tests.helpers.small import log


def skew(rng, *shape):
    """Standard normal skew payoffs, shape ``(*shape, A, A)`` for ``shape = (..., A)``."""
    x = rng.normal(size=(*shape, shape[-1])) / np.sqrt(2.0)
    return x - np.swapaxes(x, -1, -2)


def dirichlet(rng, *shape, concentration=1.0):
    """Logarithms of Dirichlet distributions, shape ``(..., A)``."""
    return log(rng.dirichlet(np.full(shape[-1], concentration), size=shape[:-1]))


def uniform(*shape):
    return np.full(shape, -np.log(shape[-1]))


def mirror_descent(payoff, log_pi0, eta, steps):
    """Last iterate of online mirror descent with its proven step sizes (theory sheet 8).

    ``KL(pi* || pi_T) <= 2 w^2 / (eta^2 (T + 1))`` for payoffs in an interval of length ``w``; then
    a constant step, whose fixed point is exact.
    """
    width = payoff.max() - payoff.min()
    log_pi = log_pi0
    for t in range(2 * steps):
        a = 2.0 / (eta * (t + 2)) if t < steps else 0.5 * eta / width**2
        gain = np.matmul(payoff, np.exp(log_pi)[..., None])[..., 0]
        log_pi = log_softmax((1 - a * eta) * log_pi + a * eta * log_pi0 + a * gain, axis=-1)
    return log_pi


def exploitability(payoff, log_pi, log_pi0, eta):
    """``- min_pi' J(pi, pi')`` as the theory sheet writes it (2.1), per context; cancels."""
    p = np.exp(log_pi)
    with np.errstate(invalid="ignore"):
        gap = np.where(p > 0, p * (log_pi - log_pi0), 0.0).sum(axis=-1)
    against = np.matmul(p[..., None, :], payoff)[..., 0, :]
    exponent = log_pi0 - against / eta
    top = exponent.max(axis=-1, keepdims=True)
    mean = top[..., 0] + np.log(np.exp(exponent - top).sum(axis=-1))
    return eta * (gap + mean)
