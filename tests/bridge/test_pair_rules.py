"""Rules for pairs: paired with each other, and what they choose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rlhf_theory as rt
from llm_bridge.language.sampler import BatchedSampler
from llm_bridge.planning.direct import IterativeDirect
from llm_bridge.planning.pair_rules import AgainstEnhancer, BestWorst, PairRule, pair_rule
from llm_bridge.pools.policy import LanguageModelPolicy
from llm_bridge.training.train import TrainingSettings
from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy, Optimistic
from rlhf_theory.planners.gibbs import GibbsPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from tests.helpers.rewarded import REWARD, feedback, rewarded_problem

KEY = Key(3)
QUICK = TrainingSettings(steps=4, batch_size=8, learning_rate=1e-3)
RULES = ["on-policy", "from-reference", "optimistic", "best-worst"]


@pytest.fixture(scope="module")
def policy(tiny_model):
    return LanguageModelPolicy(tiny_model, BatchedSampler(max_new_tokens=4))


@pytest.fixture(scope="module")
def problem(policy):
    return rewarded_problem(policy)


def test_rules_meet_the_same_prompts_and_the_same_noise(problem):
    """Runs that differ in their rule alone are paired."""
    seen = {}

    def asked(name: str) -> Any:
        def ask(query: Any, key: Key) -> Any:
            seen[name] = (query.contexts.ids.numpy().copy(), key)
            return feedback(query, key)

        return ask

    for pairs in RULES:
        learner = IterativeDirect.of(QUICK, batch_size=12, pairs=pairs)
        state = learner.init(problem, problem.empty_data(), KEY)
        learner.step(state, problem, asked(pairs), KEY.child("round", 0))
    online = rt.OnlineIterative(batch_size=12)
    state = online.init(problem, problem.empty_data(), KEY)
    online.step(state, problem, asked("theory"), KEY.child("round", 0))
    ids, key = seen["theory"]
    for pairs in RULES:
        np.testing.assert_array_equal(seen[pairs][0], ids)
        assert seen[pairs][1] == key


def test_best_and_worst_are_extremes_of_the_draws(problem):
    pi = GibbsPolicy(REWARD, 1.0)
    pairs = []

    def ask(query: Any, key: Key) -> Any:
        pairs.append((query.contexts, query.a1.numpy(), query.a2.numpy()))
        return feedback(query, key)

    BestWorst(n=64)(problem, problem.empty_data(), pi, ask, 30, KEY)
    BestWorst(n=64, proxy=LinearReward(-REWARD.theta))(
        problem, problem.empty_data(), pi, ask, 30, KEY
    )
    # Of 64 draws from six responses the policy's own reward finds the best that has mass.
    contexts, best, worst = pairs[0]
    r = REWARD.rewards(contexts).numpy()
    chosen = np.take_along_axis(r, best[..., None], -1)
    assert (chosen >= np.take_along_axis(r, worst[..., None], -1)).all()
    assert (chosen[..., 0] == r.max(-1)).mean() > 0.9
    # A proxy with the other sign turns them round.
    np.testing.assert_array_equal(pairs[1][1], worst)
    np.testing.assert_array_equal(pairs[1][2], best)


def test_draws_of_equal_reward_are_still_two(policy, problem):
    """At the start the policy is pi0 and its own reward 0 everywhere."""
    data = BestWorst(n=4)(problem, problem.empty_data(), policy, feedback, 40, KEY)
    assert float(data.n_labels[0]) > 20


def test_names_stand_for_rules():
    assert pair_rule("on-policy") == AgainstEnhancer(enhancer=OnPolicy())
    assert pair_rule("from-reference") == AgainstEnhancer(enhancer=FromReference())
    assert pair_rule("optimistic") == AgainstEnhancer(enhancer=Optimistic())
    assert pair_rule("best-worst") == BestWorst(n=4)
    rule = BestWorst(n=8)
    assert pair_rule(rule) is rule
    assert isinstance(rule, PairRule)


def test_a_best_and_a_worst_need_two_draws():
    with pytest.raises(ValueError, match="at least 2"):
        BestWorst(n=1)
