"""Marginal likelihoods against integration on a grid and, for Beta priors, by hand."""

import math

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.data import Rows
from rlhf_theory.estimators.evidence import importance_evidence, laplace_evidence
from rlhf_theory.estimators.mle import logistic_mle


def instance(n, norm, seed=0, replicas=4):
    """Labels of eight rows in two dimensions."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(1, 8, 2))
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    theta = norm * np.array([0.6, -0.8])
    p = 1 / (1 + np.exp(-z[0] @ theta))
    count = rng.multinomial(n, np.full(8, 1 / 8), size=replicas)
    return z, count.astype(float), rng.binomial(count, p).astype(float)


def grid_evidence(z, count, wins, variance):
    """``log Int e^-L dN(0, s^2 I)`` by the trapezoidal rule over nine standard deviations."""
    axis = np.linspace(-9, 9, 721) * math.sqrt(variance)
    a, b = np.meshgrid(axis, axis, indexing="ij")
    theta = np.stack([a, b], axis=-1)
    u = theta @ z[0].T
    log_prior = -np.sum(theta**2, axis=-1) / (2 * variance) - math.log(2 * math.pi * variance)
    values = []
    for c, w in zip(count, wins, strict=True):
        log_f = log_prior - np.sum(c * np.logaddexp(0, u) - w * u, axis=-1)
        top = log_f.max()
        cell = (axis[1] - axis[0]) ** 2
        values.append(top + math.log(np.exp(log_f - top).sum() * cell))
    return np.array(values)


@pytest.mark.parametrize(("n", "norm"), [(5, 1.0), (100, 1.0), (20, 3.0), (1000, 3.0)])
def test_both_approximations_match_a_grid_in_two_dimensions(n, norm):
    """Theory sheet 10.5; prior variance B^2 / d with B the norm of theta*."""
    z, count, wins = instance(n, norm)
    variance = norm**2 / 2
    exact = grid_evidence(z, count, wins, variance)
    laplace = laplace_evidence(Rows(z), count, wins, variance)
    sampled = importance_evidence(Rows(z), count, wins, variance)
    assert np.all(laplace.converged & sampled.converged)
    # Thresholds are about 7: a twentieth of a nat is well below what coverage could notice.
    np.testing.assert_allclose(laplace.value, exact, atol=0.1)
    np.testing.assert_allclose(sampled.value, exact, atol=0.05)
    # More draws come closer.
    many = importance_evidence(Rows(z), count, wins, variance, n_draws=4000)
    np.testing.assert_allclose(many.value, exact, atol=0.015)


def test_without_data_the_evidence_is_one(xp_like):
    z, count, wins = instance(0, 1.0)
    rows = Rows(as_like(z, xp_like))
    args = (rows, as_like(count, xp_like), as_like(wins, xp_like), 0.5)
    np.testing.assert_allclose(to_numpy(laplace_evidence(*args).value), 0.0, atol=1e-12)
    np.testing.assert_allclose(to_numpy(importance_evidence(*args).value), 0.0, atol=1e-12)


def test_libraries_agree(xp_like):
    z, count, wins = instance(50, 1.0)
    rows = Rows(as_like(z, xp_like))
    args = (rows, as_like(count, xp_like), as_like(wins, xp_like), 0.5)
    for f in (laplace_evidence, importance_evidence):
        want = f(Rows(z), count, wins, 0.5).value
        np.testing.assert_allclose(to_numpy(f(*args).value), want, rtol=1e-8)


def test_a_replica_does_not_depend_on_its_company():
    z, count, wins = instance(50, 1.0)
    for f in (laplace_evidence, importance_evidence):
        whole = f(Rows(z), count, wins, 0.5).value
        alone = f(Rows(z), count[2:3], wins[2:3], 0.5).value
        np.testing.assert_allclose(alone[0], whole[2], rtol=1e-10)


def test_a_start_changes_nothing():
    z, count, wins = instance(50, 1.0)
    cold = laplace_evidence(Rows(z), count, wins, 0.5)
    mle = logistic_mle(Rows(z), count, wins, ridge=0.1)
    warm = laplace_evidence(Rows(z), count, wins, 0.5, start=mle)
    np.testing.assert_allclose(warm.value, cold.value, rtol=1e-10)


def test_prior_variance_must_be_positive():
    z, count, wins = instance(5, 1.0)
    with pytest.raises(ValueError, match="prior_variance must be positive"):
        laplace_evidence(Rows(z), count, wins, 0.0)
