"""Which two responses an online learner without an estimate asks to compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy
from rlhf_theory.algorithms.rounds import compare
from rlhf_theory.arrays import int_like, to_numpy
from rlhf_theory.core import Enhancer, PairFeedback, Policy, Problem, RewardModel
from rlhf_theory.data import PairQuery
from rlhf_theory.errors import check_choice, check_positive
from rlhf_theory.estimators.confidence import ConfidenceRule, Constant
from rlhf_theory.randomness import Key, categorical
from rlhf_theory.register import asked_by, found, register


@asked_by("pair-rule")
@runtime_checkable
class PairRule(Protocol):
    """Draws a batch of comparisons around a policy.

    All rules draw contexts and label noise at the same places of the key, so that learners which
    differ in their rule alone are paired.
    """

    @property
    def sample(self) -> int | None:
        """Which response of each pair, 0 or 1, is a draw from pi0; None if neither is."""
        ...

    def __call__(
        self,
        problem: Problem,
        data: Any,
        policy: Policy,
        feedback: PairFeedback,
        batch_size: int,
        key: Key,
    ) -> Any:
        """Return the data with a labelled batch appended."""
        ...


@register("pair-rule", "against-enhancer")
@dataclass(frozen=True, kw_only=True)
class AgainstEnhancer:
    """The policy against an enhancer of `rlhf_theory`.

    Attributes
    ----------
    enhancer
        `OnPolicy`: both responses from the policy; `FromReference`: one from pi0; `Optimistic`: one
        from the most uncertain policy around it.
    radius
        The confidence set that the enhancer explores in, over the problem's features.
    """

    enhancer: Enhancer = field(default_factory=OnPolicy)
    radius: ConfidenceRule = field(default_factory=lambda: Constant(beta=1.0))

    @property
    def sample(self) -> int | None:
        """1 where the enhancer is pi0."""
        return 1 if isinstance(self.enhancer, FromReference) else None

    def __call__(
        self,
        problem: Problem,
        data: Any,
        policy: Policy,
        feedback: PairFeedback,
        batch_size: int,
        key: Key,
    ) -> Any:
        """Return the data with a labelled batch appended."""
        confidence = self.radius.confidence_set(self.radius.fit(data), data, problem)
        other = self.enhancer(problem, policy, confidence, key.child("enhancer"))
        return compare(problem, data, policy, other, feedback, batch_size, key)


@register("pair-rule", "best-worst")
@dataclass(frozen=True, kw_only=True)
class BestWorst:
    r"""The best and the worst of ``n`` draws from the policy.

    Attributes
    ----------
    n
        Draws per context, at least 2.
    proxy
        The reward that ranks them; None for the policy's own,
        :math:`\eta \log(\pi / \pi_0)`. Draws that it cannot tell apart are taken as they come.

    Source: [2405.07863], section 3.2, the heuristic form of the enhancer.
    """

    n: int = 4
    proxy: RewardModel | None = None
    sample: ClassVar[None] = None  # both come from the policy

    def __post_init__(self) -> None:
        if self.n < 2:
            message = f"n must be at least 2, to have a best and a worst; got {self.n}."
            raise ValueError(message)

    def __call__(
        self,
        problem: Problem,
        data: Any,
        policy: Policy,
        feedback: PairFeedback,
        batch_size: int,
        key: Key,
    ) -> Any:
        """Return the data with a labelled batch appended."""
        check_positive("batch_size", batch_size)
        r = problem.n_replicas
        x = problem.sample_contexts(key.child("contexts"), batch_size)
        log_pi = policy.log_probs(x)
        draws = [
            to_numpy(categorical(log_pi, key.child("draw", k).uniform(r, batch_size, like=x.like)))
            for k in range(self.n)
        ]
        places = np.stack(draws, axis=-1)
        scores = to_numpy(log_pi - x.log_pi0 if self.proxy is None else self.proxy.rewards(x))
        scores = np.broadcast_to(scores, (*places.shape[:2], scores.shape[-1]))
        seen = np.take_along_axis(scores, places, axis=-1)
        # The first of the best and the last of the worst: of equal ones two different draws.
        best = np.argmax(seen, axis=-1)
        worst = self.n - 1 - np.argmin(seen[..., ::-1], axis=-1)
        a1, a2 = (
            int_like(np.take_along_axis(places, i[..., None], axis=-1)[..., 0].tolist(), x.like)
            for i in (best, worst)
        )
        return data.add(feedback(PairQuery(x, a1, a2), key.child("labels")))


def pair_rule(rule: str | PairRule) -> PairRule:
    """Return a rule; a name is that of a pair rule, or of the enhancer that the policy meets."""
    if not isinstance(rule, str):
        return rule
    rules, enhancers = found("pair-rule"), found("enhancer")
    check_choice("pairs", rule, [*rules, *enhancers])
    if rule in rules:
        own: PairRule = rules[rule].target()
        return own
    return AgainstEnhancer(enhancer=enhancers[rule].target())
