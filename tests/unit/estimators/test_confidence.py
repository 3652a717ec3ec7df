"""Rules that wrap or replace a radius."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from rlhf_theory import bounds
from rlhf_theory.arrays import as_like, int_like, to_numpy
from rlhf_theory.data import Contexts, PairList
from rlhf_theory.estimators.confidence import (
    Adaptive,
    AdaptiveRidge,
    ConfidenceRule,
    Constant,
    DesignRule,
    FixedDesign,
    GlobalAdaptive,
    GlobalFixedDesign,
    LikelihoodRatio,
    MarginalLikelihood,
    Scaled,
    Wald,
    label_scale,
)
from rlhf_theory.estimators.curvature_rules import Metric, adaptive_noise, noise_radius
from rlhf_theory.estimators.rule_parts import Ball
from tests.helpers.assembled import compared
from tests.helpers.labelled import counted_data

D = 3
V = np.random.default_rng(0).normal(size=(1, 4, D))


@pytest.mark.parametrize("rule", [GlobalAdaptive(), MarginalLikelihood(), Constant(beta=2.0)])
def test_a_multiplier_scales_widths_of_ellipsoids(rule):
    data, problem, _ = counted_data(np.zeros(1))
    scaled = Scaled(rule, 0.1)
    fit = scaled.fit(data)
    np.testing.assert_allclose(fit.value, rule.fit(data).value)
    np.testing.assert_allclose(scaled(data, problem), 0.1 * rule(data, problem), rtol=1e-12)
    whole, part = (r.confidence_set(fit, data, problem) for r in (rule, scaled))
    np.testing.assert_allclose(
        part.upper(V) - part.lower(V), 0.1 * (whole.upper(V) - whole.lower(V)), rtol=1e-10
    )
    assert isinstance(scaled, ConfidenceRule)
    twice = Scaled(scaled, 10.0).confidence_set(fit, data, problem)
    np.testing.assert_allclose(twice.lower(V), whole.lower(V), rtol=1e-10)


def test_a_multiplier_scales_widths_of_likelihood_sets_where_they_are_quadratic():
    data, problem, _ = counted_data(np.zeros(1), n=200_000)
    rule = MarginalLikelihood(theta_bound=2.0, form="likelihood")
    fit = rule.fit(data)
    whole, part = (r.confidence_set(fit, data, problem) for r in (rule, Scaled(rule, 0.1)))
    ratio = (part.upper(V) - part.lower(V)) / (whole.upper(V) - whole.lower(V))
    np.testing.assert_allclose(ratio, 0.1, rtol=2e-3)


@pytest.mark.parametrize(
    "rule",
    [
        GlobalAdaptive(),
        MarginalLikelihood(),
        MarginalLikelihood(form="likelihood"),
        Constant(beta=2.0),
    ],
)
def test_multiplier_zero_leaves_the_estimate(rule):
    data, problem, _ = counted_data(np.zeros(1))
    fit = rule.fit(data)
    confidence = Scaled(rule, 0.0).confidence_set(fit, data, problem)
    want = np.einsum("xjd,rd->rj", V, fit.value)
    np.testing.assert_allclose(confidence.lower(V), want, rtol=1e-12)
    np.testing.assert_allclose(confidence.upper(V), want, rtol=1e-12)


def test_a_constant_radius(xp_like):
    data, problem, _ = counted_data(xp_like)
    rule = Constant(beta=1.5, lam=0.5, scale=2.0)
    np.testing.assert_array_equal(to_numpy(rule(data, problem)), 1.5)
    fit = rule.fit(data)
    confidence = rule.confidence_set(fit, data, problem)
    want = 0.5 * np.eye(D) + 4.0 * to_numpy(data.differences.gram(data.count))
    np.testing.assert_allclose(to_numpy(confidence.sigma), want, rtol=1e-12)
    skew = rule.confidence_set(rule.fit(data, data.skew), data, problem, data.skew)
    assert tuple(skew.sigma.shape) == (3, 6, 6)


@pytest.mark.parametrize("n", [0, 30])
@pytest.mark.parametrize(
    "rule",
    [
        *(
            GlobalFixedDesign(),
            FixedDesign(),
            GlobalAdaptive(),
            Adaptive(),
            AdaptiveRidge(),
            LikelihoodRatio(),
            MarginalLikelihood(),
            Wald(),
            Constant(beta=1.0),
        ),
        *(
            LikelihoodRatio(form="likelihood"),
            MarginalLikelihood(form="likelihood"),
            MarginalLikelihood(integral="importance", n_draws=20),
        ),
    ],
    ids=lambda rule: f"{type(rule).__name__}-{getattr(rule, 'form', '')}",
)
def test_contexts_that_never_repeat(xp_like, rule, n):
    """A growing list of pairs, each replica with its own rows; the first round has none."""
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(3, max(n, 1), 4, D)) / 2
    log_pi0 = np.full(phi.shape[:3], -np.log(4))
    x = Contexts(as_like(phi, xp_like), as_like(log_pi0, xp_like))
    data = PairList.empty(3, D, xp_like)
    if n:
        a1, a2 = (int_like(rng.integers(4, size=(3, n)), xp_like) for _ in range(2))
        data = data.add(compared(x, a1, a2, as_like(rng.integers(2, size=(3, n)), xp_like)))
    fit = rule.fit(data)
    assert np.all(to_numpy(fit.converged))
    confidence = rule.confidence_set(fit, data)
    lower, upper = (to_numpy(f(x.phi)) for f in (confidence.lower, confidence.upper))
    assert lower.shape == phi.shape[:3]
    assert np.all(lower < upper)
    assert np.all(to_numpy(confidence.contains(fit.value)))


def test_a_rule_of_parts_is_a_rule():
    """Put together by hand, the parts of a named rule; and a radius of one's own in their place."""
    data, problem, _ = counted_data(np.zeros(1))
    ball, lam = Ball(1.3, scale=2.0), 0.7
    radius = noise_radius(partial(adaptive_noise, delta=0.1), ball, lam, bounds.adaptive_radius)
    rule = DesignRule(metric=partial(Metric, lam=lam), radius=radius, fit=ball)
    named = Adaptive(theta_bound=1.3, delta=0.1, lam=lam, scale=2.0)
    assert isinstance(rule, ConfidenceRule)
    np.testing.assert_array_equal(rule(data, problem), named(data, problem))
    fit = rule.fit(data)
    np.testing.assert_array_equal(fit.value, named.fit(data).value)
    sets = [r.confidence_set(fit, data, problem) for r in (rule, named)]
    np.testing.assert_array_equal(sets[0].lower(V), sets[1].lower(V))
    own = replace(rule, radius=lambda metric: 0.1 * metric.count.sum(-1) ** 0.25)
    np.testing.assert_allclose(own.confidence_set(fit, data).beta, 0.1 * 200**0.25)
    np.testing.assert_array_equal(own.confidence_set(fit, data).sigma, sets[1].sigma)


def test_the_scale_of_the_labels_is_known_through_what_wraps_a_rule():
    rule = Wald(scale=3.0)
    assert [label_scale(r) for r in (rule, rule.parts, Scaled(Scaled(rule, 0.1), 2.0))] == [3.0] * 3
    assert label_scale(Scaled(Constant(beta=1.0), 0.1)) == 1.0


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="multiplier must be finite and at least 0"):
        Scaled(GlobalAdaptive(), -0.5)
    with pytest.raises(ValueError, match="beta must be finite and at least 0"):
        Constant(beta=-1.0)
    with pytest.raises(ValueError, match="lam must be positive"):
        Constant(beta=1.0, lam=0.0)
