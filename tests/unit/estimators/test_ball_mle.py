"""The MLE over a ball: optimality conditions, agreement with other solvers, edges."""

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.data import LaplacianRows, Rows
from rlhf_theory.estimators.ball_mle import ball_mle
from rlhf_theory.estimators.mle import logistic_mle
from tests.helpers.labelled import counted_data
from tests.helpers.reference import loss as slow_loss

D = 3


@pytest.mark.parametrize("bound", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_fit_satisfies_the_optimality_conditions(xp_like, bound, ridge):
    data, _, _ = counted_data(xp_like, n=150, norm=2.0)
    fit = ball_mle(data.differences, data.count, data.wins, bound=bound, ridge=ridge)
    assert np.all(to_numpy(fit.converged))
    theta, z = to_numpy(fit.value), to_numpy(data.pairs.phi)
    z = z[0, :, 0] - z[0, :, 1]
    p = 1 / (1 + np.exp(-theta @ z.T))
    gradient = (to_numpy(data.count) * p - to_numpy(data.wins)) @ z + ridge * theta
    norm = np.linalg.norm(theta, axis=1)
    assert np.all(norm <= bound * (1 + 1e-12))
    # -gradient = kappa theta with kappa >= 0, and kappa = 0 inside.
    kappa = -np.sum(gradient * theta, axis=1) / norm**2
    np.testing.assert_allclose(gradient, -kappa[:, None] * theta, atol=2e-7)
    assert np.all(kappa > -1e-6)
    np.testing.assert_allclose(kappa[norm < 0.99 * bound], 0.0, atol=1e-6)


@pytest.mark.parametrize("n", [1, 5, 50, 100_000])
def test_fit_matches_scipy_and_the_general_solver(n):
    data, _, _ = counted_data(np.zeros(1), n=n, norm=1.0, replicas=4)
    fit = ball_mle(data.differences, data.count, data.wins, bound=1.0)
    assert np.all(fit.converged)
    other = logistic_mle(data.differences, data.count, data.wins, bound=1.0)
    np.testing.assert_allclose(fit.value, other.value, atol=1e-7)
    z = data.differences.z[0]
    for r in range(2):
        count, wins = data.count[r], data.wins[r]
        answer = minimize(
            lambda t, c=count, w=wins: np.sum(c * np.logaddexp(0, z @ t) - w * (z @ t)),
            np.zeros(D),
            method="SLSQP",
            constraints=[{"type": "ineq", "fun": lambda t: 1.0 - t @ t}],
            options={"ftol": 1e-12},
        )
        ours = slow_loss(fit.value[r], z, count, wins)
        assert ours <= answer.fun + 1e-7 * (1 + n)


def test_separable_data_far_out_converge_and_beyond_rounding_say_that_they_have_not():
    """Damped steps of about .7 logits have to get to 24; beyond 30 doubles cannot tell."""
    data, _, _ = counted_data(np.zeros(1), n=1, replicas=6)
    fit = ball_mle(data.differences, data.count, data.wins, bound=12.0)
    assert np.all(fit.converged)
    np.testing.assert_allclose(np.linalg.norm(fit.value, axis=1), 12.0, rtol=1e-9)
    beyond = ball_mle(data.differences, data.count, data.wins, bound=1000.0)
    assert not np.any(beyond.converged)
    assert "lower `bound`" in beyond.message


def test_unseen_directions_have_no_part(xp_like):
    z = np.zeros((1, 2, 3))
    z[0, :, 0] = 1.0, 2.0
    count, wins = np.array([[5.0, 4.0]]), np.array([[3.0, 3.0]])
    fit = ball_mle(
        Rows(as_like(z, xp_like)), as_like(count, xp_like), as_like(wins, xp_like), bound=5.0
    )
    theta = to_numpy(fit.value)
    np.testing.assert_array_equal(theta[:, 1:], 0.0)
    assert 0 < theta[0, 0] < 5


def test_no_data_give_zero(xp_like):
    data, _, _ = counted_data(xp_like, n=0)
    fit = ball_mle(data.differences, data.count, data.wins, bound=1.0)
    np.testing.assert_array_equal(to_numpy(fit.value), 0.0)
    assert np.all(to_numpy(fit.converged))
    empty = as_like(np.zeros((2, 0)), xp_like)
    nothing = ball_mle(Rows(as_like(np.zeros((2, 0, 3)), xp_like)), empty, empty, bound=1.0)
    np.testing.assert_array_equal(to_numpy(nothing.value), np.zeros((2, 3)))


def test_start_scale_and_design_do_not_matter():
    data, _, _ = counted_data(np.zeros(1), n=80)
    args = (data.count, data.wins)
    cold = ball_mle(data.differences, *args, bound=1.0)
    warm = ball_mle(data.differences, *args, bound=1.0, start=cold)
    far = ball_mle(data.differences, *args, bound=1.0, start=logistic_mle(data.differences, *args))
    other = ball_mle(LaplacianRows(data.frame.table.phi), *args, bound=1.0)
    for fit in (warm, far, other):
        np.testing.assert_allclose(fit.value, cold.value, atol=1e-8)
    assert warm.n_iter <= 2
    scaled = ball_mle(data.differences, *args, bound=0.5, scale=2.0)
    np.testing.assert_allclose(scaled.value, 0.5 * cold.value, atol=1e-8)


def test_a_replica_does_not_depend_on_its_company():
    data, _, _ = counted_data(np.zeros(1), n=30, replicas=6)
    whole = ball_mle(data.differences, data.count, data.wins, bound=1.0)
    alone = ball_mle(data.differences, data.count[3:4], data.wins[3:4], bound=1.0)
    np.testing.assert_allclose(alone.value[0], whole.value[3], atol=1e-10)


def test_bad_arguments_are_refused():
    data, _, _ = counted_data(np.zeros(1))
    with pytest.raises(ValueError, match="bound must be positive"):
        ball_mle(data.differences, data.count, data.wins, bound=0.0)
    with pytest.raises(ValueError, match="ridge must be finite"):
        ball_mle(data.differences, data.count, data.wins, bound=1.0, ridge=-1.0)
    with pytest.raises(ValueError, match="must be finite"):
        ball_mle(data.differences, data.count, np.nan * data.wins, bound=1.0)
