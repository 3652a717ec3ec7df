"""Likelihood sets within a ball: exact bounds, certificates, edges."""

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.core import ConfidenceSet
from rlhf_theory.data import LaplacianRows
from rlhf_theory.estimators.likelihood_set import LikelihoodSet
from rlhf_theory.estimators.mle import bradley_terry_mle
from tests.helpers.labelled import counted_data
from tests.helpers.reference import loss as slow_loss

R, D = 3, 3


def made(like, threshold=3.0, bound=2.0, **kwargs):
    data, _, theta = counted_data(like, **kwargs)
    fit = bradley_terry_mle(data, bound=bound)
    n = data.count.shape[0]
    level = as_like(np.full(n, threshold), like)
    return (
        LikelihoodSet(fit.value, data.differences, data.count, data.wins, level, bound),
        data,
        theta,
    )


def slow_minimum(s, r, v):
    """The same convex program by SLSQP, with gradients, from several starts."""
    z = s.design.z[0]
    count, wins, center = s.count[r], s.wins[r], s.center[r]
    base = slow_loss(center, z, count, wins)

    def slack(t):
        u = z @ t
        return s.threshold[r] + base - np.sum(count * np.logaddexp(0, u) - wins * u)

    def slope(t):
        return -(count / (1 + np.exp(-z @ t)) - wins) @ z

    rng, best = np.random.default_rng(0), np.inf
    for start in (center, 0.5 * center, *(0.3 * rng.normal(size=(3, len(v))))):
        answer = minimize(
            lambda t: v @ t,
            start,
            jac=lambda t: v,
            method="SLSQP",
            constraints=[
                {"type": "ineq", "fun": slack, "jac": slope},
                {"type": "ineq", "fun": lambda t: s.bound**2 - t @ t, "jac": lambda t: -2 * t},
            ],
            options={"ftol": 1e-12, "maxiter": 1000},
        )
        if slack(answer.x) > -1e-7 and answer.x @ answer.x < s.bound**2 + 1e-7:
            best = min(best, answer.fun)
    return best


@pytest.mark.parametrize(
    ("n", "bound", "threshold", "norm"),
    [
        (200, 2.0, 3.0, 1.0),  # the likelihood alone
        (200, 1.0, 8.0, 1.0),  # both
        (12, 3.0, 5.0, 3.0),  # few, often separable data
        (3, 1.0, 20.0, 1.0),  # the ball alone
        (20_000, 2.0, 6.0, 1.0),
        (200, 2.0, 1e-3, 1.0),
    ],
)
def test_bounds_match_scipy(n, bound, threshold, norm):
    s, _, _ = made(np.zeros(1), threshold, bound, n=n, norm=norm)
    v = np.random.default_rng(5).normal(size=(R, 3, D))
    solution = s.minimum(v)
    assert np.all(solution.converged)
    for r in range(R):
        for j in range(3):
            want = slow_minimum(s, r, v[r, j])
            assert solution.value[r, j] == pytest.approx(want, abs=2e-6 * bound)


def test_bounds_hold_for_every_point_of_the_set_and_are_nearly_attained(xp_like):
    s, _, _ = made(xp_like)
    rng = np.random.default_rng(0)
    v = rng.normal(size=(R, 4, D))
    lower, upper = to_numpy(s.lower(as_like(v, xp_like))), to_numpy(s.upper(as_like(v, xp_like)))
    closest = np.full((R, 4), np.inf)
    center = to_numpy(s.center)
    for _ in range(400):
        theta = center + 0.8 * rng.normal(size=(R, D))
        inside = to_numpy(s.contains(as_like(theta, xp_like)))
        value = np.einsum("rjd,rd->rj", v, theta)
        ok = (lower <= value + 1e-9) & (value <= upper + 1e-9)
        assert np.all(ok[inside])
        share = (value - lower) / (upper - lower)
        closest = np.minimum(closest, np.where(inside[:, None], share, np.inf))
    assert np.all(closest < 0.35)
    assert isinstance(s, ConfidenceSet)


def test_libraries_agree(xp_like):
    v = np.random.default_rng(0).normal(size=(1, 2, 3, D))
    here, there = made(np.zeros(1))[0], made(xp_like)[0]
    got = to_numpy(there.lower(as_like(v, xp_like)))
    assert got.shape == (R, 2, 3)
    np.testing.assert_allclose(got, here.lower(v), atol=1e-8)


def test_both_designs_agree():
    s, data, _ = made(np.zeros(1))
    phi = data.frame.table.phi
    other = LikelihoodSet(s.center, LaplacianRows(phi), s.count, s.wins, s.threshold, s.bound)
    v = np.random.default_rng(0).normal(size=(1, 4, D))
    np.testing.assert_allclose(other.lower(v), s.lower(v), atol=1e-8)


