"""Coverage coefficients and the fast-rate constant, against explicit sums."""

import math

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, log_softmax, to_numpy
from rlhf_theory.data import Contexts
from rlhf_theory.evaluation.coverage import (
    concentrability,
    coverage_coefficient,
    fast_rate_constant,
    fisher_of_sampling,
    pairwise_coverage_coefficient,
    policy_covariance,
)

R, X, A, D = 3, 4, 5, 3


def small(seed=0, shared=False):
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(1 if shared else R, X, A, D))
    log_pi0 = log_softmax(rng.normal(size=(1, X, A)))
    weights = rng.dirichlet(np.ones(X), size=1)
    theta = rng.normal(size=(1 if shared else R, D))
    log_pi = log_softmax(log_pi0 + np.sum(phi * theta[:, None, None, :], axis=-1) / 0.5)
    return phi, log_pi0, weights, theta, log_pi


def slow_fisher(phi, weights, log_p1, log_p2, theta, scale):
    f = np.zeros((D, D))
    for x in range(X):
        for a in range(A):
            for b in range(A):
                z = phi[x, a] - phi[x, b]
                p = 1 / (1 + math.exp(-scale * z @ theta))
                mass = weights[x] * math.exp(log_p1[x, a] + log_p2[x, b])
                f += mass * scale**2 * p * (1 - p) * np.outer(z, z)
    return f


@pytest.mark.parametrize("shared", [False, True])
def test_fisher_matches_the_sum_over_pairs(xp_like, shared):
    phi, log_pi0, weights, theta, log_pi = small(shared=shared)
    x = Contexts(as_like(phi, xp_like), as_like(log_pi0, xp_like))
    args = [as_like(v, xp_like) for v in (weights, log_pi, log_pi0, theta)]
    fisher = to_numpy(fisher_of_sampling(x, *args, scale=1.7))
    for r in range(phi.shape[0]):
        slow = slow_fisher(phi[r], weights[0], log_pi[r], log_pi0[0], theta[r], 1.7)
        np.testing.assert_allclose(fisher[r], slow, rtol=1e-11, atol=1e-13)


def test_fisher_is_the_covariance_of_the_score():
    """The information equality, by enumerating labels too."""
    phi, log_pi0, weights, theta, log_pi = small()
    x = Contexts(phi, log_pi0)
    fisher = fisher_of_sampling(x, weights, log_pi, log_pi0, theta)
    for r in range(R):
        score = np.zeros((D, D))
        for c in range(X):
            for a in range(A):
                for b in range(A):
                    z = phi[r, c, a] - phi[r, c, b]
                    p = 1 / (1 + math.exp(-z @ theta[r]))
                    for y, py in ((1.0, p), (0.0, 1 - p)):
                        g = (y - p) * z
                        mass = weights[0, c] * math.exp(log_pi[r, c, a] + log_pi0[0, c, b])
                        score += mass * py * np.outer(g, g)
        np.testing.assert_allclose(fisher[r], score, rtol=1e-11)


def test_absent_actions_carry_no_information(xp_like):
    phi, log_pi0, weights, theta, _ = small()
    log_pi0 = log_pi0.copy()
    log_pi0[:, :, -1] = -np.inf
    log_pi0 = np.asarray(log_softmax(log_pi0))
    full = Contexts(as_like(phi, xp_like), as_like(log_pi0, xp_like))
    cut = Contexts(as_like(phi[:, :, :-1], xp_like), as_like(log_pi0[:, :, :-1], xp_like))
    w, t = as_like(weights, xp_like), as_like(theta, xp_like)
    whole = fisher_of_sampling(full, w, full.log_pi0, full.log_pi0, t)
    part = fisher_of_sampling(cut, w, cut.log_pi0, cut.log_pi0, t)
    np.testing.assert_allclose(to_numpy(whole), to_numpy(part), rtol=1e-12)
    eta = 0.3
    np.testing.assert_allclose(
        to_numpy(fast_rate_constant(whole, full, w, full.log_pi0, eta)),
        to_numpy(fast_rate_constant(part, cut, w, cut.log_pi0, eta)),
        rtol=1e-12,
    )


def test_fast_rate_constant_matches_the_formula(xp_like):
    phi, log_pi0, weights, theta, log_pi = small()
    x = Contexts(as_like(phi, xp_like), as_like(log_pi0, xp_like))
    args = [as_like(v, xp_like) for v in (weights, log_pi0, log_pi0, theta)]
    fisher = fisher_of_sampling(x, *args)
    value = to_numpy(fast_rate_constant(fisher, x, args[0], as_like(log_pi, xp_like), 0.1))
    for r in range(R):
        cov = np.zeros((D, D))
        for c in range(X):
            p = np.exp(log_pi[r, c])
            cov += weights[0, c] * np.cov(phi[r, c].T, aweights=p, ddof=0)
        want = np.trace(np.linalg.solve(to_numpy(fisher)[r], cov)) / 0.2
        assert value[r] == pytest.approx(want, rel=1e-10)


