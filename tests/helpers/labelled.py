"""Counted Bradley-Terry data drawn for a known theta, in any array library."""

import numpy as np

from rlhf_theory.arrays import as_like
from tests.helpers.small import finite_problem


def counted_data(like, *, n=200, replicas=3, x=4, a=4, d=3, norm=1.0, seed=0, scale=1.0, skew=None):
    """Return data with ``n`` labels per replica, their problem and theta* ``(1, p)``.

    ``skew`` gives the parameters of a bilinear preference instead.
    """
    problem = finite_problem(like, x=x, a=a, d=d, replicas=replicas, seed=seed, unit=True)
    host = finite_problem(np.zeros(1), x=x, a=a, d=d, replicas=replicas, seed=seed, unit=True)
    rng = np.random.default_rng(seed + 1)
    theta = rng.normal(size=(1, d))
    theta *= norm / np.linalg.norm(theta)
    empty = host.empty_data()
    design, truth = (empty.differences, theta) if skew is None else (empty.skew, skew)
    margins = scale * design.margins(truth)
    p = 1 / (1 + np.exp(-margins[0]))
    count = rng.multinomial(n, np.full(p.size, 1 / p.size), size=replicas)
    wins = rng.binomial(count, p)
    data = problem.empty_data().reweighted(as_like(count, like), as_like(wins, like))
    return data, problem, theta
