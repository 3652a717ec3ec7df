import numpy as np
import pytest

from rlhf_theory.evaluation.statistics import Interval
from rlhf_theory.theorems.checks import above, below, estimate, fact, near, often

ENDS = (1.0, 2.0)
OFF = 1e-9
# Rule, its numbers, and whether an interval from 1 to 2 keeps it.
BOUNDARIES = [
    (above, (1.0 - OFF,), True),
    (above, (1.0,), False),
    (below, (2.0 + OFF,), True),
    (below, (2.0,), False),
    (often, (1.0,), True),
    (often, (1.0 + OFF,), False),
    (near, (2.5, 0.5), True),
    (near, (2.5, 0.5 - OFF), False),
    (near, (0.5, 0.5), True),
    (near, (0.5, 0.5 - OFF), False),
    (near, (1.5, 0.0), True),
]


@pytest.mark.parametrize(("rule", "numbers", "kept"), BOUNDARIES)
def test_a_rule_at_its_boundary(rule, numbers, kept):
    check = rule("name", Interval(np.float64(1.5), *ENDS), *numbers, "words")
    assert check.passed is kept
    assert (check.name, check.measured, check.interval) == ("name", 1.5, ENDS)
    assert check.required == "words"


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [(above, (-9.0,)), (below, (9.0,)), (often, (-9.0,)), (near, (1.5, 9.0))],
)
@pytest.mark.parametrize("hole", ["value", "lower", "upper"])
def test_an_interval_with_nan_never_passes(rule, numbers, hole):
    parts = {"value": 1.5, "lower": 1.0, "upper": 2.0}
    assert rule("", Interval(**parts), *numbers, "").passed
    assert not rule("", Interval(**{**parts, hole: np.nan}), *numbers, "").passed


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [(above, (np.nan,)), (below, (np.nan,)), (often, (np.nan,)), (near, (np.nan, 1.0))],
)
def test_a_rule_without_a_number_never_passes(rule, numbers):
    assert not rule("", Interval(1.5, *ENDS), *numbers, "").passed


def test_ends_may_be_infinite():
    assert below("", Interval(1.5, -np.inf, 2.0), 3.0, "").passed
    assert not above("", Interval(1.5, 1.0, np.inf), 1.0, "").passed


@pytest.mark.parametrize("said", [True, False, np.True_, np.False_])
def test_what_the_card_says_of_a_number_counts(said):
    found = estimate("a", Interval(1.5, *ENDS), "r", passed=said)
    assert found.passed is bool(said)
    assert fact("a", np.float32(0.5), "r", passed=said).passed is bool(said)


def test_a_number_without_an_interval_has_none():
    check = fact("a", np.float32(0.5), "r", passed=True)
    assert (check.measured, check.interval) == (0.5, None)
    assert type(check.measured) is float


def test_a_fact_that_is_no_number_never_passes():
    assert not fact("a", np.nan, "r", passed=True).passed