def test_fast_rate_constant_is_invariant_under_linear_reparametrisation():
    phi, log_pi0, weights, theta, log_pi = small()
    rng = np.random.default_rng(5)
    m = rng.normal(size=(D, D)) + 2 * np.eye(D)
    moved = phi @ m.T
    theta_moved = theta @ np.linalg.inv(m)
    values = []
    for f, t in ((phi, theta), (moved, theta_moved)):
        x = Contexts(f, log_pi0)
        fisher = fisher_of_sampling(x, weights, log_pi, log_pi0, t)
        values.append(fast_rate_constant(fisher, x, weights, log_pi, 0.1))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-9)


def test_a_constant_feature_costs_nothing_and_an_unseen_direction_everything():
    phi, log_pi0, weights, theta, log_pi = small()
    constant = np.concatenate([phi, np.ones((R, X, A, 1))], axis=-1)
    t = np.concatenate([theta, np.zeros((R, 1))], axis=-1)
    x, y = Contexts(phi, log_pi0), Contexts(constant, log_pi0)
    eta = 0.2
    plain = fast_rate_constant(
        fisher_of_sampling(x, weights, log_pi0, log_pi0, theta), x, weights, log_pi, eta
    )
    padded = fast_rate_constant(
        fisher_of_sampling(y, weights, log_pi0, log_pi0, t), y, weights, log_pi, eta
    )
    np.testing.assert_allclose(plain, padded, rtol=1e-9)
    # Both actions always action 0 or 1: one direction per context, at most X = 4 < but here X = 1.
    one = Contexts(phi[:, :1], log_pi0[:, :1])
    w = np.ones((1, 1))
    two = np.full((1, 1, A), -np.inf)
    two[..., :2] = np.log(0.5)
    blind = fast_rate_constant(
        fisher_of_sampling(one, w, two, two, theta), one, w, log_pi[:, :1], eta
    )
    assert np.all(np.isinf(blind))


def test_policy_covariance_of_a_point_mass_is_zero():
    phi, log_pi0, weights, _, _ = small()
    point = np.full((1, X, A), -np.inf)
    point[..., 2] = 0.0
    cov = policy_covariance(Contexts(phi, log_pi0), weights, point)
    np.testing.assert_allclose(cov, 0.0, atol=1e-15)


def test_concentrability_is_one_plus_twice_chi_squared(xp_like):
    _, log_pi0, weights, _, log_pi = small()
    p, q = np.exp(log_pi), np.exp(log_pi0)
    chi2 = 0.5 * np.sum(q * (p / q - 1) ** 2, axis=-1) @ weights[0]
    args = [as_like(v, xp_like) for v in (log_pi, log_pi0, weights)]
    np.testing.assert_allclose(to_numpy(concentrability(*args)), 1 + 2 * chi2, rtol=1e-12)
    same = concentrability(args[1], args[1], args[2])
    np.testing.assert_allclose(to_numpy(same), 1.0, rtol=1e-13)


def test_concentrability_is_infinite_outside_the_support():
    w = np.ones((1, 1))
    with np.errstate(divide="ignore"):
        p = np.log(np.array([[[0.5, 0.5, 0.0]]]))
        q = np.log(np.array([[[1.0, 0.0, 0.0]]]))
    assert np.isinf(concentrability(p, q, w))[0]
    np.testing.assert_allclose(concentrability(q, p, w), 2.0)


def test_coverage_coefficients_match_explicit_sums(xp_like):
    phi, log_pi0, weights, _, log_pi = small()
    rng = np.random.default_rng(1)
    root = rng.normal(size=(R, D, D))
    sigma = root @ np.swapaxes(root, 1, 2) + np.eye(D)
    x = Contexts(as_like(phi, xp_like), as_like(log_pi0, xp_like))
    w, p, q, s = (as_like(v, xp_like) for v in (weights, log_pi, log_pi0, sigma))
    inside = to_numpy(coverage_coefficient(x, w, p, s, 50))
    outside = to_numpy(pairwise_coverage_coefficient(x, w, p, q, s, 50))
    for r in range(R):
        inv = np.linalg.inv(sigma[r])
        v, total = np.zeros(D), 0.0
        for c in range(X):
            for a in range(A):
                for b in range(A):
                    mass = weights[0, c] * math.exp(log_pi[r, c, a] + log_pi0[0, c, b])
                    z = phi[r, c, a] - phi[r, c, b]
                    v += mass * z
                    total += mass * math.sqrt(z @ inv @ z)
        assert inside[r] == pytest.approx(math.sqrt(50 * v @ inv @ v), rel=1e-10)
        assert outside[r] == pytest.approx(math.sqrt(50) * total, rel=1e-10)
        assert inside[r] <= outside[r]  # Jensen


def test_bad_arguments_are_refused():
    phi, log_pi0, weights, theta, log_pi = small()
    x = Contexts(phi, log_pi0)
    with pytest.raises(ValueError, match="scale must be positive"):
        fisher_of_sampling(x, weights, log_pi0, log_pi0, theta, scale=0.0)
    with pytest.raises(ValueError, match="eta must be positive"):
        fast_rate_constant(np.eye(D)[None], x, weights, log_pi, -1.0)
