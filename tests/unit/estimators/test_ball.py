"""Exact small problems over a ball, against SciPy and against the optimality conditions."""

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.estimators.ball import QuadraticModel, least_linear
from rlhf_theory.trust_region import minimise_in_ball


def instance(seed=0, rows=40, d=4, rank=None):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(rows, d, rank or d))
    return root @ np.swapaxes(root, 1, 2), rng.normal(size=(rows, d)), rng.normal(size=(rows, d))


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("bound", [0.01, 0.5, 100.0])
def test_ball_minimiser_satisfies_the_optimality_conditions(xp_like, rank, bound):
    hessian, b, _ = instance(rank=rank)
    values, _ = np.linalg.eigh(hessian)
    values = np.maximum(values, 0.0)
    if rank:
        values[:, :2] = 0.0
    x, kappa = minimise_in_ball(as_like(values, xp_like), as_like(b, xp_like), bound)
    x, kappa = to_numpy(x), to_numpy(kappa)
    norm = np.linalg.norm(x, axis=1)
    assert np.all(kappa >= 0)
    assert np.all(norm <= bound * (1 + 1e-12))
    np.testing.assert_allclose((values + kappa[:, None]) * x, b, rtol=1e-9, atol=1e-9)
    active = kappa > 0
    np.testing.assert_allclose(norm[active], bound, rtol=1e-9)


def test_ball_minimiser_of_nothing_is_zero():
    x, kappa = minimise_in_ball(np.zeros((1, 3)), np.zeros((1, 3)), 1.0)
    np.testing.assert_array_equal(x, 0.0)
    np.testing.assert_array_equal(kappa, 0.0)


def test_least_linear_matches_scipy():
    hessian, g, v = instance(rows=12)
    rng = np.random.default_rng(1)
    theta = 0.1 * rng.normal(size=g.shape)
    loss = rng.uniform(size=12)
    level, bound = loss + 0.3, 1.0
    model = QuadraticModel.at(theta, loss, g, hessian, v)
    x, tau = least_linear(model, level, bound, np.ones(12), np.full(12, 1e-12))
    for r in range(12):

        def quadratic(y, r=r):
            h = y - theta[r]
            return loss[r] + g[r] @ h + 0.5 * h @ hessian[r] @ h

        answer = minimize(
            lambda y, r=r: v[r] @ y,
            theta[r],
            method="SLSQP",
            constraints=[
                {"type": "ineq", "fun": lambda y, r=r: level[r] - quadratic(y)},
                {"type": "ineq", "fun": lambda y: bound**2 - y @ y},
            ],
            options={"ftol": 1e-12, "maxiter": 500},
        )
        # SLSQP stalls at its rounding with status 8; its answer is good to about 1e-7.
        assert answer.status in (0, 8)
        assert v[r] @ x[r] == pytest.approx(answer.fun, abs=1e-6)
        assert quadratic(x[r]) <= level[r] + 1e-9
        assert np.linalg.norm(x[r]) <= bound * (1 + 1e-12)
        assert tau[r] > 0


def test_least_linear_beyond_reach_returns_the_nearest_and_the_far_point():
    hessian, g, v = instance(rows=3)
    theta, zero = 0.0 * g, np.zeros(3)
    model = QuadraticModel.at(theta, zero, g, hessian, v)
    # No point of the ball reaches a level far below: the minimiser of the model.
    x, _ = least_linear(model, zero - 1e6, 1.0, zero + 1.0, zero + 1e-10)
    _, _, least = model.tilted(zero, 1.0)
    h = x - theta
    value = np.sum(g * h, axis=1) + 0.5 * np.einsum("ri,rij,rj->r", h, hessian, h)
    np.testing.assert_allclose(value, least, rtol=1e-10)
    # Every point of the ball is below a high level: the far end of the ball.
    x, _ = least_linear(model, zero + 1e6, 1.0, zero + 1.0, zero + 1e-10)
    np.testing.assert_allclose(x, -v / np.linalg.norm(v, axis=1, keepdims=True), atol=1e-8)
