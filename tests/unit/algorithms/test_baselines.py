"""Pairs from one law: the sampler draws both actions, the learner fits and deploys as ever."""

from __future__ import annotations

import numpy as np

from rlhf_theory.algorithms.baselines import SameLawPairs
from rlhf_theory.algorithms.enhancers import FromReference, OnPolicy
from rlhf_theory.algorithms.online_iterative import OnlineIterative
from rlhf_theory.experiments.runner import run
from rlhf_theory.oracles.labels import feedback_from
from rlhf_theory.randomness import Key
from rlhf_theory.worlds import linear

WORLD = linear(contexts=3, actions=4, dim=2, eta=0.3, replicas=5, reference="dirichlet")


def counts(learner: SameLawPairs, rounds: int) -> np.ndarray:
    """Share of every pair ``i < j`` of every context among the pairs drawn, over replicas."""
    problem = WORLD.problem
    state = learner.init(problem, problem.empty_data(), Key(0))
    for t in range(rounds):
        state, _ = learner.step(state, problem, feedback_from(WORLD.oracle), Key(0).child(t))
    return np.asarray(state.data.count).mean(axis=0) / (rounds * learner.learner.batch_size)


def test_uniform_pairs_are_uniform() -> None:
    # 5 replicas x 4000 pairs: standard errors below 1.4e-3; six of them.
    found = counts(SameLawPairs(learner=OnlineIterative(batch_size=1000)), 4)
    np.testing.assert_allclose(found, 2.0 / 16.0 / 3.0, atol=9e-3)


def test_pairs_from_the_reference_have_its_law() -> None:
    found = counts(
        SameLawPairs(sampler=FromReference(), learner=OnlineIterative(batch_size=1000)), 4
    )
    p = np.exp(WORLD.problem.log_pi0[0])
    i, j = np.triu_indices(4, k=1)
    np.testing.assert_allclose(found, (2.0 * p[:, i] * p[:, j] / 3.0).ravel(), atol=9e-3)


def test_sampling_from_the_main_agent_is_the_on_policy_learner() -> None:
    on_policy = OnlineIterative(enhancer=OnPolicy(), batch_size=16)
    same = SameLawPairs(sampler=OnPolicy(), learner=OnlineIterative(batch_size=16))
    a, b = (run(x, WORLD, rounds=4, seed=3) for x in (on_policy, same))
    for name in a.arrays:
        np.testing.assert_array_equal(a[name], b[name])


def test_the_enhancer_has_no_say() -> None:
    a, b = (
        run(
            SameLawPairs(learner=OnlineIterative(enhancer=e, batch_size=16)),
            WORLD,
            rounds=2,
            seed=3,
        )
        for e in (OnPolicy(), FromReference())
    )
    np.testing.assert_array_equal(a["gap"], b["gap"])