def test_a_replica_does_not_depend_on_its_company():
    s, _, _ = made(np.zeros(1), replicas=5, n=40)
    v = np.random.default_rng(0).normal(size=(5, 4, D))
    together = s.lower(v)
    for r in (0, 3):
        one = slice(r, r + 1)
        alone = LikelihoodSet(
            s.center[one], s.design, s.count[one], s.wins[one], s.threshold[one], s.bound
        )
        np.testing.assert_allclose(alone.lower(v[one])[0], together[r], atol=1e-10)


def test_the_set_lies_between_estimate_and_ball_and_grows_with_the_threshold():
    v = np.random.default_rng(0).normal(size=(R, 6, D))
    last = None
    for threshold in (0.0, 1e-4, 0.5, 5.0, 500.0):
        s, _, _ = made(np.zeros(1), threshold)
        lower = s.lower(v)
        if threshold == 0.0:
            np.testing.assert_allclose(lower, np.einsum("rjd,rd->rj", v, s.center), rtol=1e-12)
        else:
            assert np.all(lower < last)
        last = lower
    np.testing.assert_allclose(last, -2.0 * np.linalg.norm(v, axis=-1), rtol=1e-12)


def test_small_sets_are_ellipsoids():
    """A small threshold: half-width sqrt(2 tau) |v|_{H^-1}."""
    s, _, _ = made(np.zeros(1), 1e-6, n=2000)
    v = np.random.default_rng(0).normal(size=(R, 4, D))
    u = s.design.margins(s.center)
    p = 1 / (1 + np.exp(-u))
    inverse = np.linalg.inv(s.design.gram(s.count * p * (1 - p)))
    width = np.sqrt(2e-6 * np.einsum("rji,rik,rjk->rj", v, inverse, v))
    center = np.einsum("rjd,rd->rj", v, s.center)
    np.testing.assert_allclose((center - s.lower(v)) / width, 1.0, atol=2e-3)
    np.testing.assert_allclose((s.upper(v) - center) / width, 1.0, atol=2e-3)


def test_without_data_the_set_is_the_ball(xp_like):
    s, _, _ = made(xp_like, n=0)
    v = np.random.default_rng(0).normal(size=(1, 4, D))
    got = to_numpy(s.upper(as_like(v, xp_like)))
    np.testing.assert_allclose(got, 2 * np.linalg.norm(v, axis=-1).repeat(R, axis=0), rtol=1e-12)
    assert np.all(to_numpy(s.contains(as_like(np.ones((R, D)), xp_like))))
    assert not np.any(to_numpy(s.contains(as_like(2 * np.ones((R, D)), xp_like))))


def test_zero_directions_and_no_directions():
    s, _, _ = made(np.zeros(1))
    v = np.zeros((R, 2, D))
    v[:, 1, 0] = 1.0
    np.testing.assert_array_equal(s.lower(v)[:, 0], 0.0)
    assert s.lower(np.zeros((R, 0, D))).shape == (R, 0)
    assert np.all(s.minimum(np.zeros((R, 0, D))).converged)


def test_an_empty_set_contains_nothing_and_bounds_like_the_estimate():
    s, _, _ = made(np.zeros(1), -0.1)
    v = np.random.default_rng(0).normal(size=(R, 4, D))
    assert not np.any(s.contains(s.center))
    np.testing.assert_allclose(s.lower(v), np.einsum("rjd,rd->rj", v, s.center), rtol=1e-12)


def test_excess_is_the_difference_of_slow_losses():
    s, _, theta = made(np.zeros(1))
    z = s.design.z[0]
    want = [
        slow_loss(theta[0], z, s.count[r], s.wins[r])
        - slow_loss(s.center[r], z, s.count[r], s.wins[r])
        for r in range(R)
    ]
    np.testing.assert_allclose(s.excess(theta), want, rtol=1e-9)


def test_few_iterations_give_a_valid_bound_that_says_so():
    s, _, _ = made(np.zeros(1), 5.0, 3.0, n=12, norm=3.0)
    v = np.random.default_rng(5).normal(size=(R, 3, D))
    exact = s.lower(v)
    rough = LikelihoodSet(s.center, s.design, s.count, s.wins, s.threshold, 3.0, max_iter=2)
    solution = rough.minimum(v)
    assert np.all(solution.value <= exact + 1e-9)
    assert not np.all(solution.converged)
    assert "max_iter" in solution.message


def test_rescaling_squares_the_multiplier():
    s, _, _ = made(np.zeros(1))
    np.testing.assert_allclose(s.rescaled(0.5).threshold, 0.75)


@pytest.mark.parametrize("field", ["bound", "center", "threshold"])
def test_bad_arguments_are_refused(field):
    s, _, _ = made(np.zeros(1))
    wrong = {"bound": -1.0, "center": np.zeros((R, 5)), "threshold": np.zeros(7)}
    good = {
        "center": s.center,
        "design": s.design,
        "count": s.count,
        "wins": s.wins,
        "threshold": s.threshold,
        "bound": 1.0,
    }
    with pytest.raises(ValueError, match=field):
        LikelihoodSet(**{**good, field: wrong[field]})
