"""Running learners in worlds."""

from rlhf_theory.experiments.runner import run
from rlhf_theory.experiments.trace import Trace

__all__ = ["Trace", "run"]
