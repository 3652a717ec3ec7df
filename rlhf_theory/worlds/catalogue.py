"""The worlds by name."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_theory.worlds.annotators import annotators
from rlhf_theory.worlds.hard_instances import chi_squared, greedy_failure
from rlhf_theory.worlds.intransitive import annotator_cycle, intransitive, tie_cycle
from rlhf_theory.worlds.linear import linear
from rlhf_theory.worlds.misspecified import misspecified
from rlhf_theory.worlds.world import World

__all__ = ["CATALOGUE"]

CATALOGUE: dict[str, tuple[Callable[..., World], str]] = {
    "linear": (linear, "linear reward, Bradley-Terry labels; finite or fresh contexts"),
    "misspecified": (misspecified, "reward a random tanh network, wrong for linear learners"),
    "annotators": (
        annotators,
        "Bradley-Terry annotators with rewards of their own; the gap is of the mean utility",
    ),
    "intransitive": (intransitive, "reward plus c times a bilinear cycle (theory sheet 9.4)"),
    "annotator-cycle": (
        annotator_cycle,
        "three Bradley-Terry annotators whose mixture has a Condorcet cycle (2312.08358)",
    ),
    "greedy-failure": (greedy_failure, "four actions on which the greedy MLE fails (2301.11270)"),
    "chi-squared": (chi_squared, "three actions on which KL regularisation fails (2407.13399)"),
    "tie-cycle": (tie_cycle, "three annotator types that each decide one pair (2312.00886)"),
}
"""Name to (constructor, one line)."""
