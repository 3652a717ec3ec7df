"""Prompts as a world: what a learner may know, who labels, who judges, what comes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.algorithms.rounds import compare
from rlhf_theory.arrays import Array
from rlhf_theory.core import PairFeedback, Policy
from rlhf_theory.data import PreferenceData
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.worlds.bandit import cut
from rlhf_theory.worlds.recipe import Leaving


class Judge(Protocol):
    """What policies are worth, on prompts that never change."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what a call returns, the one that the world is about first."""
        ...

    def __call__(self, policy: Policy) -> Mapping[str, Array]:
        """Return metrics of a policy, each of shape ``(R,)``."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptWorld:
    """A `World` of prompts, for `rlhf_theory.run`.

    Attributes
    ----------
    problem
        Prompts, features, pools of responses, pi0.
    feedback
        Who labels: ``feedback_from(oracle)``, or people (`LabelFile`).
    judge
        Who evaluates, such as `HeldOut`.
    refresh
        Whether pools follow the policy: before every round half of each pool is drawn from the
        policy that is about to be played, half from pi0; see `PromptProblem.refresh`.
    name
        Name in tables and figures.
    settings
        What the world was made from, for records.
    """

    problem: PromptProblem
    feedback: PairFeedback
    judge: Judge
    refresh: bool = False
    name: str = "prompts"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_replicas(self) -> int:
        """Number of replicas ``R``."""
        return self.problem.n_replicas

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what `evaluate` returns, the one that the world is about first."""
        return self.judge.metrics

    def evaluate(self, policy: Policy) -> Mapping[str, Array]:
        """Return what the judge says, each of shape ``(R,)``."""
        return self.judge(policy)

    def leave(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Write what the judge leaves; see `rlhf_theory.worlds.recipe.Leaving`."""
        if isinstance(self.judge, Leaving):
            self.judge.leave(folder, settings)

    def offline_data(
        self, key: Key, pairs: int, /, *, onto: PreferenceData | None = None
    ) -> PreferenceData:
        """Return labelled pairs of two independent draws from pi0's pools, added to ``onto``."""
        data = self.problem.empty_data() if onto is None else onto
        if pairs == 0:
            return data
        pi0 = ReferencePolicy()
        return compare(self.problem, data, pi0, pi0, self.feedback, pairs, key)

    def block(self, first: int, stop: int) -> PromptWorld:
        """Return replicas ``first .. stop - 1``; ``ValueError`` if the judge cannot be cut."""
        if (first, stop) == (0, self.n_replicas):
            return self
        if not hasattr(self.judge, "block"):
            message = (
                f"{type(self.judge).__name__} judges all {self.n_replicas} replicas at once: run "
                f"them in one block, block={self.n_replicas}."
            )
            raise ValueError(message)
        return replace(
            self,
            problem=self.problem.block(first, stop),
            feedback=cut(self.feedback, first, stop),
            judge=self.judge.block(first, stop),
        )

    def next(self, policy: Policy, key: Key) -> PromptWorld:
        """Return the world of the next round: with new pools where they follow the policy."""
        if not self.refresh:
            return self
        return replace(self, problem=self.problem.refresh(policy, key))
