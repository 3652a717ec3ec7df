import functools
import math

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from rlhf_theory.arrays import as_like
from rlhf_theory.errors import ShapeError
from rlhf_theory.evaluation.scores import (
    family_scores,
    iqm,
    normalised_score,
    stratified_mean,
    summary_interval,
    tail_mean,
)
from rlhf_theory.evaluation.statistics import mean_interval
from rlhf_theory.randomness import Key


@pytest.fixture
def table(key):
    """Scores of two learners in three worlds; world c has fewer replicas."""
    worlds = {"a": 50, "b": 50, "c": 20}
    return {
        (world, learner): key.child(world, learner).uniform_numpy(n) * scale
        for world, n in worlds.items()
        for learner, scale in (("good", 1.0), ("bad", 0.5))
    }


FAMILIES = {"a": "linear", "b": "linear", "c": "hard", "unused": "hard"}


# --------------------------------------------------------------------------- scores


def test_scores_go_from_the_reference_to_the_optimum():
    assert normalised_score([0.0, 1.0, 2.0, 3.0, math.inf, -1.0], 2.0).tolist() == [
        *(1.0, 0.5, 0.0, 0.0, 0.0, 1.0)
    ]
    # Large is good where the optimum is above the reference.
    assert normalised_score([0.5, 0.75, 1.0, -math.inf], 0.5, 1.0).tolist() == [0, 0.5, 1, 0]


def test_a_reference_per_replica_is_met_replica_by_replica(key):
    gap, reference = key.child("gap").uniform_numpy(2, 30)
    expected = np.clip(1 - gap / reference, 0, 1)
    assert_allclose(normalised_score(gap, reference), expected, rtol=1e-12)
    # Metrics of gaps and of values give one score.
    assert_allclose(normalised_score(7 - gap, 7 - reference, 7.0), expected, atol=1e-12)


def test_scores_of_any_library_are_taken(xp_like):
    metric = as_like(np.asarray([1.0, 2.0]), xp_like)
    assert normalised_score(metric, as_like(np.asarray([4.0, 4.0]), xp_like)).tolist() == [
        0.75,
        0.5,
    ]


