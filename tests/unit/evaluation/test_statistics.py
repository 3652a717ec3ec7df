import math

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from rlhf_theory.arrays import as_like
from rlhf_theory.errors import ShapeError
from rlhf_theory.evaluation.statistics import (
    clopper_pearson,
    local_slopes,
    mean_interval,
    paired_difference,
    quantiles,
    ratio_interval,
    replica_slopes,
    resample,
    resample_means,
    slope_bootstrap,
)
from rlhf_theory.randomness import Key


@pytest.fixture
def values(key):
    return key.child("values").normal_numpy(200, 3) + np.asarray([0.0, 1.0, 5.0])


def test_mean_interval_is_close_to_the_normal_one(values):
    interval = mean_interval(values)
    half = scipy.stats.t.ppf(0.975, 199) * scipy.stats.sem(values, axis=0)
    assert_allclose(interval.value, values.mean(axis=0), rtol=1e-12)
    # 2000 resamples: an end has a standard error of about 2 % of the length.
    assert_allclose(interval.upper - interval.lower, 2 * half, rtol=0.1)


def test_mean_interval_equals_a_bootstrap_by_gathered_rows(values):
    key = Key(seed=3)
    ours = mean_interval(values[:, 0], level=0.9, key=key)
    drawn = key.generator(0).multinomial(200, np.full(200, 1 / 200), size=2000)
    means = np.asarray([np.repeat(values[:, 0], row).mean() for row in drawn])
    tail = scipy.stats.norm.cdf(-math.sqrt(200 / 199) * scipy.stats.t.ppf(0.95, 199))
    assert_allclose(ours.ends, np.quantile(means, [tail, 1 - tail]), rtol=1e-10)


def test_intervals_are_a_function_of_the_key(values):
    same, other = mean_interval(values), mean_interval(values, key=Key(seed=5))
    assert (same.lower == mean_interval(values).lower).all()
    assert (same.lower != other.lower).all()
    # Columns do not depend on their company.
    assert_allclose(mean_interval(values[:, 1]).lower, same.lower[1], rtol=1e-13)


def test_mean_interval_keeps_shape_through_column_blocks():
    table = np.arange(2.0)[:, None, None] + np.zeros((2, 50, 60))
    interval = mean_interval(table)
    assert interval.value.shape == interval.lower.shape == (50, 60)
    assert_allclose(interval.value, 0.5)
    assert isinstance(mean_interval(np.arange(4.0)).value, float)


def test_degenerate_values_give_degenerate_intervals():
    assert mean_interval(np.full(7, 2.0)).ends == pytest.approx((2.0, 2.0), abs=1e-12)
    assert mean_interval(np.asarray([3.0])).ends == (3.0, 3.0)


def test_nan_stays_in_its_column(values):
    values[4, 1] = math.nan
    interval = mean_interval(values)
    assert np.isnan(interval.lower).tolist() == [False, True, False]


def test_values_of_any_library_are_taken(values, xp_like):
    assert_allclose(
        mean_interval(as_like(values, xp_like)).lower, mean_interval(values).lower, rtol=1e-14
    )


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 95])
def test_a_level_outside_0_1_is_refused(values, level):
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
        mean_interval(values, level=level)


def test_no_replicas_are_refused():
    with pytest.raises(ShapeError, match="R at least 1"):
        mean_interval(np.zeros((0, 3)))
    with pytest.raises(ShapeError, match="single number"):
        mean_interval(1.0)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (950, 1000)])
def test_clopper_pearson_is_the_exact_binomial_interval(k, n):
    ours = clopper_pearson(k, n, level=0.9)
    reference = scipy.stats.binomtest(k, n).proportion_ci(0.9, method="exact")
    assert_allclose(ours.ends, (reference.low, reference.high), atol=1e-12)
    assert ours.value == k / n


def test_clopper_pearson_takes_arrays_and_refuses_nonsense():
    assert clopper_pearson(np.asarray([1, 2]), 4).lower.shape == (2,)
    for k, n in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="0 <= k <= n"):
            clopper_pearson(k, n)


