"""Baselines of online learning: pairs that are not built around the main agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rlhf_theory.algorithms.enhancers import OnPolicy, Uniform
from rlhf_theory.algorithms.online_iterative import OnlineIterative, OnlineState
from rlhf_theory.arrays import Array
from rlhf_theory.core import Enhancer, PairFeedback, Policy, Problem
from rlhf_theory.data import PreferenceData
from rlhf_theory.randomness import Key
from rlhf_theory.roles import learner


@learner(
    "same-law-pairs",
    {"learner": {"radius": {"kind": "constant", "beta": 0.5}, "batch_size": 5}},
)
@dataclass(frozen=True, eq=False, kw_only=True)
class SameLawPairs:
    """Draw both actions from one policy that is not deployed: uniform pairs, pairs from pi0.

    Fits and deploys as `OnlineIterative` does; only the sampling differs.

    Attributes
    ----------
    sampler
        The policy of both actions; `Uniform` unless set, `FromReference` for pairs from pi0. With
        `OnPolicy` this is the on-policy learner.
    learner
        How to fit, how many labels a round; its enhancer has no say.

    Source: uniform exploration, the usual baseline of dueling bandits; theory sheet 12.19.
    """

    sampler: Enhancer = field(default_factory=Uniform)
    learner: OnlineIterative = field(default_factory=OnlineIterative)

    def init(self, problem: Problem, data: PreferenceData, key: Key) -> OnlineState:
        """Fit and plan from the data at hand, possibly none."""
        return self.learner.init(problem, data, key)

    def step(
        self, state: OnlineState, problem: Problem, feedback: PairFeedback, key: Key
    ) -> tuple[OnlineState, Mapping[str, Array]]:
        """Play one round; reports ``residual`` and ``converged``."""
        main = state.plan
        law = self.sampler(problem, main.value, state.confidence, key.child("sampler"))
        # The learner meets the sampler where it expects its main agent, twice.
        shown = replace(state, plan=replace(main, value=law))
        return replace(self.learner, enhancer=OnPolicy()).step(shown, problem, feedback, key)

    def policy(self, state: OnlineState) -> Policy:
        """Return the main agent; computes nothing."""
        return self.learner.policy(state)
