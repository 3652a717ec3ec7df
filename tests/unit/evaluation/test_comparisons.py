import itertools
import math

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from rlhf_theory.arrays import as_like
from rlhf_theory.errors import ShapeError
from rlhf_theory.evaluation.comparisons import (
    compare_all,
    holm,
    probability_better,
    sign_flip_test,
    to_frame,
)
from rlhf_theory.evaluation.statistics import clopper_pearson, mean_interval, ratio_interval
from rlhf_theory.randomness import Key


def scipy_sign_flips(differences, n_resamples=9999, rng=None):
    """Two-sided by scipy, which doubles the smaller tail; the law of the mean is symmetric."""
    return scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=n_resamples, rng=rng
    ).pvalue


@pytest.fixture
def learners(key):
    common = key.child("world").normal_numpy(40)
    noise = key.child("noise").normal_numpy(40, 3)
    return {
        "good": np.exp(common),
        "same": np.exp(common + 0.3 * noise[:, 0] - 0.05),
        "bad": np.exp(common + 0.3 * noise[:, 1] + 0.5),
        "worst": np.exp(common + 0.3 * noise[:, 2] + 1.5),
    }


# --------------------------------------------------------------------------- sign flips


@pytest.mark.parametrize("n", [2, 5, 12, 13])
def test_few_replicas_are_enumerated_as_scipy_does(key, n):
    differences = key.child(n).normal_numpy(n, 6) + 0.4
    ours = sign_flip_test(differences)
    assert_allclose(ours, [scipy_sign_flips(c) for c in differences.T], rtol=1e-12)
    assert isinstance(sign_flip_test(differences[:, 0]), float)


def test_equal_sums_count_as_equal():
    # Sums such as .1 + .2 - .3 depend on the order; the exact answer comes from integers.
    tenths = np.asarray([1, 2, 3, -4, 5, 1, 1, 2])
    sums = [abs(np.dot(signs, tenths)) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean(np.asarray(sums) >= abs(tenths.sum()))
    assert sign_flip_test(tenths / 10) == exact
    assert sign_flip_test(tenths * 1e-300) == sign_flip_test(tenths * 1e300) == exact


def test_drawn_flips_agree_with_scipy_and_with_the_normal_limit(key):
    differences = key.child("d").normal_numpy(60) + 0.25
    ours = sign_flip_test(differences)
    theirs = scipy_sign_flips(differences, rng=key.child("scipy").generator(0))
    # Standard error of a drawn p-value near .05: .002 each; scipy's doubles one tail.
    assert_allclose(ours, theirs, atol=0.015)
    z = differences.sum() / np.sqrt((differences**2).sum())
    assert_allclose(ours, 2 * scipy.stats.norm.sf(abs(z)), atol=0.012)


def test_drawn_flips_agree_with_enumeration(key):
    differences = key.child("d").normal_numpy(13, 4) + 0.4
    # 4000 < 2^13, so they are drawn: standard error at most .008.
    drawn = sign_flip_test(differences, n_flips=4000)
    assert np.all(drawn != sign_flip_test(differences))
    assert_allclose(drawn, sign_flip_test(differences), atol=0.04)


def test_sign_flips_are_a_function_of_key_and_not_of_company(key):
    d = key.child("d").normal_numpy(50, 3)
    assert np.all(sign_flip_test(d) == sign_flip_test(d))
    assert np.any(sign_flip_test(d) != sign_flip_test(d, key=Key(seed=8)))
    assert_allclose(sign_flip_test(d[:, 1]), sign_flip_test(d)[1], rtol=1e-12)
    assert sign_flip_test(d[:, :, None]).shape == (3, 1)


def test_many_flips_go_through_in_parts(key, monkeypatch):
    d = key.child("d").normal_numpy(50)
    whole = sign_flip_test(d)
    monkeypatch.setattr("rlhf_theory.evaluation.comparisons._SIGNS", 50 * 64)
    assert sign_flip_test(d) == whole


def test_the_smallest_p_values():
    assert sign_flip_test(np.ones(6)) == 2 / 2**6
    assert sign_flip_test(np.ones(100), n_flips=99) == 1 / 100
    assert sign_flip_test(np.ones(1)) == 1.0


@pytest.mark.parametrize("n", [3, 100])
def test_zero_differences_give_one(n):
    assert sign_flip_test(np.zeros(n)) == 1.0


def test_zeros_count_for_neither_side(key):
    d = key.child("d").normal_numpy(7) + 0.5
    assert sign_flip_test(np.concatenate([d, np.zeros(5)])) == sign_flip_test(d)


@pytest.mark.parametrize("bad", [(math.inf,), (math.inf, math.inf), (math.inf, -math.inf)])
def test_infinite_differences_are_the_limit_of_large_ones(key, bad):
    d = key.child("d").normal_numpy(9) + 0.5
    at_inf = sign_flip_test(np.concatenate([d, bad]))
    assert at_inf == sign_flip_test(np.concatenate([d, np.clip(bad, -1e6, 1e6)]))
    assert sign_flip_test(np.asarray(bad * 3)) == sign_flip_test(np.sign(bad * 3))


def test_sign_flips_refuse_what_has_no_answer():
    with pytest.raises(ValueError, match=r"NaN; got it in 1 of 3 replicas \(first: 1\)"):
        sign_flip_test([1.0, math.nan, 2.0])
    with pytest.raises(ShapeError, match="R at least 1"):
        sign_flip_test(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="n_flips must be at least 1"):
        sign_flip_test([1.0], n_flips=0)


# --------------------------------------------------------------------------- Holm


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and no value below the one before.
    assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02], rtol=1e-12)
    assert_allclose(holm([0.5, 0.6, 0.2]), [1.0, 1.0, 0.6])
    assert holm([]).shape == (0,)
    assert holm([0.3]).tolist() == [0.3]
    assert holm([0.02, 0.02]).tolist() == [0.04, 0.04]


