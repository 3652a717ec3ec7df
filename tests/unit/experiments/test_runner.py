import re
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from rlhf_theory.algorithms import EnsembleMinimum, OnlineIterative
from rlhf_theory.core import closed_form
from rlhf_theory.data import PairQuery
from rlhf_theory.errors import ShapeError
from rlhf_theory.experiments import run
from rlhf_theory.experiments.runner import BLOCK
from rlhf_theory.oracles import BradleyTerry
from rlhf_theory.policies import FunctionPolicy, ReferencePolicy, TablePolicy, uniform_log_probs
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.worlds import linear
from tests.helpers.toy import ToyPrompts, toy_world

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
        data = data.add(feedback(PairQuery(x, a1, a2), key.child("labels")))
        return (t + 1, data), {"mine": data.n_labels}

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
    trace = run(Counting(), world, rounds=3, seed=1)
    assert trace["gap"].shape == (3, 4)
    reference, uniform = world.evaluate(ReferencePolicy()), world.evaluate(Uniform)
    for t in range(4):
        want = reference if t % 2 == 0 else uniform
        for name, value in want.items():
            np.testing.assert_allclose(trace[name][:, t], value, rtol=1e-12)
    np.testing.assert_array_equal(trace["mine"][:, :3], [[4, 8, 12]] * 3)
    assert np.isnan(trace["mine"][:, 3]).all()
    # Labels are those that the policy of the row has used.
    np.testing.assert_array_equal(trace["labels"], [[0, 4, 8, 12]] * 3)
    np.testing.assert_array_equal(trace.index, [0, 1, 2, 3])
    assert trace.index_name == "round"


def test_no_rounds_record_the_policy_before_any():
    trace = run(Counting(), linear(**SMALL, replicas=2), rounds=0)
    assert trace["gap"].shape == (2, 1)
    np.testing.assert_array_equal(trace["labels"], [[0], [0]])
    assert "mine" not in trace.arrays


def test_blocks_share_the_replicas_and_number_their_draws():
    learner, world = Counting(), linear(**SMALL, replicas=5)
    run(learner, world, rounds=1, seed=3, block=2)
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
    traces = [
        run(Counting(), world, rounds=2, seed=3, block=b, offline_pairs=9) for b in (1, 2, 64)
    ]
    for name in ("gap", "labels"):
        for other in traces[1:]:
            np.testing.assert_allclose(other[name], traces[0][name], rtol=1e-10)


@pytest.mark.parametrize("instances", ["shared", "own"])
def test_parts_of_a_world_are_the_whole_run_to_the_bit(instances):
    world = linear(**SMALL, replicas=7, instances=instances)
    online, offline = OnlineIterative(batch_size=4), EnsembleMinimum(n_members=3)
    for learner, size in (
        (online, {"rounds": 2, "offline_pairs": 5}),
        (offline, {"pairs": [3, 9]}),
    ):
        whole = run(learner, world, seed=2, block=2, **size)
        for first, stop in ((0, 2), (4, 7)):
            part = run(
                learner, world.block(first, stop), seed=2, block=2, first_replica=first, **size
            )
            for name, rows in part.arrays.items():
                np.testing.assert_array_equal(rows, whole[name][first:stop], err_msg=name)


def test_offline_data_are_given_before_the_first_round():
    learner, world = Counting(), linear(**SMALL, replicas=2)
    trace = run(learner, world, rounds=1, offline_pairs=40, seed=3)
    want = world.offline_data(Key(3).child("offline"), 40).n_labels
    assert learner.seen[0][3] == float(want.sum())
    np.testing.assert_array_equal(trace["labels"], np.stack([want, want + 4], axis=1))


def test_offline_runs_are_nested_with_one_column_per_number():
    learner, world = Best(), linear(**SMALL, replicas=3)
    trace = run(learner, replace(world, behaviour=0.5), pairs=[0, 10, 200], seed=2)
    assert trace.index_name == "pairs"
    np.testing.assert_array_equal(trace.index, [0, 10, 200])
    assert trace["gap"].shape == (3, 3)
    assert set(trace.arrays) == {
        "gap", "jeffreys", "kl", "labels", "residual", "converged",
    }  # fmt: skip
    data = [d for _, d in learner.seen]
    assert data[0].n_labels.sum() == 0
    assert (data[1].count <= data[2].count).all()
    np.testing.assert_array_equal(trace["labels"][:, 1], data[1].n_labels)
    assert len({key.path for key, _ in learner.seen}) == 3


