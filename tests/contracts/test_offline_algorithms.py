"""Every offline learner against its protocol; as in the register."""

import numpy as np
import pytest

from rlhf_theory.arrays import to_numpy
from rlhf_theory.core import OfflineAlgorithm, Policy, Solution
from rlhf_theory.experiments import run
from rlhf_theory.policies import kl
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.worlds import intransitive, linear
from tests.helpers.assembled import compared
from tests.helpers.factories import OFFLINE, SLACK, Slack
from tests.helpers.snapshots import assert_unchanged, snapshot
from tests.helpers.toy import ToyPrompts, toy_data, toy_evaluate


def small(kind="finite", replicas=3, **more):
    settings = {"actions": 3, "dim": 2, "eta": 0.3, "replicas": replicas, "seed": 3}
    if kind == "fresh":
        return linear(contexts=None, **settings, **more)
    if kind == "game":
        return intransitive(contexts=3, reference="dirichlet", **settings, **more)
    return linear(contexts=3, reference="dirichlet", **settings, **more)


@pytest.fixture(params=OFFLINE)
def name(request):
    return request.param


@pytest.fixture
def learner(name):
    return OFFLINE[name]()


def test_the_learner_is_an_offline_algorithm(learner):
    assert isinstance(learner, OfflineAlgorithm)
    assert not hasattr(learner, "step")


@pytest.mark.parametrize("kind", ["finite", "fresh", "game"])
def test_it_returns_a_solution_with_a_policy_per_replica(learner, kind, xp_like):
    world = small(kind).to(xp_like)
    data = world.offline_data(Key(0), 30)
    plan = learner(world.problem, data, Key(1))
    assert isinstance(plan, Solution)
    assert isinstance(plan.value, Policy)
    assert tuple(plan.residual.shape) == tuple(plan.converged.shape) == (3,)
    assert to_numpy(plan.converged).all(), plan.message
    x, _ = world.population
    log_pi = to_numpy(plan.value.log_probs(x))
    assert log_pi.shape == (3, *x.shape[1:3])
    np.testing.assert_allclose(np.exp(log_pi).sum(axis=-1), 1.0, rtol=1e-9)


def test_without_labels_it_plays_the_reference(learner):
    for kind in ("finite", "fresh", "game"):
        world = small(kind)
        plan = learner(world.problem, world.problem.empty_data(), Key(1))
        assert plan.converged.all(), plan.message
        np.testing.assert_allclose(world.evaluate(plan.value)["kl"], 0.0, atol=1e-12)


def test_labels_help(learner):
    # Weak on purpose: any learner, with 20 000 pairs, beats pi0.
    world = small(replicas=4)
    trace = run(learner, world, pairs=[0, 20_000], seed=1)
    assert (trace["gap"][:, 1] < trace["gap"][:, 0]).all()


def test_one_action_is_valid(learner):
    one = linear(contexts=3, actions=1, dim=2, replicas=2)
    plan = learner(one.problem, one.offline_data(Key(0), 5), Key(1))
    assert plan.converged.all(), plan.message
    np.testing.assert_allclose(one.evaluate(plan.value)["gap"], 0.0, atol=1e-14)


def test_one_context_is_valid(learner):
    one = linear(contexts=1, actions=3, dim=2, replicas=2)
    plan = learner(one.problem, one.offline_data(Key(0), 50), Key(1))
    assert plan.converged.all(), plan.message


def test_it_runs_on_a_toy_prompt_problem(learner, xp_like):
    problem = ToyPrompts(xp_like)
    for n in (0, 200):
        data = toy_data(problem, Key(5), n) if n else problem.empty_data()
        plan = learner(problem, data, Key(1))
        assert to_numpy(plan.converged).all(), plan.message
        gap = to_numpy(toy_evaluate(problem)(plan.value)["gap"])
        assert np.isfinite(gap).all()


def test_absent_actions_stay_absent(learner):
    toy = ToyPrompts(np.zeros(1))
    phi, log_pi0 = toy.pools
    problem = FiniteProblem(phi, log_pi0, np.full((1, 12), 1 / 12), 0.2, 2)
    world = small()
    data = problem.empty_data()
    x = problem.sample_contexts(Key(0), 40)
    a = np.argmax(x.log_pi0, axis=-1)
    others = np.where(np.isfinite(x.log_pi0[..., 1]), 1, a)
    data = data.add(compared(x, a, others, np.ones(a.shape)))
    plan = learner(problem, data, Key(1))
    assert plan.converged.all(), plan.message
    log_pi = plan.value.log_probs(problem.table)
    assert (log_pi[:, ~np.isfinite(log_pi0[0])] == -np.inf).all()
    assert np.isfinite(kl(log_pi, problem.log_pi0)).all()
    assert world.n_replicas == 3


def test_it_leaves_its_arguments_unchanged(learner, xp_like):
    world = small().to(xp_like)
    data = world.offline_data(Key(0), 30)
    before = snapshot(world.problem, data, learner)
    learner(world.problem, data, Key(1))
    assert_unchanged(before, world.problem, data, learner)


@pytest.mark.parametrize("kind", ["finite", "fresh"])
def test_a_replica_alone_is_the_same_replica(learner, name, kind):
    world = small(kind, instances="own")
    together = run(learner, world, pairs=[0, 9, 60], seed=2)
    alone = run(learner, world, pairs=[0, 9, 60], seed=2, block=1)
    within = SLACK.get(name, Slack("")).alone
    for metric in ("gap", "kl", "jeffreys", "labels", "converged"):
        np.testing.assert_allclose(alone[metric], together[metric], atol=within, rtol=0)


def test_a_replica_without_labels_does_not_disturb_the_others(learner, name):
    world = small(instances="own")
    data = world.offline_data(Key(0), 40)
    mask = np.array([1.0, 0.0, 1.0])[:, None]
    some = data.reweighted(data.count * mask, data.wins * mask)
    whole, part = (world.evaluate(learner(world.problem, d, Key(1)).value) for d in (data, some))
    within = SLACK.get(name, Slack("")).alone
    np.testing.assert_allclose(part["gap"][[0, 2]], whole["gap"][[0, 2]], atol=within, rtol=0)
    np.testing.assert_allclose(part["kl"][1], 0.0, atol=1e-12)


def test_two_runs_with_one_key_are_equal_to_the_bit(learner):
    world = small()
    one, two = (run(learner, world, pairs=[9, 60], seed=2) for _ in range(2))
    for metric, value in one.arrays.items():
        np.testing.assert_array_equal(value, two[metric])


@pytest.mark.parametrize("kind", ["finite", "fresh"])
def test_whole_runs_agree_across_libraries(learner, name, xp_like, kind):
    world = small(kind)
    host = run(learner, world, pairs=[9, 60], seed=5)
    there = run(learner, world.to(xp_like), pairs=[9, 60], seed=5)
    within = SLACK.get(name, Slack("")).libraries
    for metric in ("gap", "kl", "jeffreys", "labels", "converged"):
        np.testing.assert_allclose(there[metric], host[metric], atol=within, rtol=0)