def test_holm_rejects_what_closed_testing_by_bonferroni_rejects(key):
    # A hypothesis is rejected iff every subset that contains it fails Bonferroni's test.
    for p in key.child("p").uniform_numpy(20, 5) ** 2:
        subsets = [s for k in range(1, 6) for s in itertools.combinations(range(5), k)]
        closed = [
            max(min(1, len(s) * min(p[list(s)])) for s in subsets if i in s) for i in range(5)
        ]
        assert_allclose(holm(p), closed, rtol=1e-12)


def test_holm_refuses_what_is_no_p_value():
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; got \[1.5, nan\]"):
        holm([0.1, 1.5, math.nan])
    with pytest.raises(ShapeError, match=r"shape \(m,\)"):
        holm([[0.1]])


# --------------------------------------------------------------------------- probability better


def test_probability_better_is_the_exact_binomial_interval():
    a, b = np.asarray([1.0, 2.0, 3.0, 9.0]), np.asarray([2.0, 3.0, 4.0, 5.0])
    ours = probability_better(a, b)
    assert (ours.value, *ours.ends) == (0.75, *clopper_pearson(3, 4).ends)
    assert probability_better(a, b, smaller_is_better=False).value == 0.25
    assert probability_better(a, a).value == 0.5
    assert probability_better([1.0, 1.0], [1.0, 2.0]).value == 0.75


def test_probability_better_orders_infinities():
    inf = math.inf
    assert probability_better([1.0, inf, inf], [inf, inf, 1.0]).value == 0.5
    assert probability_better([1.0, 0.0], [inf, inf]).value == 1.0


# --------------------------------------------------------------------------- all pairs


def test_compare_all_puts_the_parts_together(learners):
    found = compare_all(learners)
    assert [(c.first, c.second) for c in found] == list(itertools.combinations(learners, 2))
    assert_allclose([c.adjusted for c in found], holm([c.p_value for c in found]))
    for c in found:
        a, b = learners[c.first], learners[c.second]
        assert c.p_value == pytest.approx(sign_flip_test(a - b), rel=1e-12)
        assert c.difference.ends == pytest.approx(mean_interval(a - b).ends, rel=1e-12)
        assert c.ratio.ends == pytest.approx(ratio_interval(a, b).ends, rel=1e-12)
        assert c.better.ends == probability_better(a, b).ends
        assert c.n_replicas == 40
    winners = {(c.first, c.second): c.winner for c in found}
    assert winners["good", "same"] is None
    assert winners["good", "worst"] == "good"
    assert winners["bad", "worst"] == "bad"


