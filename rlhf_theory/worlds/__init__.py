"""Worlds: a problem, the law of its labels, and the truth."""

from rlhf_theory.worlds.catalogue import CATALOGUE
from rlhf_theory.worlds.intransitive import annotator_cycle, intransitive, tie_cycle
from rlhf_theory.worlds.linear import linear
from rlhf_theory.worlds.world import World

__all__ = ["CATALOGUE", "World", "annotator_cycle", "intransitive", "linear", "tie_cycle"]
