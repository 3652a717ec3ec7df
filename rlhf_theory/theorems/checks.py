"""The rules by which cards judge what they measured."""

from __future__ import annotations

import numpy as np

from rlhf_theory.evaluation.statistics import Interval
from rlhf_theory.theorems.card import Check


def fact(name: str, measured: float, required: str, *, passed: bool | np.bool_) -> Check:
    """Return the check of a number that has no interval; NaN never passes."""
    return Check(
        name=name,
        measured=float(measured),
        interval=None,
        required=required,
        passed=bool(passed) and not np.isnan(measured),
    )


def estimate(name: str, found: Interval, required: str, *, passed: bool | np.bool_) -> Check:
    """Return the check of a number with an interval; ``passed`` says what became of the rule.

    With NaN for the number or an end it never passes.
    """
    known = not np.isnan([found.value, *found.ends]).any()
    return Check(
        name=name,
        measured=float(found.value),
        interval=found.ends,
        required=required,
        passed=bool(passed) and bool(known),
    )


def above(name: str, found: Interval, limit: float, required: str) -> Check:
    """Return the check that all of the interval lies above ``limit``."""
    return estimate(name, found, required, passed=found.lower > limit)


def below(name: str, found: Interval, limit: float, required: str) -> Check:
    """Return the check that all of the interval lies below ``limit``."""
    return estimate(name, found, required, passed=found.upper < limit)


def near(name: str, found: Interval, target: float, slack: float, required: str) -> Check:
    """Return the check that the interval has a point within ``slack`` of ``target``."""
    met = found.lower <= target + slack and found.upper >= target - slack
    return estimate(name, found, required, passed=met)


def often(name: str, share: Interval, least: float, required: str) -> Check:
    """Return the check that a share is at least ``least``, by all of its interval."""
    return estimate(name, share, required, passed=share.lower >= least)
