import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from numpy.testing import assert_allclose

from rlhf_theory.arrays import as_like
from rlhf_theory.errors import ShapeError
from rlhf_theory.evaluation.sequences import (
    bounded_confidence_sequence,
    confidence_sequence,
    mixture_widths,
)


@pytest.fixture
def values(key):
    return key.child("values").normal_numpy(300, 2) + np.asarray([0.0, 5.0])


def normal_mixture(n, alpha, g):
    """Robbins' mixture with known variance, in standard errors: formula of [2103.06476]."""
    return np.sqrt(n) * np.sqrt(2 * (n * g + 1) / (n**2 * g) * np.log(np.sqrt(n * g + 1) / alpha))


def scale_of(best_at, alpha):
    """The variance of the mixture whose normal width is smallest at best_at, by search."""
    grid = np.geomspace(1e-3, 1e3, 200_001) / best_at
    return grid[np.argmin(normal_mixture(best_at, alpha, grid))]


# --------------------------------------------------------------------------- widths


@pytest.mark.parametrize("n", [16, 20, 64, 100])
def test_at_the_width_the_mixture_of_t_likelihoods_reaches_its_threshold(n):
    # The ratio, integrated numerically: noncentral over central t density, effect ~ N(0, g)
    # (for more replicas scipy gives NaN).
    alpha, best_at = 0.05, 64.0
    g = scale_of(best_at, alpha)
    t = float(mixture_widths(n, level=1 - alpha, best_at=best_at))

    # In units of the standard error, where t is likely; trapezia are exact for smooth bumps.
    shift = np.linspace(-8.0, t + 15.0, 2001)
    ratio = scipy.stats.nct.pdf(t, n - 1, shift) / scipy.stats.t.pdf(t, n - 1)
    prior = scipy.stats.norm.pdf(shift, scale=math.sqrt(n * g))
    mixture = scipy.integrate.trapezoid(ratio * prior, shift)
    # The search for g is good to 1e-4.
    assert_allclose(mixture, 1 / alpha, rtol=1e-4)


def test_widths_tend_to_the_normal_mixture():
    g = scale_of(100.0, 0.1)
    for n, rtol in ((1e4, 1e-3), (1e6, 2e-5)):  # t instead of normal: a few in n
        widths = mixture_widths(n, level=0.9, best_at=100)
        assert_allclose(widths, normal_mixture(n, 0.1, g), rtol=rtol)
    few = np.arange(2.0, 50.0)
    assert np.all(mixture_widths(few, level=0.9, best_at=100) > normal_mixture(few, 0.1, g))


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_widths_are_smallest_where_asked(level):
    # Large enough that t and normal agree; other choices are longer there.
    here = mixture_widths(5000, level=level, best_at=5000)
    for other in (2500, 4000, 6000, 10_000):
        assert mixture_widths(5000, level=level, best_at=other) > here


def test_few_replicas_have_infinite_widths():
    widths = mixture_widths(np.arange(1, 40))
    assert np.all(np.isinf(widths[:15]))
    assert np.all(np.isfinite(widths[15:]))
    assert np.all(np.diff(widths[15:]) < 0)
    assert mixture_widths(1, level=0.01) == math.inf
    assert np.isfinite(mixture_widths(6, best_at=16))


def test_the_docstring_tells_the_price():
    for n, price in ((256, 1.6), (26, 2.4), (2560, 1.7)):
        assert_allclose(mixture_widths(n) / scipy.stats.t.ppf(0.975, n - 1), price, atol=0.06)


def test_widths_refuse_nonsense():
    with pytest.raises(ValueError, match="n must be at least 1"):
        mixture_widths([1, 0])
    with pytest.raises(ValueError, match="best_at must be positive"):
        mixture_widths(3, best_at=0)
    with pytest.raises(ValueError, match="level must lie"):
        mixture_widths(3, level=1)


# --------------------------------------------------------------------------- confidence sequence


def test_every_row_is_the_interval_of_its_prefix(values):
    sequence = confidence_sequence(values, best_at=64)
    assert sequence.lower.shape == (300, 2)
    for n in (16, 100, 300):
        half = mixture_widths(n, best_at=64) * scipy.stats.sem(values[:n], axis=0)
        mean = values[:n].mean(axis=0)
        assert_allclose(sequence.value[n - 1], mean, rtol=1e-10, atol=1e-12)
        assert_allclose(sequence.lower[n - 1], mean - half, rtol=1e-9)
        assert_allclose(sequence.upper[n - 1], mean + half, rtol=1e-9)


def test_more_replicas_change_no_earlier_row(values):
    few, many = confidence_sequence(values[:200]), confidence_sequence(values)
    assert_allclose(few.lower, many.lower[:200], rtol=1e-13)
    assert_allclose(confidence_sequence(values[:, 1]).upper, many.upper[:, 1], rtol=1e-13)


def test_a_large_offset_does_not_cancel(values):
    shifted = confidence_sequence(values + 1e9)
    there = confidence_sequence(values)
    assert_allclose(
        (shifted.upper - shifted.lower)[20:], (there.upper - there.lower)[20:], rtol=1e-5
    )


