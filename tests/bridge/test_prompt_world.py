"""Prompts as a world: the same call runs a learner here and on a bandit."""

import numpy as np
import pytest
import torch

import rlhf_theory as rt
from llm_bridge import HeldOut, PromptWorld
from rlhf_theory.arrays import to_numpy
from rlhf_theory.core import World
from rlhf_theory.estimators.confidence import Constant
from rlhf_theory.oracles import BradleyTerry, feedback_from
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from tests.helpers.assembled import Judged
from tests.helpers.prompts import few_prompts, string_problem

THETA = torch.tensor([[1.0, -1.5, 0.8]], dtype=torch.float64)
REWARD = LinearReward(THETA)


def prompt_world(*, refresh=False, n_replicas=1, pool_size=6):
    problem = string_problem(5, 7, pool_size=pool_size, n_replicas=n_replicas)
    return PromptWorld(
        problem=problem,
        feedback=feedback_from(BradleyTerry(REWARD, 2.0)),
        judge=HeldOut(problem.held_out(few_prompts(5)), REWARD, n_samples=0),
        refresh=refresh,
    )


WORLDS = {
    "bandit": lambda: rt.worlds.linear(contexts=5, actions=4, dim=3, replicas=1),
    "prompts": prompt_world,
}


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize(
    "learner",
    [
        rt.OnlineIterative(batch_size=8, radius=Constant(beta=0.5)),
        rt.NashGame(batch_size=8),
        rt.OfflineGreedy(),
    ],
    ids=["online", "game", "offline"],
)
def test_one_call_runs_every_learner_in_every_world(name, learner):
    world = WORLDS[name]()
    assert isinstance(world, World)
    online = hasattr(learner, "step")
    length = {"rounds": 2, "offline_pairs": 10} if online else {"pairs": [0, 10, 40]}
    trace = rt.run(learner, world, seed=1, **length)
    assert trace.index_name == ("round" if online else "pairs")
    assert set(world.metrics) <= set(trace.arrays)
    labels = trace["labels"]
    assert labels.shape == (1, 3)
    assert (np.diff(labels) > 0).all()
    assert trace.settings["world"]["name"] == world.name
    for metric in world.metrics:
        assert np.isfinite(trace[metric]).all()


def test_the_primary_metric_is_the_gap_where_there_is_a_truth():
    assert prompt_world().metrics[0] == "pool_gap"


def test_pools_follow_the_policy_only_where_asked():
    world, policy = prompt_world(), prompt_world().problem.policy
    assert world.next(policy, Key(1)) is world
    fresh = prompt_world(refresh=True)
    after = fresh.next(policy, Key(1))
    assert after.problem.pools.content != fresh.problem.pools.content
    # Held-out prompts never change, whatever happens to the pools.
    assert after.judge is fresh.judge
    again = fresh.next(policy, Key(1))
    assert again.problem.pools.content == after.problem.pools.content


def test_offline_data_are_pairs_of_pi0_with_labels():
    world = prompt_world()
    data = world.offline_data(Key(2), 30)
    assert 0 < float(data.n_labels[0]) <= 30
    assert world.offline_data(Key(2), 0, onto=data) is data
    more = world.offline_data(Key(3), 10, onto=data)
    assert more.count.shape[1] == 40


def test_replicas_are_cut_with_the_world():
    world = prompt_world(n_replicas=3)
    learner = rt.OnlineIterative(batch_size=8, radius=Constant(beta=0.5))
    whole = rt.run(learner, world, rounds=2, seed=3)
    parts = rt.run(learner, world, rounds=2, seed=3, block=1)
    for name in ("pool_gap", "pool_kl", "labels"):
        np.testing.assert_allclose(parts[name], whole[name], atol=1e-8, rtol=0)
    assert len(np.unique(whole["pool_gap"][:, -1])) == 3


def test_a_judge_of_all_replicas_at_once_is_not_cut():
    world = prompt_world(n_replicas=2)
    x, _ = world.problem.population(Key(0), 0)
    judge = Judged(lambda policy: {"kl": to_numpy(policy.log_probs(x))[:, 0, 0]}, ("kl",))
    whole = PromptWorld(problem=world.problem, feedback=world.feedback, judge=judge)
    assert whole.block(0, 2) is whole
    with pytest.raises(ValueError, match="in one block, block=2"):
        whole.block(0, 1)
