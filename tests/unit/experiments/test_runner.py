import re
from dataclasses import dataclass, field

import numpy as np
import pytest

from rlhf_theory.algorithms import EnsembleMinimum, OnlineIterative
from rlhf_theory.core import closed_form
from rlhf_theory.errors import ShapeError
from rlhf_theory.experiments import run
from rlhf_theory.experiments.runner import BLOCK
from rlhf_theory.oracles import feedback_from
from rlhf_theory.policies import FunctionPolicy, ReferencePolicy, TablePolicy, uniform_log_probs
from rlhf_theory.randomness import Key
from rlhf_theory.worlds import linear
from tests.helpers.toy import ToyPrompts, toy_evaluate, toy_feedback

SMALL = {"contexts": 3, "actions": 4, "dim": 2}


@dataclass(frozen=True, eq=False)
class Counting:
    """An online learner that keeps what it saw; its state is (round, data)."""

    batch: int = 4
    second: int = 1
    seen: list = field(default_factory=list)

    def init(self, problem, data, key):
        self.seen.append(("init", key, problem.n_replicas, float(data.n_labels.sum())))
        return (0, data)

    def step(self, state, problem, feedback, key):
        t, data = state
        self.seen.append(("step", key, problem.n_replicas, t))
        x = problem.sample_contexts(key.child("x"), self.batch)
        shape = (problem.n_replicas, self.batch)
        a1, a2 = np.zeros(shape, dtype=np.int64), np.full(shape, self.second)
        data = data.add(x, a1, a2, feedback(x, a1, a2, key.child("labels")))
        return (t + 1, data), {"labels": data.n_labels}

    def policy(self, state):
        return ReferencePolicy() if state[0] % 2 == 0 else Uniform


Uniform = FunctionPolicy(lambda c: uniform_log_probs(c.log_pi0))


@dataclass(frozen=True, eq=False)
class Best:
    """An offline learner that returns a fixed policy and remembers its data."""

    policy: object = field(default_factory=ReferencePolicy)
    seen: list = field(default_factory=list)

    def __call__(self, problem, data, key):
        self.seen.append((key, data))
        return closed_form(self.policy, problem.n_replicas, problem.empty_data().count)


def test_rows_are_policies_and_reports_belong_to_the_policy_that_played():
    world = linear(**SMALL, replicas=3, reference="dirichlet")
    trace = run(Counting(), world, n_rounds=3, seed=1)
    assert trace["gap"].shape == (3, 4)
    reference, uniform = world.evaluate(ReferencePolicy()), world.evaluate(Uniform)
    for t in range(4):
        want = reference if t % 2 == 0 else uniform
        for name, value in want.items():
            np.testing.assert_allclose(trace[name][:, t], value, rtol=1e-12)
    np.testing.assert_array_equal(trace["labels"][:, :3], [[4, 8, 12]] * 3)
    assert np.isnan(trace["labels"][:, 3]).all()
    np.testing.assert_array_equal(trace.index, [0, 1, 2, 3])
    assert trace.index_name == "round"


def test_no_rounds_record_the_policy_before_any():
    trace = run(Counting(), linear(**SMALL, replicas=2), n_rounds=0)
    assert trace["gap"].shape == (2, 1)
    assert "labels" not in trace.arrays


def test_blocks_share_the_replicas_and_number_their_draws():
    learner, world = Counting(), linear(**SMALL, replicas=5)
    run(learner, world, n_rounds=1, seed=3, block=2)
    assert [(kind, r) for kind, _, r, _ in learner.seen] == [
        ("init", 2), ("step", 2), ("init", 2), ("step", 2), ("init", 1), ("step", 1),
    ]  # fmt: skip
    firsts = [key.first for _, key, _, _ in learner.seen]
    assert firsts == [0, 0, 2, 2, 4, 4]
    assert {key.seed for _, key, _, _ in learner.seen} == {3}
    paths = {key.path for kind, key, _, _ in learner.seen if kind == "step"}
    assert paths == {("round", 0)}
    assert BLOCK == 64


def test_the_block_size_does_not_change_what_a_replica_records():
    world = linear(**SMALL, replicas=5, instances="own")
    traces = [run(Counting(), world, n_rounds=2, seed=3, block=b, n_offline=9) for b in (1, 2, 64)]
    for name in ("gap", "labels"):
        for other in traces[1:]:
            np.testing.assert_allclose(other[name], traces[0][name], rtol=1e-10)


