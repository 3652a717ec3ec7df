"""How much of each radius the truth needed in many other replicas of the study of coverage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple


class Needed(NamedTuple):
    """A stored share of a radius that the truth needs.

    Attributes
    ----------
    rule, norm, look
        The rule, ``|theta*|`` and the number of labels, in the fixed design.
    quantile
        A probability.
    value
        The share that is the k-th smallest of so many replicas, ``k = quantile * of``.
    of
        Number of replicas.
    """

    rule: str
    norm: float
    look: int
    quantile: float
    value: float
    of: int


NEEDED: list[list[object]] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)
"""The fields of a `Needed` each, as ``benchmarks/verdicts/needed_radii.py`` found them for the
right rules at a seed of its own."""