def test_quantiles_are_over_replicas(values):
    assert_allclose(quantiles(values)[1], np.median(values, axis=0))
    assert quantiles(values, [0.5]).shape == (1, 3)


def test_ratio_and_difference_use_the_pairing(values):
    a, b = 3.0 * np.exp(values), np.exp(values)
    ratio = ratio_interval(a, b)
    assert_allclose([ratio.value, ratio.lower, ratio.upper], 3.0, rtol=1e-12)
    difference = paired_difference(values + 1.0, values)
    assert_allclose([difference.lower, difference.upper], 1.0, rtol=1e-12)
    assert isinstance(ratio_interval(a[:, 0], b[:, 0]).value, float)
    with pytest.raises(ShapeError, match="one shape"):
        ratio_interval(a, b[:, 0])


def test_several_arrays_are_resampled_together(values):
    a, b = values.reshape(200, 3, 1), values[:, :2]
    ours = resample_means([a, b], lambda m, k: m[:, :2, 0] - k)
    assert_allclose([ours.value, ours.lower, ours.upper], 0.0, atol=1e-14)
    single = resample(values, lambda m: m[:, :1] * m[:, 1:2])
    parts = resample_means([a, b], lambda m, k: m[:, 0] * k[:, 1:])
    assert_allclose(parts.lower, single.lower, rtol=1e-12)
    with pytest.raises(ShapeError, match="share R"):
        resample_means([a, b[:5]], lambda m, k: k)


def test_slope_of_an_exact_power_law():
    x = np.geomspace(10, 1e4, 7)
    size = Key(seed=1).uniform_numpy(20, 1) + 0.5
    fit = slope_bootstrap(x, size * x**-0.75)
    assert_allclose([fit.value, fit.lower, fit.upper], -0.75, rtol=1e-10)
    assert_allclose(replica_slopes(x, size * x**-0.75), -0.75, rtol=1e-10)
    middle, slopes = local_slopes(x, size * x**-0.75, span=2)
    assert_allclose(slopes.upper, -0.75, rtol=1e-9)
    assert_allclose(middle, np.sqrt(x[2:] * x[:-2]))


def test_slope_is_least_squares_on_the_mean_curve_in_the_window(key):
    x = np.geomspace(10, 1e4, 9)
    y = np.exp(key.normal_numpy(50, 9))
    fit = slope_bootstrap(x, y, window=(30, 5000))
    inside = (x >= 30) & (x <= 5000)
    line = scipy.stats.linregress(np.log(x[inside]), np.log(y.mean(axis=0)[inside]))
    assert_allclose(fit.value, line.slope, rtol=1e-12)
    assert fit.lower < fit.value < fit.upper
    assert_allclose(fit.window, (x[inside][0], x[inside][-1]))
    own = scipy.stats.linregress(np.log(x[inside]), np.log(y[3][inside]))
    assert_allclose(replica_slopes(x, y, window=(30, 5000))[3], own.slope, rtol=1e-12)


def test_slopes_refuse_what_has_no_logarithm():
    x, y = np.asarray([1.0, 2.0, 4.0]), np.ones((3, 3))
    with pytest.raises(ValueError, match="at least two different positive x"):
        slope_bootstrap(x, y, window=(3, 10))
    with pytest.raises(ValueError, match="positive and finite in the window"):
        slope_bootstrap(x, np.zeros((3, 3)))
    with pytest.raises(ShapeError, match=r"y \(R, T\)"):
        slope_bootstrap(x, np.ones(3))
    with pytest.raises(ValueError, match="span must lie"):
        local_slopes(x, y, span=3)
    y[1, 1] = 0.0
    assert np.isnan(replica_slopes(x, y)).tolist() == [False, True, False]


def test_infinite_values_have_an_infinite_mean_and_no_ends():
    interval = mean_interval(np.array([[1.0, 1.0], [np.inf, 2.0], [3.0, 3.0]]))
    assert interval.value.tolist() == [np.inf, 2.0]
    assert np.isnan(interval.lower[0])
    assert np.isnan(interval.upper[0])
    assert interval.lower[1] < 2.0 < interval.upper[1]