@pytest.mark.parametrize("instances", ["shared", "own"])
def test_parts_of_a_world_are_the_whole_run_to_the_bit(instances):
    world = linear(**SMALL, replicas=7, instances=instances)
    online, offline = OnlineIterative(batch_size=4), EnsembleMinimum(n_members=3)
    for learner, size in ((online, {"n_rounds": 2, "n_offline": 5}), (offline, {"n": [3, 9]})):
        whole = run(learner, world, seed=2, block=2, **size)
        for first, stop in ((0, 2), (4, 7)):
            part = run(
                learner, world.block(first, stop), seed=2, block=2, first_replica=first, **size
            )
            for name, rows in part.arrays.items():
                np.testing.assert_array_equal(rows, whole[name][first:stop], err_msg=name)


def test_offline_data_are_given_before_the_first_round():
    learner, world = Counting(), linear(**SMALL, replicas=2)
    run(learner, world, n_rounds=0, n_offline=40, seed=3)
    want = world.offline_data(Key(3).child("offline"), 40).n_labels.sum()
    assert learner.seen[0][3] == float(want)


def test_offline_runs_are_nested_with_one_column_per_number():
    learner, world = Best(), linear(**SMALL, replicas=3)
    trace = run(learner, world, n=[0, 10, 200], seed=2, behaviour=0.5)
    assert trace.index_name == "n"
    np.testing.assert_array_equal(trace.index, [0, 10, 200])
    assert trace["gap"].shape == (3, 3)
    assert set(trace.arrays) == {
        "gap", "jeffreys", "kl", "n_labels", "residual", "converged",
    }  # fmt: skip
    data = [d for _, d in learner.seen]
    assert data[0].n_labels.sum() == 0
    assert (data[1].count <= data[2].count).all()
    np.testing.assert_array_equal(trace["n_labels"][:, 1], data[1].n_labels)
    assert len({key.path for key, _ in learner.seen}) == 3


def test_a_behaviour_policy_of_all_replicas_is_cut_with_the_blocks():
    # Replica 3 of a policy with a row per replica must meet replica 3 of the world.
    world = linear(**SMALL, replicas=4, instances="own", reference="dirichlet")
    policies = [world.behaviour(0.7), TablePolicy(np.array(world.log_pi_star))]
    for behaviour in policies:
        whole = run(Best(), world, n=[50], seed=2, behaviour=behaviour)
        parts = run(Best(), world, n=[50], seed=2, behaviour=behaviour, block=2)
        np.testing.assert_array_equal(whole["n_labels"], parts["n_labels"])
    dial = run(Best(), world, n=[50], seed=2, behaviour=0.7, block=2)
    policy = run(Best(), world, n=[50], seed=2, behaviour=policies[0], block=2)
    np.testing.assert_array_equal(dial["n_labels"], policy["n_labels"])


def test_feedback_given_for_a_world_is_cut_with_the_blocks():
    world = linear(**SMALL, replicas=4, instances="own")
    given = run(
        Counting(), world, n_rounds=2, seed=1, block=2, feedback=feedback_from(world.oracle)
    )
    default = run(Counting(), world, n_rounds=2, seed=1, block=2)
    np.testing.assert_array_equal(given["gap"], default["gap"])


def test_a_bare_problem_runs_with_feedback_and_evaluation():
    problem = ToyPrompts(np.zeros(1))
    trace = run(
        Counting(second=0), problem, n_rounds=2, seed=1,
        feedback=all_first, evaluate=toy_evaluate(problem),
    )  # fmt: skip
    assert trace["gap"].shape == (1, 3)
    assert trace.settings["world"] == "ToyPrompts"


def all_first(contexts, a1, a2, key):
    return np.ones(a1.shape)


@dataclass(frozen=True, eq=False)
class Silent(Counting):
    """Plays nothing, so that absent actions are no concern."""

    def step(self, state, problem, feedback, key):
        self.seen.append(("step", key, problem.seed, state[0]))
        return (state[0] + 1, state[1]), {}


