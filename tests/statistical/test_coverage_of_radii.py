"""Coverage of the confidence rules on counted data of many replicas."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from rlhf_theory.estimators.confidence import (
    Adaptive,
    AdaptiveRidge,
    FixedDesign,
    GlobalAdaptive,
    GlobalFixedDesign,
    LikelihoodRatio,
    MarginalLikelihood,
    Wald,
)
from tests.helpers.labelled import counted_data
from tests.helpers.statistics import assert_frequency

pytestmark = pytest.mark.statistical

REPLICAS = 2000


@pytest.mark.parametrize(
    "rule",
    [
        GlobalFixedDesign,
        FixedDesign,
        GlobalAdaptive,
        Adaptive,
        AdaptiveRidge,
        LikelihoodRatio,
        MarginalLikelihood,
    ],
)
@pytest.mark.parametrize("n", [20, 500])
def test_finite_sample_sets_keep_their_level(rule, n):
    """Hypothesis: coverage at least 1 - delta = .8, theta* on the boundary; false alarm 1e-6.

    Would notice a coverage of .75. delta is large so that a wrong constant has room to show.
    """
    data, _, theta = counted_data(np.zeros(1), n=n, replicas=REPLICAS, norm=1.0)
    made = rule(theta_bound=1.0 if rule is not AdaptiveRidge else 1.5, delta=0.2)
    fit = made.fit(data)
    assert np.all(fit.converged)
    hits = int(made.confidence_set(fit, data).contains(theta).sum())
    assert hits >= binom.ppf(1e-6, REPLICAS, 0.8)


@pytest.mark.parametrize("rule", [LikelihoodRatio, MarginalLikelihood])
def test_likelihood_sets_keep_their_level(rule):
    """As above for the sets themselves, within the ball."""
    data, _, theta = counted_data(np.zeros(1), n=300, replicas=REPLICAS, norm=1.0)
    made = rule(delta=0.2, form="likelihood")
    hits = made.confidence_set(made.fit(data), data).contains(theta).sum()
    assert hits >= binom.ppf(1e-6, REPLICAS, 0.8)


@pytest.mark.parametrize("form", ["ellipsoid", "likelihood"])
def test_the_asymptotic_set_is_sharp_at_large_n(form):
    """Wald at one large n, theta* inside the ball: coverage .95 exactly in the limit.

    False alarm 1e-6 but for a remainder of order 1/sqrt(n); would notice .92, that is, a factor
    of 1.1 in the radius.
    """
    data, _, theta = counted_data(np.zeros(1), n=50_000, replicas=REPLICAS)
    rule = Wald(theta_bound=5.0, form=form)
    hits = int(rule.confidence_set(rule.fit(data), data).contains(theta).sum())
    assert_frequency(hits, REPLICAS, 0.95)


def test_the_bilinear_design_keeps_its_level():
    """Labels of a skew-bilinear preference, rows of data.skew; false alarm 1e-6."""
    d = 2
    theta = np.array([[0.5, -0.4, math.sqrt(1 - 0.41)]])
    data, _, _ = counted_data(np.zeros(1), n=300, replicas=500, d=d, skew=theta)
    for rule in (GlobalAdaptive(delta=0.2), MarginalLikelihood(delta=0.2)):
        fit = rule.fit(data, data.skew)
        hits = rule.confidence_set(fit, data, design=data.skew).contains(theta).sum()
        assert hits >= binom.ppf(1e-6, 500, 0.8)


def test_a_known_scale_keeps_the_level():
    """Labels with scale 3; a rule that knows it covers theta*, one that does not misses it."""
    data, _, theta = counted_data(np.zeros(1), n=5000, replicas=500, scale=3.0)
    knows = MarginalLikelihood(delta=0.2, scale=3.0)
    hits = knows.confidence_set(knows.fit(data), data).contains(theta).sum()
    assert hits >= binom.ppf(1e-6, 500, 0.8)
    wrong = Wald(theta_bound=5.0)  # estimates 3 theta*
    assert not np.any(wrong.confidence_set(wrong.fit(data), data).contains(theta))
