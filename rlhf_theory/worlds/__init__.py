"""Worlds: a problem, the law of its labels, and the truth."""

from rlhf_theory.worlds.annotator_worlds import annotators, disagreement
from rlhf_theory.worlds.bandit import Bandit
from rlhf_theory.worlds.hard_instances import (
    chi_squared,
    greedy_failure,
    greedy_failure_data,
)
from rlhf_theory.worlds.intransitive_worlds import annotator_cycle, intransitive, tie_cycle
from rlhf_theory.worlds.linear_worlds import linear
from rlhf_theory.worlds.misspecified_worlds import misspecification, misspecified

__all__ = [
    "Bandit",
    "annotator_cycle",
    "annotators",
    "chi_squared",
    "disagreement",
    "greedy_failure",
    "greedy_failure_data",
    "intransitive",
    "linear",
    "misspecification",
    "misspecified",
    "tie_cycle",
]