def test_the_first_rows_are_infinite_then_equal_values_are_exact():
    sequence = confidence_sequence(np.full(20, 0.1))
    assert np.all(sequence.upper[:15] == math.inf)
    assert np.all(sequence.lower[:15] == -math.inf)
    assert sequence.lower[15:].tolist() == sequence.upper[15:].tolist() == [0.1] * 5
    alone = confidence_sequence([3.0])
    assert (alone.lower.tolist(), alone.upper.tolist()) == ([-math.inf], [math.inf])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_spoils_the_rows_from_there_on(values, bad):
    clean = confidence_sequence(values)
    values[100, 0] = bad
    sequence = confidence_sequence(values)
    assert np.all(np.isnan(sequence.upper[100:, 0]))
    assert_allclose(sequence.upper[:100, 0], clean.upper[:100, 0])
    assert_allclose(sequence.upper[:, 1], clean.upper[:, 1])
    values[0, 0] = bad
    assert np.all(np.isnan(confidence_sequence(values).upper[:, 0]))


def test_values_of_any_library_are_taken(values, xp_like):
    there = confidence_sequence(as_like(values, xp_like))
    assert_allclose(there.upper, confidence_sequence(values).upper)
    unit = scipy.stats.norm.cdf(values)
    there = bounded_confidence_sequence(as_like(unit, xp_like))
    assert_allclose(there.upper, bounded_confidence_sequence(unit).upper)


def test_sequences_refuse_no_replicas():
    for sequence in (confidence_sequence, bounded_confidence_sequence):
        with pytest.raises(ShapeError, match="R at least 1"):
            sequence(np.zeros((0, 2)))
        with pytest.raises(ShapeError, match="R at least 1"):
            sequence(0.5)


# --------------------------------------------------------------------------- bounded values


def wealth(x, m, alpha, sign):
    """The supermartingale of the paper for a candidate mean m, one replica at a time."""
    log_wealth, seen, path = 0.0, [], []
    means = []
    for i, value in enumerate(x, start=1):
        before = (0.5 + sum(seen)) / i
        spread = (0.25 + sum((v - u) ** 2 for v, u in zip(seen, means, strict=True))) / i
        bet = min(0.5, math.sqrt(2 * math.log(2 / alpha) / (spread * i * math.log(1 + i))))
        psi = (-math.log(1 - bet) - bet) / 4
        log_wealth += sign * bet * (value - m) - 4 * (value - before) ** 2 * psi
        seen.append(value)
        means.append((0.5 + sum(seen)) / (i + 1))
        path.append(log_wealth)
    return np.asarray(path)


def test_at_the_ends_the_wealth_reaches_its_threshold(key):
    x = key.child("x").uniform_numpy(400) ** 2
    sequence = bounded_confidence_sequence(x, level=0.9)
    for n in (50, 400):
        at_lower = wealth(x, float(sequence.lower[n - 1]), 0.1, 1.0)[n - 1]
        at_upper = wealth(x, float(sequence.upper[n - 1]), 0.1, -1.0)[n - 1]
        assert_allclose([at_lower, at_upper], math.log(2 / 0.1), rtol=1e-9)


def test_wealth_does_not_grow_in_expectation_at_the_true_mean():
    # All 2^8 outcomes of eight coins: the expected wealth is at most 1 after every one of them.
    for p in (0.1, 0.5, 0.8):
        outcomes = (np.arange(256)[:, None] >> np.arange(8)) & 1
        prob = np.prod(np.where(outcomes == 1, p, 1 - p), axis=1)
        for sign in (-1.0, 1.0):
            paths = np.asarray([wealth(x.astype(float), p, 0.05, sign) for x in outcomes])
            assert np.all(prob @ np.exp(paths) <= 1 + 1e-12)


def test_ranges_are_carried_to_the_values(key):
    x = key.child("x").uniform_numpy(100, 2)
    unit = bounded_confidence_sequence(x)
    moved = bounded_confidence_sequence(4 * x - 3, low=-3, high=1)
    assert_allclose(moved.lower, 4 * unit.lower - 3, atol=1e-12)
    assert_allclose(moved.value, 4 * unit.value - 3, atol=1e-12)
    assert unit.lower[0].tolist() == [0.0, 0.0]
    assert unit.upper[0].tolist() == [1.0, 1.0]
    assert np.all((unit.lower <= unit.value) & (unit.value <= unit.upper))


def test_widths_follow_the_variance(key):
    coin = (key.child("x").uniform_numpy(2000) < 0.5) * 1.0
    narrow = 0.5 + 0.05 * (coin - 0.5)
    wide_half, narrow_half = (
        (s.upper - s.lower)[-1] / 2 for s in map(bounded_confidence_sequence, (coin, narrow))
    )
    assert narrow_half < 0.2 * wide_half
    # Against Hoeffding's interval for this n alone.
    assert wide_half < 2 * math.sqrt(math.log(2 / 0.05) / 4000)
    # No event in 2000 replicas does not make its probability 0.
    none = bounded_confidence_sequence(np.zeros(2000))
    assert none.lower[-1] == 0.0
    assert 3 / 2000 < none.upper[-1] < 0.01


def test_values_outside_the_range_are_refused():
    with pytest.raises(ValueError, match=r"between low=0.0 and high=1.0; got 0 to 1.5"):
        bounded_confidence_sequence([0.0, 1.5])
    with pytest.raises(ValueError, match="must lie between"):
        bounded_confidence_sequence([0.0, math.nan])
    with pytest.raises(ValueError, match="low < high"):
        bounded_confidence_sequence([0.5], low=1.0, high=0.0)
    with pytest.raises(ValueError, match="finite"):
        bounded_confidence_sequence([0.5], high=math.inf)