def test_scores_refuse_what_has_no_scale():
    with pytest.raises(ValueError, match=r"reference and optimum must differ.*replicas \[1\] of 2"):
        normalised_score([1.0, 1.0], [2.0, 0.0])
    with pytest.raises(ValueError, match="reference must be finite"):
        normalised_score([1.0], math.inf)
    with pytest.raises(ValueError, match=r"metric must not contain NaN; got it in replicas \[1\]"):
        normalised_score([1.0, math.nan], 2.0)
    with pytest.raises(ShapeError, match="reference must be a number"):
        normalised_score([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ShapeError, match="metric must have shape"):
        normalised_score([[1.0]], 2.0)


# --------------------------------------------------------------------------- strata


def test_one_world_alone_has_the_interval_of_its_mean(table):
    values = table["a", "good"]
    alone = stratified_mean({"a": values}, together=True)
    assert (alone.value, *alone.ends) == pytest.approx(
        (values.mean(), *mean_interval(values).ends), rel=1e-12
    )


def test_strata_have_the_variance_of_their_sum(key):
    worlds = {
        name: scale * key.child(name).normal_numpy(n)
        for name, n, scale in (("a", 200, 1.0), ("b", 300, 3.0))
    }
    interval = stratified_mean(worlds)
    error = 0.5 * np.sqrt(sum(scipy.stats.sem(v) ** 2 for v in worlds.values()))
    assert_allclose(interval.value, np.mean([v.mean() for v in worlds.values()]))
    assert_allclose(interval.upper - interval.lower, 2 * 1.97 * error, rtol=0.1)


def test_worlds_that_err_together_do_not_average_out(key):
    values = key.child("v").normal_numpy(100)
    worlds = {"a": values, "b": values, "c": values}
    together, apart = stratified_mean(worlds, together=True), stratified_mean(worlds)
    assert together.ends == pytest.approx(mean_interval(values).ends, rel=1e-12)
    shrunk = (apart.upper - apart.lower) / (together.upper - together.lower)
    assert_allclose(shrunk, math.sqrt(1 / 3), rtol=0.1)


def test_strata_refuse_nonsense(table):
    with pytest.raises(
        ShapeError, match=r"as many replicas in every world; got \{'a': 2, 'b': 1\}"
    ):
        stratified_mean({"a": [1.0, 2.0], "b": [1.0]}, together=True)
    with pytest.raises(ShapeError, match="at least one array"):
        stratified_mean({})
    with pytest.raises(ValueError, match="level must lie"):
        stratified_mean({"a": [1.0]}, level=2)


def test_family_scores_average_worlds(table):
    frame = family_scores(table, FAMILIES).set_index(["family", "learner"])
    assert frame.index.tolist() == [
        ("linear", "good"),
        ("linear", "bad"),
        ("hard", "good"),
        ("hard", "bad"),
    ]
    assert frame["worlds"].tolist() == [2, 2, 1, 1]
    linear = frame.loc[("linear", "good")]
    mean = stratified_mean({w: table[w, "good"] for w in "ab"})
    assert linear[["score", "lower", "upper"]].tolist() == [mean.value, *mean.ends]
    assert np.all((frame["lower"] < frame["score"]) & (frame["score"] < frame["upper"]))
    other = family_scores(table, FAMILIES, key=Key(seed=3))
    assert np.all(other["lower"].to_numpy() != frame["lower"].to_numpy())


def test_family_scores_compare_like_with_like(table):
    with pytest.raises(ValueError, match="it lacks c"):
        family_scores(table, {"a": "linear", "b": "linear"})
    del table["b", "bad"]
    with pytest.raises(ValueError, match=r"'bad' has no scores in b, worlds of family 'linear'"):
        family_scores(table, FAMILIES)
    assert family_scores({}, FAMILIES).empty


# --------------------------------------------------------------------------- other summaries


def test_iqm_is_the_mean_of_the_middle_half(key):
    values = key.child("v").normal_numpy(40, 3)
    assert_allclose(iqm(values), np.sort(values, axis=0)[10:30].mean(axis=0), rtol=1e-12)
    assert iqm([1.0, 2.0, 3.0, math.inf]) == 2.5
    assert iqm([1.0, 2.0, 9.0]) == 4.0


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.33, 0.77, 1.0])
def test_tail_mean_is_the_conditional_value_at_risk(key, fraction):
    values = key.child("v").normal_numpy(30)

    def risk(c):
        return c + np.maximum(values - c, 0).mean() / fraction

    # Piecewise linear and convex: the minimum is at one of the values.
    assert_allclose(tail_mean(values, fraction), min(map(risk, values)), rtol=1e-12)


def test_tail_mean_at_the_edges(key):
    values = key.child("v").normal_numpy(8, 3)
    assert_allclose(tail_mean(values, 1.0), values.mean(axis=0))
    assert_allclose(tail_mean(values, 0.125), values.max(axis=0))
    assert_allclose(tail_mean(values, 1e-9), values.max(axis=0))
    assert_allclose(tail_mean(values.T, 0.5, axis=1), tail_mean(values, 0.5))
    assert tail_mean([1.0, 2.0, -math.inf], 0.5) == pytest.approx(5 / 3)
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\]"):
            tail_mean(values, bad)


def test_summaries_have_bootstrap_intervals(key):
    values = key.child("v").normal_numpy(100)
    as_mean = summary_interval(values, np.mean)
    assert as_mean.ends == pytest.approx(mean_interval(values).ends, rel=1e-10)
    median = summary_interval(values, np.median)
    # Order statistics 40 and 61 enclose the median with 95 %.
    ordered = np.sort(values)
    assert_allclose(median.ends, (ordered[39], ordered[60]), atol=0.08)
    risk = summary_interval(values, functools.partial(tail_mean, fraction=0.1))
    assert risk.value == tail_mean(values, 0.1)
    assert risk.lower < risk.value < risk.upper
    theirs = scipy.stats.bootstrap(
        (values,),
        iqm,
        method="percentile",
        n_resamples=2000,
        batch=500,
        rng=key.child("scipy").generator(0),
    ).confidence_interval
    assert_allclose(summary_interval(values, iqm).ends, tuple(theirs), atol=0.04)
    assert summary_interval([2.0], iqm).ends == (2.0, 2.0)
    with pytest.raises(ShapeError, match=r"shape \(R,\)"):
        summary_interval([[1.0]], iqm)
