"""Radii and right-hand sides against hand-written formulas, tables and simulation."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import chi2

from rlhf_theory import bounds
from rlhf_theory.arrays import as_like, to_numpy


@pytest.mark.parametrize(
    ("b", "at_b", "at_2b"),
    [
        (0.5, 0.235, 0.197),
        (1.0, 0.197, 0.105),
        (2.0, 0.105, 0.0177),
        (3.0, 0.0452, 0.00247),
        (5.0, 0.00665, 4.5e-5),
    ],
)
def test_curvature_matches_the_table_of_the_sheet(b, at_b, at_2b):
    """Theory sheet 10.1, three digits."""
    assert bounds.curvature(b) == pytest.approx(at_b, rel=5e-3)
    assert bounds.curvature(2 * b) == pytest.approx(at_2b, rel=1e-2)


def test_curvature_is_the_least_slope_of_the_logistic(xp_like):
    m = np.array([0.0, 0.3, 2.0, 7.0])
    grid = np.linspace(-1, 1, 2001)[:, None] * m
    p = 1 / (1 + np.exp(-grid))
    np.testing.assert_allclose(
        to_numpy(bounds.curvature(as_like(m, xp_like))), (p * (1 - p)).min(axis=0), rtol=1e-12
    )
    assert bounds.curvature(0.0) == 0.25
    assert bounds.curvature(1000.0) == 0.0  # underflows without a warning


def test_fixed_noise_bounds_the_norm_of_projected_signs():
    """Hsu-Kakade-Zhang: 1/2-sub-Gaussian noise in d dimensions stays below G."""
    rng = np.random.default_rng(0)
    d, delta, n = 5, 0.05, 40
    q, _ = np.linalg.qr(rng.normal(size=(n, d)))
    noise = rng.integers(0, 2, size=(20_000, n)) - 0.5
    norms = np.linalg.norm(noise @ q, axis=1)
    assert bounds.fixed_noise(d, delta) > np.quantile(norms, 1 - delta)
    # and not by much: the bound is within a factor of two of the quantile
    assert bounds.fixed_noise(d, delta) < 2 * np.quantile(norms, 1 - delta)


def test_adaptive_noise_without_data_is_the_log_term_alone(xp_like):
    d, lam = 4, 0.3
    log_det = as_like(np.full(3, d * math.log(lam)), xp_like)
    g = to_numpy(bounds.adaptive_noise(log_det, d, lam, 0.05))
    np.testing.assert_allclose(g, math.sqrt(2 * math.log(20) / 4), rtol=1e-12)


def root(f):
    return brentq(f, 0.0, 1e9, xtol=1e-12, rtol=1e-14)


@pytest.mark.parametrize("gamma", [0.2, 0.01])
@pytest.mark.parametrize("lam", [0.1, 3.0])
def test_radii_solve_the_quadratics_of_their_proofs(gamma, lam):
    """Global: gamma (x^2 - 4 lam B^2) / 2 <= G x; the short ones from first-order optimality."""
    g, b = 1.7, 1.3
    long = root(lambda x: gamma / 2 * (x**2 - 4 * lam * b**2) - g * x)
    assert bounds.global_radius(g, gamma, lam, b) == pytest.approx(long, rel=1e-10)
    # gamma |e|_S^2 <= G |e|_S (S = V - lam I, rank-d projector of the fixed design)
    short = math.sqrt((g / gamma) ** 2 + 4 * lam * b**2)
    assert bounds.fixed_radius(g, gamma, lam, b) == pytest.approx(short, rel=1e-12)
    # gamma (|e|_V^2 - lam |e|^2) <= G |e|_V
    adaptive = root(lambda x: gamma * (x**2 - 4 * lam * b**2) - g * x)
    assert bounds.adaptive_radius(g, gamma, lam, b) == pytest.approx(adaptive, rel=1e-10)
    assert short < long
    assert adaptive < long


def test_ridge_radius_solves_its_quadratic():
    """gamma |e|_V'^2 <= (G + sqrt(ridge gamma) B / gamma ... ) in V': checked by substitution."""
    g, gamma, ridge, b = 1.1, 0.1, 2.0, 1.5
    beta = bounds.ridge_radius(g, gamma, ridge, b)
    # First-order optimality: gamma |e|^2_{V'} <= (G + |ridge theta*|_{V'^-1}) |e|_{V'}, and
    # |ridge theta*|_{V'^-1} <= ridge B / sqrt(ridge / gamma).
    assert gamma * beta == pytest.approx(g + ridge * b / math.sqrt(ridge / gamma), rel=1e-12)


def test_likelihood_ratio_threshold_matches_the_table_of_the_sheet(xp_like):
    """Theory sheet 10.8: d=5, unit phi; the sheet's rows have |z| <= 2."""
    n = as_like(np.array([100.0, 1000.0]), xp_like)
    for b, want in ((1.0, (29.9, 41.4)), (3.0, (35.4, 46.9))):
        got = to_numpy(bounds.likelihood_ratio_threshold(n, 5, b, 2.0, 0.05))
        # The sheet's rows are random, with max |z| a little below 2.
        np.testing.assert_allclose(got, want, atol=0.6)
    none = bounds.likelihood_ratio_threshold(0.0 * n, 5, 1.0, 2.0, 0.05)
    np.testing.assert_allclose(to_numpy(none), math.log(20) + 5, rtol=1e-12)


