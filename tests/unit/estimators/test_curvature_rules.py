"""Rules in the metric of the design: they put the right numbers into the formulas of `bounds`."""

import math

import numpy as np
import pytest

from rlhf_theory.arrays import to_numpy
from rlhf_theory.core import Radius
from rlhf_theory.estimators.confidence import ConfidenceRule
from rlhf_theory.estimators.curvature_rules import (
    Adaptive,
    AdaptiveRidge,
    FixedDesign,
    GlobalAdaptive,
    GlobalFixedDesign,
)
from tests.helpers.labelled import counted_data

D = 3


def pieces(data, r, scale=1.0):
    """Rows of one replica by hand."""
    phi = to_numpy(data.pairs.phi)
    z = scale * (phi[0, :, 0] - phi[0, :, 1])
    return z, to_numpy(data.count)[r]


def gamma_of(m):
    return 1 / (2 + math.exp(m) + math.exp(-m))


def fixed_g(delta):
    log = math.log(1 / delta)
    return math.sqrt((D + 2 * math.sqrt(D * log) + 2 * log) / 4)


def adaptive_g(v, lam, delta):
    return math.sqrt((2 * math.log(1 / delta) + np.linalg.slogdet(v)[1] - D * math.log(lam)) / 4)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_radii_match_the_sheet_by_hand(xp_like, scale):
    data, problem, _ = counted_data(xp_like, n=50)
    settings = {"theta_bound": 1.3, "delta": 0.1, "lam": 0.7, "scale": scale}
    got = {
        rule: to_numpy(rule(**settings)(data, problem))
        for rule in (GlobalFixedDesign, FixedDesign, GlobalAdaptive, Adaptive)
    }
    for r in range(3):
        z, count = pieces(data, r, scale)
        v = 0.7 * np.eye(D) + (z.T * count) @ z
        gamma = gamma_of(1.3 * np.linalg.norm(z, axis=1).max())
        ratio = fixed_g(0.1) / gamma
        ridge = 0.7 * 1.3**2
        assert got[GlobalFixedDesign][r] == pytest.approx(
            ratio + math.sqrt(ratio**2 + 4 * ridge), rel=1e-10
        )
        assert got[FixedDesign][r] == pytest.approx(math.sqrt(ratio**2 + 4 * ridge), rel=1e-10)
        ratio = adaptive_g(v, 0.7, 0.1) / gamma
        assert got[GlobalAdaptive][r] == pytest.approx(
            ratio + math.sqrt(ratio**2 + 4 * ridge), rel=1e-10
        )
        want = (ratio + math.sqrt(ratio**2 + 16 * ridge)) / 2
        assert got[Adaptive][r] == pytest.approx(want, rel=1e-10)


def test_the_ridge_rule_uses_its_own_metric(xp_like):
    data, problem, _ = counted_data(xp_like, n=50)
    rule = AdaptiveRidge(theta_bound=1.3, delta=0.1, lam=0.7)
    fit = rule.fit(data)
    confidence = rule.confidence_set(fit, data)
    for r in range(3):
        z, count = pieces(data, r)
        gamma = gamma_of(1.3 * np.linalg.norm(z, axis=1).max())
        v = 0.7 / gamma * np.eye(D) + (z.T * count) @ z
        np.testing.assert_allclose(to_numpy(confidence.sigma)[r], v, rtol=1e-10)
        g = adaptive_g(v, 0.7 / gamma, 0.1)
        want = (g + math.sqrt(0.7 * gamma) * 1.3) / gamma
        assert to_numpy(rule(data, problem))[r] == pytest.approx(want, rel=1e-10)
        # the ridge estimate is stationary for its own loss
        theta = to_numpy(fit.value)[r]
        p = 1 / (1 + np.exp(-z @ theta))
        gradient = (count * p - to_numpy(data.wins)[r]) @ z + 0.7 * theta
        np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


@pytest.mark.parametrize(
    "rule", [GlobalFixedDesign(), FixedDesign(), GlobalAdaptive(), Adaptive(), AdaptiveRidge()]
)
def test_sets_carry_the_radius_and_the_metric_of_the_rule(rule):
    data, problem, _ = counted_data(np.zeros(1))
    fit = rule.fit(data)
    assert np.all(fit.converged)
    confidence = rule.confidence_set(fit, data, problem)
    np.testing.assert_allclose(confidence.beta, rule(data, problem), rtol=1e-12)
    np.testing.assert_array_equal(confidence.center, fit.value)
    if not isinstance(rule, AdaptiveRidge):
        want = np.eye(D) + data.differences.gram(data.count)
        np.testing.assert_allclose(confidence.sigma, want, rtol=1e-12)
        assert np.all(np.linalg.norm(fit.value, axis=1) <= 1.0 + 1e-8)
    assert isinstance(rule, ConfidenceRule)
    radius: Radius = rule
    assert radius is rule


@pytest.mark.parametrize(
    "rule", [GlobalFixedDesign(), GlobalAdaptive(), Adaptive(), AdaptiveRidge()]
)
def test_the_bilinear_design_is_a_matter_of_passing_it(rule):
    data, _, _ = counted_data(np.zeros(1))
    p = D * (D + 1) // 2
    fit = rule.fit(data, data.skew)
    confidence = rule.confidence_set(fit, data, design=data.skew)
    assert confidence.center.shape == (3, p)
    assert confidence.sigma.shape == (3, p, p)
    np.testing.assert_allclose(confidence.beta, rule.parts.beta(data, data.skew), rtol=1e-12)


def test_a_known_bound_on_the_rows_replaces_the_longest():
    data, problem, _ = counted_data(np.zeros(1))
    longest = float(data.differences.z_max[0])
    np.testing.assert_allclose(
        GlobalFixedDesign(z_max=longest)(data, problem),
        GlobalFixedDesign()(data, problem),
        rtol=1e-12,
    )
    assert np.all(GlobalFixedDesign(z_max=2.0)(data, problem) > GlobalFixedDesign()(data, problem))


def test_order_of_the_radii():
    """Halving by first-order optimality; adaptivity costs, by log det, at large n."""
    data, problem, _ = counted_data(np.zeros(1), n=5000)
    fixed, adaptive = (rule()(data, problem) for rule in (FixedDesign, Adaptive))
    wide_fixed, wide = (rule()(data, problem) for rule in (GlobalFixedDesign, GlobalAdaptive))
    assert np.all((fixed < wide_fixed) & (adaptive < wide) & (wide_fixed < wide))


def test_without_data_the_sets_contain_the_ball(xp_like):
    data, _, _ = counted_data(xp_like, n=0)
    for rule in (GlobalFixedDesign(), FixedDesign(), GlobalAdaptive(), Adaptive()):
        confidence = rule.confidence_set(rule.fit(data), data)
        np.testing.assert_allclose(to_numpy(confidence.center), 0.0, atol=1e-12)
        assert np.all(to_numpy(confidence.beta) >= 1.0)  # lambda = B = 1


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"theta_bound": 0.0}, "theta_bound must be positive"),
        ({"delta": 1.0}, "delta must lie strictly"),
        ({"lam": -1.0}, "lam must be positive"),
        ({"z_max": 0.0}, "z_max must be positive"),
        ({"scale": float("nan")}, "scale must be positive"),
    ],
)
@pytest.mark.parametrize(
    "rule", [GlobalFixedDesign, FixedDesign, GlobalAdaptive, Adaptive, AdaptiveRidge]
)
def test_settings_that_cannot_work_are_refused(rule, settings, match):
    with pytest.raises(ValueError, match=match):
        rule(**settings)
