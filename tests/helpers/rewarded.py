"""Four prompts, a reward linear in features of the tokens, and Bradley-Terry labels from it."""

from __future__ import annotations

from typing import Any

import torch

from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.pools.problem import PromptProblem
from rlhf_theory.data import PairQuery
from rlhf_theory.randomness import Key, bernoulli, categorical
from rlhf_theory.rewards import LinearReward
from tests.helpers.prompts import TokenFeatures

ETA = 0.5
REWARD = LinearReward(torch.tensor([[2.0, -3.0, 1.0]], dtype=torch.float64))
TEXTS = ["what color is oak ?", "what color is pine ?", "what color is elm ?", "is oak good"]


def rewarded_problem(policy: LanguageModelPolicy, **settings: Any) -> PromptProblem:
    """Return the prompts with pools of six draws."""
    given = {"pool_size": 6, "eta": ETA, "features": TokenFeatures(3)} | settings
    return PromptProblem(TEXTS, policy, **given)


def win_probability(contexts: Any, a1: Any, a2: Any) -> Any:
    """Return the probability that ``a1`` wins."""
    r = REWARD.rewards(contexts)
    won, lost = (torch.take_along_dim(r, a[..., None], -1)[..., 0] for a in (a1, a2))
    return torch.sigmoid(won - lost)


def feedback(query: Any, key: Key) -> Any:
    """Return labels."""
    u = key.uniform(1, query.a1.shape[1], like=query.contexts.like)
    return query.answered(bernoulli(win_probability(query.contexts, query.a1, query.a2), u))


def labelled(problem: Any, n: int, *, soft: bool = False, key: Key | None = None) -> Any:
    """Return data of ``n`` pairs from pi0, with labels or their probabilities."""
    key = key or Key(3)
    x = problem.sample_contexts(key.child("x"), n)
    a1, a2 = (
        categorical(x.log_pi0, key.child(name).uniform(1, n, like=x.like)) for name in ("a1", "a2")
    )
    query = PairQuery(x, a1, a2)
    if soft:
        return problem.empty_data().add(query.answered(win_probability(x, a1, a2)))
    return problem.empty_data().add(feedback(query, key.child("y")))