def test_between_makes_the_problem_of_every_round():
    learner, problem = Silent(), ToyPrompts(np.zeros(1))
    keys = []

    def between(problem, policy, key):
        keys.append(key)
        assert hasattr(policy, "log_probs")
        return ToyPrompts(np.zeros(1), seed=problem.seed + 1)

    run(
        learner, problem, n_rounds=3, seed=1, feedback=toy_feedback(np.zeros(1)),
        evaluate=toy_evaluate(problem), between=between,
    )  # fmt: skip
    assert [s[2] for s in learner.seen[1:]] == [1, 2, 3]
    assert len({k.path for k in keys}) == 3


def test_progress_is_told_after_every_round_and_fit():
    world, said = linear(**SMALL, replicas=2), []
    run(Counting(), world, n_rounds=2, advance=said.append)
    run(Best(), world, n=[3, 5], advance=said.append)
    assert said == ["round 1", "round 2", "n = 3", "n = 5"]


def test_settings_tell_what_was_run():
    world = linear(**SMALL, replicas=2, seed=9)
    settings = run(Counting(), world, n_rounds=0, seed=4, block=1).settings
    assert settings["world"]["name"] == "linear"
    assert settings["world"]["seed"] == 9
    assert settings["seed"] == 4
    assert settings["block"] == 1
    assert "Counting" in settings["learner"]


@pytest.mark.parametrize(
    ("learner", "options", "match"),
    [
        (Counting, {}, "Counting is an online learner: give n_rounds, and only that"),
        (Counting, {"n": [1]}, "give n_rounds"),
        (Counting, {"n": [1], "n_rounds": 1}, "give n_rounds"),
        (Best, {"n_rounds": 1}, "Best is an offline learner: give n, and only that"),
        (Counting, {"n_rounds": -1}, "n_rounds must be at least 0"),
        (Best, {"n": []}, "increasing numbers of pairs"),
        (Best, {"n": [5, 5]}, "increasing numbers of pairs"),
        (Best, {"n": [-1, 5]}, "increasing numbers of pairs"),
        (Counting, {"n_rounds": 1, "block": 0}, "block must be positive"),
        (Counting, {"n_rounds": 1, "n_offline": -1}, "n_offline must be at least 0"),
        (Counting, {"n_rounds": 1, "behaviour": 2.0}, r"coverage must lie in \[0, 1\]"),
        (Best, {"n": [1], "n_offline": 5}, "would ignore n_offline"),
        (Best, {"n": [1], "feedback": all_first}, "would ignore feedback"),
        (Best, {"n": [1], "between": all_first}, "would ignore between"),
        (Counting, {"n_rounds": 1, "data": 0}, "would ignore data"),
    ],
)
def test_options_that_cannot_work_raise(learner, options, match):
    with pytest.raises(ValueError, match=match):
        run(learner(), linear(**SMALL, replicas=2), **options)


class Shadow(Counting):
    """Reports under the name of a metric."""

    def step(self, state, problem, feedback, key):
        state, report = super().step(state, problem, feedback, key)
        return state, {"gap": report["labels"]}


@pytest.mark.parametrize("value", [1.0, np.zeros(()), np.zeros(2), np.zeros((3, 1))])
def test_a_round_reports_one_value_per_replica(value):
    class Odd(Counting):
        def step(self, state, problem, feedback, key):
            state, report = super().step(state, problem, feedback, key)
            return state, {**report, "mine": value}

    shape = re.escape(str(np.shape(value)))
    with pytest.raises(ShapeError, match=rf"'mine' with shape \(R,\) = \(3,\).*got {shape}"):
        run(Odd(), linear(**SMALL, replicas=3), n_rounds=1)


def test_a_report_cannot_replace_a_metric():
    with pytest.raises(ValueError, match="The learner reports 'gap'"):
        run(Shadow(), linear(**SMALL, replicas=2), n_rounds=1)


def test_a_bare_problem_needs_its_parts():
    problem = ToyPrompts(np.zeros(1))
    with pytest.raises(ValueError, match="needs `evaluate`, and `feedback`"):
        run(Counting(), problem, n_rounds=1)
    with pytest.raises(ValueError, match="would ignore behaviour"):
        run(Counting(), problem, n_rounds=1, behaviour=0.5)
    with pytest.raises(ValueError, match=r"learner\(problem, data, key\)"):
        run(Best(), problem, n=[1], data=problem.empty_data(), evaluate=toy_evaluate(problem))
