"""Coverage of the intervals over replicas, by simulation.

Hypothesis of each test: an interval of nominal level 95 % covers the truth at least 90 % of the
time with 30 replicas (bootstrap intervals of skewed data with few replicas fall short of nominal by
a few per cent). 1000 simulations; false alarm below 1e-6 if the coverage is 92 %; a coverage of
85 % is noticed with probability above .999.
"""

import numpy as np
import pytest
import scipy.stats
from scipy.stats import binom

from rlhf_theory.evaluation.statistics import (
    clopper_pearson,
    mean_interval,
    ratio_interval,
    slope_bootstrap,
)

pytestmark = pytest.mark.statistical

_N, _R = 1000, 30
_LEAST = binom.ppf(1e-6, _N, 0.92)


@pytest.fixture
def rng(key):
    return key.child("coverage").generator(0)


def test_mean_intervals_cover(rng):
    normal = exponential = 0
    for _ in range(_N):
        normal += mean_interval(rng.normal(size=_R)).contains(0.0)
        exponential += mean_interval(rng.exponential(size=_R)).contains(1.0)
    assert min(normal, exponential) >= _LEAST


def test_ratio_intervals_cover(rng):
    hits = 0
    for _ in range(_N):
        b = 1.0 + rng.exponential(size=_R)
        hits += ratio_interval(0.5 * b + rng.normal(size=_R), b).contains(0.5)
    assert hits >= _LEAST


def test_slope_intervals_cover_where_a_line_fit_does_not(rng):
    # Squared norms of averages: expectation exactly proportional to 1 / x; neighbouring points of
    # one curve share nearly all their data.
    x = np.geomspace(1000, 4000, 12)
    spread = np.sqrt(np.diff(np.concatenate([[0.0], x])))[:, None]
    ours = line = 0
    for _ in range(_N):
        walk = np.cumsum(rng.normal(size=(_R, 12, 3)) * spread, axis=1)
        curves = np.sum(walk**2, axis=-1) / x**2
        ours += slope_bootstrap(x, curves).contains(-1.0)
        fit = scipy.stats.linregress(np.log(x), np.log(curves.mean(axis=0)))
        line += abs(fit.slope + 1.0) <= scipy.stats.t.ppf(0.975, 10) * fit.stderr
    assert ours >= _LEAST
    assert line <= 0.7 * _N


def test_clopper_pearson_covers_whatever_the_proportion(rng):
    # Guaranteed at least 95 %: false alarm below 1e-6 per proportion.
    for p in (0.01, 0.3, 0.95):
        interval = clopper_pearson(rng.binomial(50, p, size=_N), 50)
        assert interval.contains(p).sum() >= binom.ppf(1e-6, _N, 0.95)
