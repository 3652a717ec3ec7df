"""Every online learner against its protocol; as in the register."""

import numpy as np
import pytest

from rlhf_theory.arrays import as_like, to_numpy
from rlhf_theory.core import OnlineAlgorithm, Policy
from rlhf_theory.experiments import run
from rlhf_theory.oracles import feedback_from
from rlhf_theory.policies import kl
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.randomness import Key
from rlhf_theory.worlds import intransitive, linear
from tests.helpers.factories import BATCH, ONLINE, SLACK, Slack
from tests.helpers.snapshots import assert_unchanged, snapshot
from tests.helpers.toy import ToyPrompts, toy_data, toy_world

REPORTED = {"residual", "converged"}


def small(kind="finite", replicas=3, **more):
    settings = {"actions": 3, "dim": 2, "eta": 0.3, "replicas": replicas, "seed": 3}
    if kind == "fresh":
        return linear(contexts=None, **settings, **more)
    if kind == "game":
        return intransitive(contexts=3, reference="dirichlet", **settings, **more)
    return linear(contexts=3, reference="dirichlet", **settings, **more)


@pytest.fixture(params=ONLINE)
def name(request):
    return request.param


@pytest.fixture
def learner(name):
    return ONLINE[name]()


def test_the_learner_is_an_online_algorithm(learner):
    assert isinstance(learner, OnlineAlgorithm)
    assert not hasattr(learner, "reset")


@pytest.mark.parametrize("kind", ["finite", "fresh", "game"])
def test_it_runs_from_empty_data_and_from_offline_data(learner, kind):
    world = small(kind, cycle=1.0) if kind == "game" else small(kind)
    for offline_pairs in (0, 12):
        trace = run(learner, world, rounds=3, seed=1, offline_pairs=offline_pairs)
        metric = trace["exploitability" if kind == "game" else "gap"]
        assert metric.shape == (3, 4)
        assert np.isfinite(metric).all()
        assert (metric >= 0).all()
        assert trace["converged"][:, :-1].all()
        # Labels so far never fall, and grow by at most the batch.
        grown = np.diff(trace["labels"], axis=1)
        assert (grown >= 0).all()
        assert (grown <= BATCH).all()
    assert (trace["labels"][:, 0] > 0).all()


def test_without_labels_it_plays_the_reference(learner):
    for kind in ("finite", "fresh"):
        trace = run(learner, small(kind), rounds=0)
        np.testing.assert_allclose(trace["kl"], 0.0, atol=1e-14)


def test_one_action_is_valid(learner):
    one = linear(contexts=3, actions=1, dim=2, replicas=2)
    trace = run(learner, one, rounds=2, seed=1, offline_pairs=3)
    np.testing.assert_allclose(trace["gap"], 0.0, atol=1e-14)
    assert (trace["labels"] == 0).all()


def test_it_runs_on_a_toy_prompt_problem(learner, xp_like):
    # R = 1, no ids, pools with absent actions: what a bridge to language models provides.
    problem = ToyPrompts(xp_like)
    empty = run(learner, toy_world(problem), rounds=2, seed=1)
    data = toy_data(problem, Key(5), 300)
    full = run(learner, toy_world(problem, data=data), rounds=2, seed=1)
    for trace in (empty, full):
        assert trace["gap"].shape == (1, 3)
        assert np.isfinite(trace["gap"]).all()
        assert trace["converged"][:, :-1].all()
    assert empty["kl"][0, 0] < 1e-14
    assert full["gap"][0, 0] < empty["gap"][0, 0]


def test_absent_actions_are_never_played(learner):
    # Finite, with absent actions whose features are huge; the data refuse a comparison with one.
    toy = ToyPrompts(np.zeros(1))
    phi, log_pi0 = toy.pools
    problem = FiniteProblem(phi, log_pi0, np.full((1, 12), 1 / 12), 0.2, 2)
    state = learner.init(problem, problem.empty_data(), Key(0))
    seen = []

    def feedback(query, key):
        lp = to_numpy(query.contexts.log_pi0)
        for a in (query.a1, query.a2):
            seen.append(np.take_along_axis(lp, to_numpy(a)[..., None], axis=-1))
        y = key.uniform_numpy(*query.a1.shape) < 0.5
        return query.answered(as_like(y, query.contexts.like))

    for t in range(3):
        state, _ = learner.step(state, problem, feedback, Key(0).child("round", t))
    assert np.isfinite(np.array(seen)).all()
    x = problem.table
    log_pi = learner.policy(state).log_probs(x)
    assert (log_pi[:, ~np.isfinite(log_pi0[0])] == -np.inf).all()
    assert np.isfinite(kl(log_pi, x.log_pi0)).all()