def test_a_behaviour_policy_of_all_replicas_is_cut_with_the_blocks():
    # Replica 3 of a policy with a row per replica must meet replica 3 of the world.
    world = linear(**SMALL, replicas=4, instances="own", reference="dirichlet")
    policies = [world.covering(0.7), TablePolicy(np.array(world.log_pi_star))]
    for behaviour in policies:
        here = replace(world, behaviour=behaviour)
        whole = run(Best(), here, pairs=[50], seed=2)
        parts = run(Best(), here, pairs=[50], seed=2, block=2)
        np.testing.assert_array_equal(whole["labels"], parts["labels"])
    dial = run(Best(), replace(world, behaviour=0.7), pairs=[50], seed=2, block=2)
    policy = run(Best(), replace(world, behaviour=policies[0]), pairs=[50], seed=2, block=2)
    np.testing.assert_array_equal(dial["labels"], policy["labels"])


@dataclass(frozen=True, eq=False)
class TwoQuestions(Counting):
    """Asks twice a round, the second time about equal actions, which is no label."""

    def step(self, state, problem, feedback, key):
        state, report = super().step(state, problem, feedback, key)
        x = problem.sample_contexts(key.child("more"), 5)
        same = np.zeros((problem.n_replicas, 5), dtype=np.int64)
        other = same + np.arange(5) // 3
        feedback(PairQuery(x, same, other), key.child("more labels"))
        return state, report


def test_the_runner_counts_the_labels_of_every_question():
    # Learners do not say how many: two questions a round, and what is not added to data counts.
    trace = run(TwoQuestions(), linear(**SMALL, replicas=2), rounds=2)
    np.testing.assert_array_equal(trace["labels"], [[0, 6, 12]] * 2)
    np.testing.assert_array_equal(trace["mine"][:, 1], [8, 8])


def test_a_world_of_prompts_runs():
    trace = run(
        Counting(second=0), toy_world(ToyPrompts(np.zeros(1)), feedback=all_first), rounds=2
    )
    assert trace["gap"].shape == (1, 3)
    assert trace.settings["world"] == {"name": "assembled"}


def all_first(query, key):
    return query.answered(np.ones(query.a1.shape))


@dataclass(frozen=True, eq=False)
class Silent(Counting):
    """Plays nothing, so that absent actions are no concern."""

    def step(self, state, problem, feedback, key):
        self.seen.append(("step", key, problem.seed, state[0]))
        return (state[0] + 1, state[1]), {}


def test_the_world_of_the_next_round_is_asked_for_before_every_round():
    learner, keys = Silent(), []

    def change(problem, policy, key):
        keys.append(key)
        assert hasattr(policy, "log_probs")
        return ToyPrompts(np.zeros(1), seed=problem.seed + 1)

    run(learner, toy_world(ToyPrompts(np.zeros(1)), change=change), rounds=3, seed=1)
    assert [s[2] for s in learner.seen[1:]] == [1, 2, 3]
    assert [k.path for k in keys] == [("round", t, "between") for t in range(3)]


@dataclass(frozen=True, eq=False)
class Drifting:
    """A bandit whose reward turns by a draw per replica before every round."""

    world: object
    turns: object = None

    def __getattr__(self, name):
        return getattr(object.__getattribute__(self, "world"), name)

    def block(self, first, stop):
        return Drifting(self.world.block(first, stop))

    def next(self, policy, key):
        r = self.world.n_replicas
        turn = key.uniform(r, 1, like=self.world.theta_star)
        theta = self.world.theta_star + turn
        reward = LinearReward(theta)
        oracle = BradleyTerry(reward)
        return Drifting(replace(self.world, reward=reward, oracle=oracle, theta_star=theta))


