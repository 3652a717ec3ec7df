from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_theory.studies.recording import recorded_rounds

CASES = [("log", 20), ("log", 5), ("log", None), ("linear", 7), ("linear", None), ("all", None)]


@pytest.mark.parametrize(("grid", "points"), CASES)
@given(rounds=st.integers(0, 3000), more=st.integers(0, 3000))
def test_a_longer_run_keeps_what_a_shorter_one_kept_except_its_last(grid, points, rounds, more):
    short = recorded_rounds(rounds, grid, points)
    long = recorded_rounds(rounds + more, grid, points)
    assert set(short[:-1]) <= set(long)
    assert set(long[long < rounds]) <= set(short)
    assert short[0] == 0
    assert short[-1] == rounds
    assert (np.diff(short) > 0).all()


def test_the_logarithmic_grid_has_its_points_per_decade():
    kept = recorded_rounds(100_000, "log", 20)
    for decade in (100, 1000, 10_000):
        assert np.sum((kept >= decade) & (kept < 10 * decade)) == 20
    assert list(kept[:12]) == [*range(12)]
    assert {10, 100, 1000, 10_000, 100_000} <= set(kept)
    # Between rounds 10 and 20 the grid is finer than the rounds are, at most.
    ratios = kept[kept > 100][1:] / kept[kept > 100][:-1]
    assert np.abs(ratios / 10 ** (1 / 20) - 1).max() < 0.01


def test_the_linear_grid_and_every_round():
    assert list(recorded_rounds(20, "linear", 8)) == [0, 8, 16, 20]
    assert list(recorded_rounds(3, "all")) == [0, 1, 2, 3]
    assert list(recorded_rounds(0, "log", 20)) == [0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((5, "logarithmic", 3), "grid must be one of log, linear, all"),
        ((5, "all", 3), "takes no points; got 3"),
        ((5, "log", 0), "points must be positive"),
        ((-1, "log", 3), "rounds must be finite and at least 0"),
    ],
)
def test_mistakes_say_what_is_allowed(arguments, says):
    with pytest.raises(ValueError, match=says):
        recorded_rounds(*arguments)