def test_step_leaves_its_arguments_unchanged(learner, xp_like):
    for kind in ("finite", "fresh"):
        world = small(kind).to(xp_like)
        problem, feedback = world.problem, feedback_from(world.oracle)
        data = world.offline_data(Key(0), 6)
        state = learner.init(problem, data, Key(1))
        before = snapshot(state, problem, learner, data)
        learner.step(state, problem, feedback, Key(2))
        learner.step(state, problem, feedback, Key(3))
        assert_unchanged(before, state, problem, learner, data)


def test_a_state_can_be_stepped_again(learner):
    # Pure functions: the same step twice gives the same bits, whatever happened in between.
    world = small()
    feedback = feedback_from(world.oracle)
    state = learner.init(world.problem, world.offline_data(Key(0), 6), Key(1))
    one, report = learner.step(state, world.problem, feedback, Key(2))
    learner.step(one, world.problem, feedback, Key(3))
    two, again = learner.step(state, world.problem, feedback, Key(2))
    x = world.problem.table
    np.testing.assert_array_equal(
        learner.policy(one).log_probs(x), learner.policy(two).log_probs(x)
    )
    for key, value in report.items():
        np.testing.assert_array_equal(value, again[key])


def test_policy_computes_nothing(learner):
    world = small()
    state = learner.init(world.problem, world.offline_data(Key(0), 6), Key(1))
    assert learner.policy(state) is learner.policy(state)
    assert isinstance(learner.policy(state), Policy)


def test_recorded_names_are_the_documented_ones(learner):
    world = small()
    state = learner.init(world.problem, world.problem.empty_data(), Key(1))
    _, report = learner.step(state, world.problem, feedback_from(world.oracle), Key(2))
    assert set(report) >= REPORTED
    documented = type(learner).step.__doc__
    for recorded, value in report.items():
        assert f"``{recorded}``" in documented, recorded
        assert tuple(value.shape) == (3,), recorded


@pytest.mark.parametrize("kind", ["finite", "fresh"])
def test_a_replica_alone_is_the_same_replica(learner, name, kind):
    world = small(kind, instances="own")
    together = run(learner, world, rounds=4, seed=2, offline_pairs=4)
    alone = run(learner, world, rounds=4, seed=2, offline_pairs=4, block=1)
    within = SLACK.get(name, Slack("")).alone
    for metric in ("gap", "kl", "jeffreys"):
        np.testing.assert_allclose(alone[metric], together[metric], atol=within, rtol=0)
    np.testing.assert_array_equal(alone["labels"], together["labels"])
    # More replicas, same replicas.
    more = run(learner, small(kind, 5, instances="own"), rounds=4, seed=2, offline_pairs=4)
    np.testing.assert_allclose(more["gap"][:3], together["gap"], atol=within, rtol=0)


def test_two_runs_with_one_key_are_equal_to_the_bit(learner):
    world = small()
    one, two = (run(learner, world, rounds=3, seed=2, offline_pairs=4) for _ in range(2))
    other = run(learner, world, rounds=3, seed=4, offline_pairs=4)
    for metric, value in one.arrays.items():
        np.testing.assert_array_equal(value, two[metric])
    assert not np.array_equal(one["gap"], other["gap"])


def test_replicas_of_a_shared_world_differ_in_their_data(learner):
    gap = run(learner, small(), rounds=4, seed=2)["gap"][:, -1]
    assert len(np.unique(gap)) == 3


def test_learners_with_one_key_meet_the_same_contexts_and_label_noise(learner):
    # What makes comparisons of learners paired.
    world, met = small(), []

    def feedback(query, key):
        met.append((to_numpy(query.contexts.ids), key.uniform_numpy(*query.a1.shape)))
        return world.feedback(query, key)

    first = ONLINE[next(iter(ONLINE))]()
    for each in (learner, first):
        state = each.init(world.problem, world.problem.empty_data(), Key(1))
        each.step(state, world.problem, feedback, Key(2))
    for mine, theirs in zip(*met, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("kind", ["finite", "fresh"])
def test_whole_runs_agree_across_libraries(learner, name, xp_like, kind):
    world = small(kind)
    host = run(learner, world, rounds=3, seed=5, offline_pairs=4)
    there = run(learner, world.to(xp_like), rounds=3, seed=5, offline_pairs=4)
    assert set(host.arrays) == set(there.arrays)
    within = SLACK.get(name, Slack("")).libraries
    for metric in ("gap", "kl", "jeffreys", "labels", "converged"):
        np.testing.assert_allclose(there[metric], host[metric], atol=within, rtol=0)
