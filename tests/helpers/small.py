"""Small problems and data with known contents."""

import numpy as np

from rlhf_theory.arrays import as_like, int_like
from rlhf_theory.problems import FiniteProblem


def log(p):
    """Logarithm, ``-inf`` at 0 without a warning."""
    with np.errstate(divide="ignore"):
        return np.log(p)


def finite_problem(
    like, *, rows=1, x=3, a=4, d=2, eta=0.3, replicas=3, seed=0, absent=(), unit=False
):
    """A random finite problem; ``absent`` lists (context, action) pairs without mass."""
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(rows, x, a, d))
    if unit:
        phi /= np.linalg.norm(phi, axis=-1, keepdims=True)
    p = rng.dirichlet(np.ones(a), size=(1, x))
    for c, action in absent:
        p[:, c, action] = 0.0
    p /= p.sum(axis=-1, keepdims=True)
    w = rng.dirichlet(np.ones(x), size=1)
    return FiniteProblem(as_like(phi, like), as_like(log(p), like), as_like(w, like), eta, replicas)


def comparisons(like, replicas, x, a, n, seed=1):
    """Random ids, actions and labels as host arrays and as arrays like ``like``."""
    rng = np.random.default_rng(seed)
    ids, a1, a2 = (rng.integers(k, size=(replicas, n)) for k in (x, a, a))
    y = rng.integers(2, size=(replicas, n)).astype(float)
    return (ids, a1, a2, y), (
        int_like(ids, like), int_like(a1, like), int_like(a2, like), as_like(y, like)
    )  # fmt: skip
