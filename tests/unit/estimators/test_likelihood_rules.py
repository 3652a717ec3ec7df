"""Rules on the likelihood: thresholds, and the ellipsoids that contain the likelihood sets."""

import math

import numpy as np
import pytest
from scipy.stats import chi2

from rlhf_theory.arrays import to_numpy
from rlhf_theory.estimators.confidence import ConfidenceRule
from rlhf_theory.estimators.evidence import importance_evidence
from rlhf_theory.estimators.likelihood_rules import LikelihoodRatio, MarginalLikelihood, Wald
from rlhf_theory.estimators.likelihood_set import LikelihoodSet
from tests.helpers.labelled import counted_data
from tests.helpers.reference import loss as slow_loss

D = 3


def test_the_likelihood_ratio_matches_the_sheet_by_hand(xp_like):
    data, _, _ = counted_data(xp_like, n=50)
    got = to_numpy(LikelihoodRatio(theta_bound=1.3, delta=0.1, scale=2.0).parts.threshold(data))
    phi = to_numpy(data.pairs.phi)
    longest = 2.0 * np.linalg.norm(phi[0, :, 0] - phi[0, :, 1], axis=-1).max()
    want = math.log(10) + D * math.log(max(math.e, 2 * math.e * 1.3 * 50 * longest / D))
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_the_marginal_threshold_is_minus_log_evidence_above_the_best_loss_in_the_ball():
    data, _, _ = counted_data(np.zeros(1), n=50)
    rule = MarginalLikelihood(theta_bound=1.3, delta=0.1, integral="importance", n_draws=4000)
    fit = rule.fit(data)
    got = rule.parts.threshold(data, fit=fit)
    z = data.differences.z
    variance = 1.3**2 / D
    evidence = importance_evidence(data.differences, data.count, data.wins, variance, 4000)
    for r in range(3):
        base = slow_loss(fit.value[r], z[0], data.count[r], data.wins[r])
        want = -evidence.value[r] + math.log(10) - base
        assert got[r] == pytest.approx(want, rel=1e-9)
    # Laplace is close, the estimate is computed where it is not given.
    np.testing.assert_allclose(
        MarginalLikelihood(theta_bound=1.3, delta=0.1).parts.threshold(data), got, atol=0.05
    )
    np.testing.assert_allclose(rule.parts.threshold(data), got, atol=1e-7)


def test_wald_is_the_chi_squared_quantile(xp_like):
    data, problem, _ = counted_data(xp_like)
    rule = Wald(delta=0.1)
    np.testing.assert_allclose(
        to_numpy(rule.parts.threshold(data)), chi2.ppf(0.9, D) / 2, rtol=1e-10
    )
    np.testing.assert_allclose(
        to_numpy(rule(data, problem)), math.sqrt(chi2.ppf(0.9, D)), rtol=1e-10
    )


@pytest.mark.parametrize("rule", [LikelihoodRatio, MarginalLikelihood])
def test_the_ellipsoid_contains_the_likelihood_set(rule):
    """Self-concordance (sheet 10.4): check on random points and on the extreme points."""
    rng = np.random.default_rng(0)
    for n, norm in ((20, 1.0), (300, 1.0), (60, 3.0)):
        data, problem, _ = counted_data(np.zeros(1), n=n, norm=norm)
        wide, tight = (rule(theta_bound=norm, form=f) for f in ("ellipsoid", "likelihood"))
        fit = wide.fit(data)
        outer, inner = (s.confidence_set(fit, data, problem) for s in (wide, tight))
        assert isinstance(inner, LikelihoodSet)
        for _ in range(200):
            theta = rng.normal(size=(3, D))
            theta *= norm * rng.uniform(size=(3, 1)) / np.linalg.norm(theta, axis=1, keepdims=True)
            assert np.all(outer.contains(theta) | ~inner.contains(theta))
        v = rng.normal(size=(1, 8, D))
        assert np.all(outer.lower(v) <= inner.lower(v) + 1e-9)
        assert np.all(outer.upper(v) >= inner.upper(v) - 1e-9)


def test_the_marginal_likelihood_is_tighter_than_the_ratio():
    """Sheet 10.8 (iii): 2.8 to 4 times on the likelihood scale, at d = 5."""
    data, _, _ = counted_data(np.zeros(1), n=1000, d=5, replicas=20)
    ratio = LikelihoodRatio().parts.threshold(data) / MarginalLikelihood().parts.threshold(data)
    assert np.all((ratio > 2.5) & (ratio < 4.5))


@pytest.mark.parametrize("form", ["ellipsoid", "likelihood"])
@pytest.mark.parametrize("rule", [LikelihoodRatio, MarginalLikelihood, Wald])
def test_both_designs_and_both_forms(rule, form):
    data, problem, _ = counted_data(np.zeros(1))
    made = rule(form=form)
    assert isinstance(made, ConfidenceRule)
    for design, p in ((None, D), (data.skew, D * (D + 1) // 2)):
        fit = made.fit(data, design)
        confidence = made.confidence_set(fit, data, problem, design)
        assert confidence.center.shape == (3, p)
        v = np.random.default_rng(0).normal(size=(1, 3, p))
        assert np.all(confidence.lower(v) < confidence.upper(v))


def test_scale_reaches_threshold_metric_and_set():
    data, problem, _ = counted_data(np.zeros(1), scale=2.0, n=500)
    rule = MarginalLikelihood(scale=2.0, theta_bound=3.0)
    fit = rule.fit(data)
    confidence = rule.confidence_set(fit, data, problem)
    z = 2.0 * data.differences.z[0]
    p = 1 / (1 + np.exp(-fit.value @ z.T))
    want = np.eye(D) + np.einsum("rn,ni,nj->rij", data.count * p * (1 - p), z, z)
    np.testing.assert_allclose(confidence.sigma, want, rtol=1e-10)
    likelihood = MarginalLikelihood(scale=2.0, theta_bound=3.0, form="likelihood").confidence_set(
        fit, data, problem
    )
    # At the estimate, inside the ball, the excess is 0 and its gradient vanishes.
    np.testing.assert_allclose(likelihood.excess(fit.value), 0.0, atol=1e-10)
    for h in np.eye(D):
        assert np.all(likelihood.excess(fit.value + 1e-3 * h) >= -1e-6)


def test_without_data_every_parameter_of_the_ball_is_plausible():
    data, problem, _ = counted_data(np.zeros(1), n=0)
    theta = np.full((3, D), 1 / math.sqrt(D))
    for rule in (LikelihoodRatio, MarginalLikelihood):
        for form in ("ellipsoid", "likelihood"):
            made = rule(form=form)
            assert np.all(made.confidence_set(made.fit(data), data, problem).contains(theta))


@pytest.mark.parametrize("rule", [LikelihoodRatio, MarginalLikelihood, Wald])
def test_settings_that_cannot_work_are_refused(rule):
    with pytest.raises(ValueError, match="delta must lie strictly"):
        rule(delta=0.0)
    with pytest.raises(ValueError, match="form must be one of"):
        rule(form="box")
    with pytest.raises(ValueError, match="theta_bound must be positive"):
        rule(theta_bound=-1.0)
    with pytest.raises(ValueError, match="integral must be one of"):
        MarginalLikelihood(integral="laplas")
    with pytest.raises(ValueError, match="n_draws must be positive"):
        MarginalLikelihood(n_draws=0)
