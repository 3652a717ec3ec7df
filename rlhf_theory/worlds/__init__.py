"""Worlds: a problem, the law of its labels, and the truth."""

from rlhf_theory.worlds.annotators import annotators, disagreement
from rlhf_theory.worlds.bandit import Bandit
from rlhf_theory.worlds.hard_instances import (
    chi_squared,
    greedy_failure,
    greedy_failure_data,
)
from rlhf_theory.worlds.intransitive import annotator_cycle, intransitive, tie_cycle
from rlhf_theory.worlds.linear import linear
from rlhf_theory.worlds.misspecified import misspecification, misspecified

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
