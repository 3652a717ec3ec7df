"""A learner, two of its parts and a world of a user: copy this file, and change it into yours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import rlhf_theory as rt
from rlhf_theory.algorithms.baselines import SameLawPairs
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.policies import MixturePolicy, ReferencePolicy
from rlhf_theory.rewards import LinearReward


# A learner is a frozen dataclass: its fields are its settings, in study files too. Type hints say
# what is allowed, and `__post_init__` refuses what makes no sense; a study reports both.
@dataclass(frozen=True, kw_only=True)
class ExploreThenCommit:
    """Compare uniform pairs for some rounds, then deploy what was learnt and learn no more."""

    explore: int = 10
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.explore < 0:
            message = f"explore must be at least 0; got {self.explore}."
            raise ValueError(message)

    # An online learner has three methods, pure functions of a state of its choice: here, the
    # rounds played and the state of the learner inside. (An offline learner has one method,
    # `__call__(problem, data, key)`, and returns a `Solution`.)
    def init(self, problem: Any, data: Any, key: Any) -> tuple[int, Any]:
        """Return the state before the first round."""
        return 0, self._inner.init(problem, data, key)

    def step(
        self, state: tuple[int, Any], problem: Any, feedback: Any, key: Any
    ) -> tuple[tuple[int, Any], Mapping[str, Any]]:
        """Play one round; return the new state, and what to record."""
        t, inner = state
        if t >= self.explore:
            return (t + 1, inner), {}
        inner, report = self._inner.step(inner, problem, feedback, key)
        return (t + 1, inner), report

    def policy(self, state: tuple[int, Any]) -> Any:
        """Return the policy that is deployed."""
        return self._inner.policy(state[1])

    @property
    def _inner(self) -> SameLawPairs:
        return SameLawPairs(learner=rt.OnlineIterative(batch_size=self.batch_size))


# An enhancer says which policy plays the second action of the comparisons, given that of the first.
@dataclass(frozen=True, kw_only=True)
class HalfReference:
    """Explore with a mixture of the main agent and the reference policy."""

    share: float = 0.5

    def __call__(
        self,
        problem: Any,  # noqa: ARG002
        pi1: Any,
        confidence: Any,  # noqa: ARG002
        key: Any,  # noqa: ARG002
    ) -> MixturePolicy:
        """Return the policy of the second action."""
        return MixturePolicy([pi1, ReferencePolicy()], [1.0 - self.share, self.share])


# A radius rule says how to fit, and which parameters are plausible. This one holds another rule and
# says what it changes: the radius.
@dataclass(frozen=True, kw_only=True)
class AtMost:
    """The radius of another rule, cut off: with few data the theoretical ones say nothing."""

    most: float = 5.0
    rule: rt.confidence.ConfidenceRule = field(default_factory=rt.confidence.Adaptive)

    def __call__(self, data: Any, problem: Any) -> Any:
        """Return the radius, shape ``(R,)``."""
        return np.minimum(self.rule(data, problem), self.most)

    def fit(self, data: Any, design: Any = None, start: Any = None) -> Any:
        """Return the estimate of the rule."""
        return self.rule.fit(data, design, start)

    def confidence_set(self, fit: Any, data: Any, problem: Any = None, design: Any = None) -> Any:
        """Return the ellipsoid of the rule with its radius cut off."""
        whole: Any = self.rule.confidence_set(fit, data, problem, design)
        return replace(whole, beta=np.minimum(whole.beta, self.most))


# A world is a function that returns a `World`. It takes `replicas`, which the study gives; its
# other arguments are its settings. Same arguments, same world: draw from a `Key` of its seed only.
def length_bias(
    *,
    bias: float = 1.0,
    contexts: int = 10,
    actions: int = 8,
    dim: int = 4,
    replicas: int = 64,
    seed: int = 0,
) -> rt.worlds.Bandit:
    """Return a linear world whose annotators like the first feature, say length, too much."""
    world = rt.worlds.linear(
        contexts=contexts, actions=actions, dim=dim, replicas=replicas, seed=seed
    )
    liked = np.asarray(world.theta_star) + bias * np.eye(dim)[:1]
    # Labels follow what annotators like, the gap what is good.
    return replace(
        world, name="length-bias", oracle=BradleyTerry(LinearReward(liked)), theta_star=None
    )