def test_laplace_is_exact_for_a_quadratic_loss(xp_like):
    """L = h theta^2 / 2 - c theta in one dimension: the integral is Gaussian."""
    h, c, s2 = 3.0, 1.2, 0.7
    mode = c / (h + 1 / s2)
    grid = np.linspace(-12, 12, 200_001)
    density = np.exp(-(grid**2) / (2 * s2)) / math.sqrt(2 * math.pi * s2)
    exact = math.log(np.trapezoid(np.exp(-h * grid**2 / 2 + c * grid) * density, grid))
    got = bounds.laplace_log_evidence(
        as_like(np.array([h * mode**2 / 2 - c * mode]), xp_like),
        as_like(np.array([mode**2]), xp_like),
        as_like(np.array([math.log1p(s2 * h)]), xp_like),
        s2,
    )
    assert to_numpy(got)[0] == pytest.approx(exact, rel=1e-9)


def test_wilks_threshold_matches_the_sheet():
    assert bounds.wilks_threshold(5, 0.05) == pytest.approx(5.54, abs=0.005)
    assert 2 * bounds.wilks_threshold(3, 0.1) == pytest.approx(chi2.ppf(0.9, 3), rel=1e-12)


def test_class_threshold_is_the_mixture_over_a_finite_class():
    """-log (1/N sum e^-L) + log 1/delta <= min L + log(N / delta), with equality for N = 1."""
    assert bounds.class_threshold(1, 0.05) == pytest.approx(math.log(20))
    losses = np.array([3.0, 4.0, 7.0])
    mixture = -math.log(np.exp(-losses).mean()) + math.log(20)
    assert mixture - losses.min() <= bounds.class_threshold(3, 0.05)
    assert bounds.version_space_radius(7, 0.01) == pytest.approx(math.sqrt(4 * math.log(700)))


def test_elliptical_potential_bounds_random_and_greedy_sequences():
    rng = np.random.default_rng(0)
    d, lam, t = 3, 0.5, 60
    for greedy in (False, True):
        sigma = lam * np.eye(d)
        total, wide = 0.0, 0
        for _ in range(t):
            v = rng.normal(size=d)
            if greedy:
                v = np.linalg.eigh(sigma)[1][:, 0]
            v *= 2.0 / np.linalg.norm(v)
            square = v @ np.linalg.solve(sigma, v)
            total += math.log1p(square)
            wide += square > 1
            sigma += np.outer(v, v)
        assert total <= bounds.elliptical_potential(t, lam, d) + 1e-9
        assert wide <= bounds.elliptical_potential_rounds(t, lam, d)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, float("nan")])
def test_delta_outside_the_unit_interval_is_refused(delta):
    for call in (
        lambda: bounds.fixed_noise(3, delta),
        lambda: bounds.adaptive_noise(np.zeros(1), 3, 1.0, delta),
        lambda: bounds.wilks_threshold(3, delta),
        lambda: bounds.likelihood_ratio_threshold(np.ones(1), 3, 1.0, 1.0, delta),
        lambda: bounds.mixture_threshold(np.ones(1), np.ones(1), delta),
        lambda: bounds.class_threshold(3, delta),
    ):
        with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1"):
            call()


def test_pessimistic_mle_radius_has_the_papers_form():
    # Normalised: f = sqrt((d + log(1/delta)) / (gamma^2 n) + lambda B^2), lambda per comparison.
    n, lam, gamma = 400, 0.3, 0.0527
    f = math.sqrt((3 + math.log(20)) / (gamma**2 * n) + lam / n * 4.0)
    beta = bounds.pessimistic_mle_radius(3, gamma, lam, 2.0, 0.05)
    assert beta == pytest.approx(f * math.sqrt(n), rel=1e-12)
    with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1"):
        bounds.pessimistic_mle_radius(3, gamma, lam, 2.0, 0.0)
