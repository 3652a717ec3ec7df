"""Levels and power of comparisons over replicas, by simulation; false alarm 1e-6 each."""

import numpy as np
import pytest
import scipy.stats
from scipy.stats import binom

from rlhf_theory.evaluation.comparisons import (
    compare_all,
    holm,
    probability_better,
    sign_flip_test,
)
from rlhf_theory.evaluation.statistics import paired_difference
from tests.helpers.statistics import assert_frequency

pytestmark = pytest.mark.statistical

_N = 2000


@pytest.fixture
def draw(key):
    return key.child("comparisons").generator(0)


def test_paired_intervals_cover_and_are_short(draw):
    """Coverage at least 92 % of nominal 95 % with 30 replicas that share most of their noise.

    Would notice 88 % with probability .9. Without the pairing the interval is sqrt(26) = 5.1 times
    as long; a factor of 4 is asked.
    """
    common = 5.0 * draw.normal(size=(30, _N))
    a = common + draw.normal(size=(30, _N))
    b = common + draw.normal(size=(30, _N)) + 0.5
    interval = paired_difference(a, b)
    assert interval.contains(-0.5).sum() >= binom.ppf(1e-6, _N, 0.92)
    unpaired = 2 * 1.96 * np.sqrt((a.var(axis=0) + b.var(axis=0)) / 30)
    assert np.mean(unpaired) > 4 * np.mean(interval.upper - interval.lower)


def test_enumerated_flips_have_their_exact_level(draw):
    """12 replicas, p-values on a grid of 2048: level 51 / 1024 is met exactly.

    Symmetric differences with tails so heavy that they have no mean. Would notice 8.5 % with
    probability .93.
    """
    p = sign_flip_test(draw.standard_cauchy(size=(12, _N)))
    assert_frequency(int((p <= 102 / 2048).sum()), _N, 102 / 2048)


def test_drawn_flips_have_their_exact_level(key, draw):
    """40 replicas, 199 flips, each time others: the level 10 / 200 is met exactly.

    Would notice 8.5 % with probability .93; and p = 0, which one data set in 200 would have if the
    pattern seen did not count, almost surely.
    """
    p = np.asarray(
        [
            sign_flip_test(draw.exponential(size=40) * draw.choice([-1, 1], 40), n_flips=199, key=k)
            for k in (key.child("flips", i) for i in range(_N))
        ]
    )
    assert_frequency(int((p <= 0.05).sum()), _N, 0.05)
    assert p.min() >= 1 / 200


def test_sign_flips_have_the_power_of_the_t_test(draw):
    """Differences of half a standard deviation, 30 replicas: the t test finds 75 % of them."""
    p = sign_flip_test(draw.normal(size=(30, _N)) + 0.5, n_flips=2000)
    noncentral = scipy.stats.nct(29, 0.5 * np.sqrt(30))
    critical = scipy.stats.t.ppf(0.975, 29)
    power = noncentral.sf(critical) + noncentral.cdf(-critical)
    # On 4000 other data sets: .753, for the .754 of the t test.
    assert (p <= 0.05).sum() >= binom.ppf(1e-6, _N, power - 0.01)


def test_holm_keeps_the_family_wise_error(draw):
    """Some true null among ten is rejected with probability at most 5 %, however many are true.

    Ten learners against one baseline, so that all tests depend on the baseline's noise. Would
    notice 8.5 % with probability .95. Without Holm 30 % of the data sets have a false rejection
    when all ten are true; 20 % are asked.
    """
    for n_true in (10, 6, 1):
        shift = np.where(np.arange(10) < n_true, 0.0, 1.5)
        baseline = draw.normal(size=(12, _N, 1))
        d = draw.normal(size=(12, _N, 10)) - baseline + shift
        p = sign_flip_test(d)
        adjusted = np.asarray([holm(row) for row in p])
        wrong = np.any(adjusted[:, :n_true] <= 0.05, axis=1).sum()
        assert wrong <= binom.ppf(1 - 1e-6, _N, 0.05)
        if n_true == 10:
            assert np.any(p <= 0.05, axis=1).sum() >= 0.2 * _N


def test_holm_finds_more_than_bonferroni(draw):
    """Mostly false nulls: at least what Bonferroni rejects, and clearly more on average."""
    d = draw.normal(size=(30, 300, 5)) + np.asarray([0.0, 0.5, 0.6, 0.7, 0.8])
    p = sign_flip_test(d, n_flips=4000)
    stepped = np.asarray([holm(row) for row in p]) <= 0.05
    plain = 5 * p <= 0.05
    assert np.all(stepped >= plain)
    # On 3000 other data sets: .81 and .74 of the false ones; 300 give the difference to .008.
    assert stepped[:, 1:].mean() > plain[:, 1:].mean() + 0.03


@pytest.mark.parametrize("ties", [False, True])
def test_probabilities_of_being_better_are_covered(draw, ties):
    """At least 95 %, with ties in a third of the replicas too; notices 91.5 % at power .95."""
    first, second = draw.normal(size=(2, 30, _N))
    truth = scipy.stats.norm.cdf(0.5 / np.sqrt(2))
    first -= 0.5
    if ties:
        first, second = draw.integers(0, 3, size=(2, 30, _N))
        truth = 0.5
    hits = sum(
        probability_better(x, y).contains(truth) for x, y in zip(first.T, second.T, strict=True)
    )
    assert hits >= binom.ppf(1e-6, _N, 0.95)


def test_winners_are_rarely_declared_among_equals(draw):
    """Four equal learners, six pairs: some winner with probability at most 5 %.

    Would notice 12 % with probability .96.
    """
    runs, wrong = 600, 0
    for _ in range(runs):
        common = draw.normal(size=11)
        values = {name: common + draw.normal(size=11) for name in "abcd"}
        wrong += any(c.winner is not None for c in compare_all(values))
    assert wrong <= binom.ppf(1 - 1e-6, runs, 0.05)
