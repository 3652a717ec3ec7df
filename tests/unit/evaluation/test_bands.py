import math

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from rlhf_theory.arrays import as_like
from rlhf_theory.errors import ShapeError
from rlhf_theory.evaluation.bands import ratio_to_bound, simultaneous_band
from rlhf_theory.evaluation.statistics import mean_interval
from rlhf_theory.randomness import Key


@pytest.fixture
def curves(key):
    return np.cumsum(key.child("steps").normal_numpy(60, 25), axis=1) + 3.0


def slow_band(values, level, key):
    """The definition, resample by resample, with gathered rows."""
    n = values.shape[0]
    mean, error = values.mean(axis=0), scipy.stats.sem(values, axis=0)
    fixed, own = [], []
    for counts in key.generator(0).multinomial(n, np.full(n, 1 / n), size=2000):
        redrawn = np.repeat(values, counts, axis=0)
        shift = np.abs(redrawn.mean(axis=0) - mean)
        fixed.append(np.max(shift / error))
        own.append(np.max(shift / scipy.stats.sem(redrawn, axis=0)))
    normal = np.quantile(fixed, level) * math.sqrt(n / (n - 1))
    margins = scipy.stats.t.ppf(scipy.stats.norm.cdf(normal), n - 1)
    half = max(margins, np.quantile(own, level)) * error
    return mean - half, mean + half


def test_the_band_equals_its_definition(curves):
    key = Key(seed=4)
    band = simultaneous_band(curves, level=0.9, key=key)
    assert_allclose([band.lower, band.upper], slow_band(curves, 0.9, key), rtol=1e-9)
    assert_allclose(band.value, curves.mean(axis=0), rtol=1e-12)


def test_a_curve_of_one_point_has_the_t_interval(key):
    values = key.child("v").normal_numpy(40, 1)
    band = simultaneous_band(values)
    half = scipy.stats.t.ppf(0.975, 39) * scipy.stats.sem(values[:, 0])
    # Bootstrap of 2000: about 3 % per quantile, and the larger of two is taken.
    assert_allclose(band.upper - band.value, half, rtol=0.1)


def test_independent_points_have_the_critical_value_of_sidak(key):
    values = key.child("v").normal_numpy(500, 50)
    band = simultaneous_band(values)
    c = (band.upper - band.value) / scipy.stats.sem(values, axis=0)
    assert_allclose(c, c[0], rtol=1e-9)
    assert_allclose(c[0], scipy.stats.norm.ppf(0.5 + 0.5 * 0.95 ** (1 / 50)), rtol=0.06)


def test_equal_points_cost_nothing(key):
    values = key.child("v").normal_numpy(200, 1)
    one, many = simultaneous_band(values), simultaneous_band(np.tile(values, (1, 30)))
    assert_allclose(many.upper, np.full(30, one.upper[0]), rtol=1e-9)


def test_the_band_holds_the_pointwise_intervals(curves):
    band, pointwise = simultaneous_band(curves), mean_interval(curves)
    assert np.all(band.lower < pointwise.lower)
    assert np.all(band.upper > pointwise.upper)


def test_scales_and_offsets_pass_through(curves):
    band = simultaneous_band(curves)
    scale = np.geomspace(1e-8, 1e8, 25)
    scaled = simultaneous_band(scale * curves)
    assert_allclose(scaled.upper, scale * band.upper, rtol=1e-9)
    assert_allclose(simultaneous_band(curves + 10.0).lower, band.lower + 10.0, rtol=1e-9)


def test_curves_have_bands_of_their_own(curves):
    stacked = np.stack([curves, curves**2], axis=1)
    band = simultaneous_band(stacked)
    assert band.lower.shape == (2, 25)
    assert_allclose(band.lower[1], simultaneous_band(curves**2).lower, rtol=1e-12)


def test_long_curves_go_through_in_parts(curves, monkeypatch):
    whole = simultaneous_band(curves)
    monkeypatch.setattr("rlhf_theory.evaluation.bands._COLUMNS", 7)
    assert_allclose(simultaneous_band(curves).upper, whole.upper, rtol=1e-12)