@pytest.mark.parametrize("block", [1, 2, 64])
def test_every_policy_is_judged_in_the_world_in_which_it_is_played(block):
    # Drift tells the worlds apart: row t is of world t, the last of the world of the last round.
    start = linear(**SMALL, replicas=3, instances="own", reference="dirichlet")
    trace = run(Counting(), Drifting(start), rounds=3, seed=5, block=block)
    world, want = Drifting(start), []
    for t in range(3):
        policy = ReferencePolicy() if t % 2 == 0 else Uniform
        world = world.next(policy, Key(5).child("round", t, "between"))
        want.append(world.evaluate(policy)["gap"])
    want.append(world.evaluate(Uniform)["gap"])
    np.testing.assert_allclose(trace["gap"], np.stack(want, axis=1), rtol=1e-12)
    # A runner that judged before the change, or the last policy in another world, would differ.
    assert np.abs(np.diff(trace["gap"], axis=1)).min() > 1e-6


def test_progress_is_told_after_every_round_and_fit():
    world, said = linear(**SMALL, replicas=2), []
    run(Counting(), world, rounds=2, advance=said.append)
    run(Best(), world, pairs=[3, 5], advance=said.append)
    assert said == ["round 1", "round 2", "3 pairs", "5 pairs"]


def test_settings_tell_what_was_run():
    world = linear(**SMALL, replicas=2, seed=9)
    settings = run(Counting(), world, rounds=0, seed=4, block=1).settings
    assert settings["world"]["name"] == "linear"
    assert settings["world"]["seed"] == 9
    assert settings["seed"] == 4
    assert settings["block"] == 1
    assert "Counting" in settings["learner"]


@pytest.mark.parametrize(
    ("learner", "options", "match"),
    [
        (Counting, {}, "Counting is an online learner: give rounds"),
        (Counting, {"pairs": [1]}, "give rounds"),
        (Counting, {"pairs": [1], "rounds": 1}, "give rounds"),
        (Best, {"rounds": 1}, "Best is an offline learner: give pairs"),
        (Counting, {"rounds": -1}, "rounds must be finite and at least 0"),
        (Best, {"pairs": []}, "increasing numbers of pairs"),
        (Best, {"pairs": [5, 5]}, "increasing numbers of pairs"),
        (Best, {"pairs": [-1, 5]}, "increasing numbers of pairs"),
        (Counting, {"rounds": 1, "block": 0}, "block must be positive"),
        (
            Counting,
            {"rounds": 1, "offline_pairs": -1},
            "offline_pairs must be finite and at least 0",
        ),
        (Best, {"pairs": [1], "offline_pairs": 5}, "Best is an offline learner: give pairs"),
        (Best, {"pairs": [1], "rounds": 2}, "Best is an offline learner: give pairs"),
    ],
)
def test_options_that_cannot_work_raise(learner, options, match):
    with pytest.raises(ValueError, match=match):
        run(learner(), linear(**SMALL, replicas=2), **options)


@dataclass(frozen=True, eq=False)
class Shadow(Counting):
    """Reports under a name that is taken."""

    name: str = "gap"

    def step(self, state, problem, feedback, key):
        state, report = super().step(state, problem, feedback, key)
        return state, {self.name: report["mine"]}


@pytest.mark.parametrize("value", [1.0, np.zeros(()), np.zeros(2), np.zeros((3, 1))])
def test_a_round_reports_one_value_per_replica(value):
    class Odd(Counting):
        def step(self, state, problem, feedback, key):
            state, report = super().step(state, problem, feedback, key)
            return state, {**report, "mine": value}

    shape = re.escape(str(np.shape(value)))
    with pytest.raises(ShapeError, match=rf"'mine' with shape \(R,\) = \(3,\).*got {shape}"):
        run(Odd(), linear(**SMALL, replicas=3), rounds=1)


def test_a_report_cannot_replace_a_metric():
    for name in ("gap", "labels"):
        with pytest.raises(ValueError, match=f"The learner reports {name!r}"):
            run(Shadow(name=name), linear(**SMALL, replicas=2), rounds=1)