def test_large_can_be_good(learners):
    small, large = compare_all(learners), compare_all(learners, smaller_is_better=False)
    for s, c in zip(small, large, strict=True):
        assert s.p_value == c.p_value
        assert_allclose(s.better.value, 1.0 - c.better.value)
        assert {s.winner, c.winner} in ({None}, {s.first, s.second})


def test_pairs_are_all_against_one_or_chosen(learners):
    against = compare_all(learners, pairs="same")
    assert [(c.first, c.second) for c in against] == [
        ("good", "same"),
        ("bad", "same"),
        ("worst", "same"),
    ]
    chosen = compare_all(learners, pairs=[("bad", "good")])
    assert chosen[0].difference.value > 0
    assert chosen[0].winner == "good"
    assert chosen[0].adjusted == chosen[0].p_value
    assert compare_all({"alone": [1.0]}) == compare_all(learners, pairs=[]) == []


def test_infinite_gaps_leave_tests_and_no_interval(learners):
    a = learners["good"].copy()
    b = learners["worst"].copy()
    b[:3], a[1] = math.inf, math.inf  # replica 1: both, a tie
    (c,) = compare_all({"a": a, "b": b})
    assert c.difference.value == -math.inf
    assert c.difference.ends == (-math.inf, math.inf)
    assert math.isnan(c.ratio.value)
    assert c.winner == "a"
    assert c.better.value == (np.sum(a < b) + 0.5) / 40
    a[5], b[5] = math.inf, 1.0
    a[6], b[6] = math.inf, 1.0
    # Two infinities against two: ten of their sixteen patterns are more extreme, whatever the rest.
    (c,) = compare_all({"a": a, "b": b})
    assert math.isnan(c.difference.value)
    assert c.winner is None
    assert_allclose(c.p_value, 10 / 16, atol=0.025)  # 10 000 flips: standard error .005


def test_ratio_is_absent_where_it_means_nothing():
    assert math.isnan(compare_all({"a": [1.0, -1.0], "b": [1.0, 2.0]})[0].ratio.value)
    assert math.isnan(compare_all({"a": [1.0, 1.0], "b": [0.0, 0.0]})[0].ratio.value)
    # Some resamples of b vanish: the upper end is infinite, or undefined.
    ratio = compare_all({"a": [1.0, 1.0, 1.0], "b": [0.0, 0.0, 1.0]})[0].ratio
    assert ratio.value == 3.0
    assert not math.isfinite(ratio.upper)


def test_comparisons_make_a_table(learners):
    frame = to_frame(compare_all(learners, pairs="good"))
    assert frame["first"].tolist() == ["same", "bad", "worst"]
    assert frame["winner"].tolist()[2] == "good"
    assert np.all(frame["difference_lower"] < frame["difference"])
    assert np.all(frame["difference"] < frame["difference_upper"])
    assert list(frame.columns) == [
        *("first", "second", "n_replicas", "difference", "difference_lower", "difference_upper"),
        *("ratio", "ratio_lower", "ratio_upper", "better", "better_lower", "better_upper"),
        *("p_value", "adjusted", "winner"),
    ]


def test_values_of_any_library_are_taken(learners, xp_like):
    there = {k: as_like(v, xp_like) for k, v in learners.items()}
    ours = compare_all(there, pairs="good", n_flips=100)
    theirs = compare_all(learners, pairs="good", n_flips=100)
    assert [c.p_value for c in ours] == [c.p_value for c in theirs]


def test_compare_all_refuses_nonsense(learners):
    with pytest.raises(ValueError, match=r"pairs must be one of all, good.*Did you mean 'worst'"):
        compare_all(learners, pairs="wurst")
    with pytest.raises(ValueError, match="a name in pairs must be one of"):
        compare_all(learners, pairs=[("good", "x")])
    with pytest.raises(ValueError, match="two different learners"):
        compare_all(learners, pairs=[("good", "good")])
    with pytest.raises(ShapeError, match="one shape"):
        compare_all({"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"values of 'b' must not contain NaN"):
        compare_all({"a": [1.0, 2.0], "b": [1.0, math.nan]})
    with pytest.raises(ValueError, match="level must lie"):
        compare_all(learners, level=95)