def test_points_without_spread_are_exact_and_do_not_matter(curves):
    flat = np.full((60, 3), 0.1)
    band = simultaneous_band(np.concatenate([flat, curves], axis=1))
    assert (
        band.lower[:3].tolist() == band.value[:3].tolist() == band.upper[:3].tolist() == [0.1] * 3
    )
    assert_allclose(band.upper[3:], simultaneous_band(curves).upper, rtol=1e-12)
    constant = simultaneous_band(np.ones((5, 2)))
    assert constant.lower.tolist() == constant.upper.tolist() == [1.0, 1.0]


def test_rare_events_leave_the_band_finite(curves):
    rare = np.zeros((60, 1))
    rare[0] = 1.0
    band = simultaneous_band(np.concatenate([rare, curves], axis=1))
    assert np.all(np.isfinite(band.upper))


def test_few_replicas_determine_no_curve(curves):
    one = simultaneous_band(curves[:1])
    assert one.lower.tolist() == one.upper.tolist() == curves[0].tolist()
    for n in (2, 3):
        band = simultaneous_band(np.concatenate([np.ones((n, 1)), curves[:n]], axis=1))
        assert band.lower[0] == band.upper[0] == 1.0
        assert np.all(band.upper[1:] == math.inf)
        assert np.all(band.lower[1:] == -math.inf)
    assert np.all(np.isfinite(simultaneous_band(curves[:4]).upper))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_spoils_its_curve_only(curves, bad):
    stacked = np.stack([curves, curves], axis=1)
    stacked[3, 0, 4] = bad
    band = simultaneous_band(stacked)
    assert np.all(np.isnan(band.lower[0]))
    assert np.all(np.isfinite(band.lower[1]))


def test_bands_refuse_nonsense(curves):
    with pytest.raises(ShapeError, match=r"\(R, ..., T\)"):
        simultaneous_band(curves[:, 0])
    with pytest.raises(ShapeError, match="R at least 1"):
        simultaneous_band(curves[:0])
    with pytest.raises(ValueError, match="level must lie"):
        simultaneous_band(curves, level=1.0)


# --------------------------------------------------------------------------- ratio to bound


def test_a_shared_bound_divides_the_band(curves):
    bound = np.geomspace(1, 9, 25)
    ratio, band = ratio_to_bound(curves, bound), simultaneous_band(curves)
    assert_allclose(ratio.value, band.value / bound, rtol=1e-12)
    assert_allclose(ratio.upper, band.upper / bound, rtol=1e-9)
    pointwise = ratio_to_bound(curves, bound, simultaneous=False)
    assert_allclose(pointwise.lower, mean_interval(curves).lower / bound, rtol=1e-9)


def test_a_bound_per_replica_is_met_replica_by_replica(curves):
    bound = np.abs(curves) + 1.0
    ratio = ratio_to_bound(0.5 * bound, bound)
    assert_allclose([ratio.value, ratio.lower, ratio.upper], 0.5, rtol=1e-12)
    assert_allclose(ratio_to_bound(curves, bound).value, (curves / bound).mean(axis=0), rtol=1e-12)


def test_an_infinite_bound_gives_ratio_0(curves):
    bound = np.ones(25)
    bound[0] = math.inf
    ratio = ratio_to_bound(curves, bound)
    assert ratio.lower[0] == ratio.value[0] == ratio.upper[0] == 0.0
    curves[:, 0] = math.inf
    assert np.all(np.isnan(ratio_to_bound(curves, bound).upper))


def test_ratios_of_any_library_are_taken(curves, xp_like):
    ours = ratio_to_bound(as_like(curves, xp_like), as_like(np.ones(25), xp_like))
    assert_allclose(ours.upper, simultaneous_band(curves).upper, rtol=1e-12)


def test_ratio_refuses_nonsense(curves):
    with pytest.raises(ShapeError, match=r"bound \(T,\) or \(R, T\)"):
        ratio_to_bound(curves, np.ones(24))
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="bound must be positive"):
            ratio_to_bound(curves, np.full(25, bad))
