import numpy as np
import pytest

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Part
from rlhf_theory.theorems.sweeps import block_of, linear_world, nested_data, replica_parts
from rlhf_theory.worlds import linear

SWEEP = {"contexts": 3, "actions": 4, "dim": 2, "instance": 5, "replicas": 5, "block": 2}


def test_a_world_follows_the_sweep_unless_told_otherwise():
    world = linear_world(SWEEP, eta=0.3)
    other = linear(contexts=3, actions=4, dim=2, seed=5, replicas=5, eta=0.3)
    assert world.settings == other.settings
    assert np.array_equal(world.problem.phi, other.problem.phi)
    small = linear_world(SWEEP, 1, contexts=2)
    assert small.n_replicas == 1
    assert small.problem.phi.shape[1] == 2


def test_parts_are_the_blocks_of_every_cell_in_order():
    parts = replica_parts(SWEEP, [{"norm": 0.1}, {"norm": 1.0}])
    found = [(p.settings["norm"], p.settings["first"], p.settings["stop"]) for p in parts]
    blocks = [(0, 2), (2, 4), (4, 5)]
    assert found == [(norm, *block) for norm in (0.1, 1.0) for block in blocks]


@pytest.mark.parametrize(
    ("replicas", "last"), [(4, [(0, 2), (2, 4)]), (1, [(0, 1)]), (2, [(0, 2)])]
)
def test_blocks_of_another_number_of_replicas(replicas, last):
    parts = replica_parts(SWEEP, replicas=replicas)
    assert [tuple(p.settings.values()) for p in parts] == last


def test_a_part_has_its_replicas_of_the_world_and_of_the_draws():
    world = linear_world(SWEEP, instances="own")
    key = Key(7).child("a")
    everything = key.uniform_numpy(5, 3)
    for part in replica_parts(SWEEP):
        first, some, own = block_of(part, world, key)
        rows = slice(first, part.settings["stop"])
        assert np.array_equal(some.theta_star, world.theta_star[rows])
        assert np.array_equal(own.uniform_numpy(some.n_replicas, 3), everything[rows])


def test_the_label_says_cell_and_replicas():
    assert Part().label == "all"
    assert Part({"norm": 0.1, "first": 0, "stop": 64}).label == "norm 0.1, replicas 0-63"
    assert Part({"setting": "", "pairs": 2}).label == "setting, pairs 2"


def test_data_are_nested_and_each_size_has_draws_of_its_own():
    world = linear_world(SWEEP, 3)
    key = Key(1)
    steps = list(nested_data(world, [4, 10, 400], key))
    assert [n for n, _ in steps] == [4, 10, 400]
    before = np.zeros_like(steps[-1][1].count)
    for n, data in steps:
        # A pair of one action twice needs no label.
        assert (data.n_labels <= n).all()
        count = np.zeros_like(before)
        count[:, : data.count.shape[1]] = data.count
        assert (count >= before).all()
        before = count
    # The first pairs do not depend on what follows.
    alone = next(nested_data(world, [4], key))[1]
    assert np.array_equal(alone.wins, steps[0][1].wins)
    assert np.array_equal(alone.count, steps[0][1].count)
