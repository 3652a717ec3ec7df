"""Cells and their keys."""

import hashlib
import json
import pickle
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlhf_theory as rt
from rlhf_theory.studies.cells import Cell
from rlhf_theory.study import Study


def cell(**changes):
    values = {
        "world": {"kind": "linear", "version": 1, "dim": 4, "eta": 0.1, "contexts": None},
        "learner": {
            "kind": "online-iterative",
            "version": 1,
            "enhancer": {"kind": "uniform", "version": 1},
        },
        "world_label": "easy",
        "learner_label": "GSHF",
        "family": "linear",
        "metric": "gap",
        "rounds": 20,
        "replicas": 100,
        "block": 64,
    }
    return Cell(**{**values, **changes})


def by_hand(value):
    """Write plain data canonically: an own recursion, not the `json` call of the package."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(by_hand, value)) + "]"
    return "{" + ",".join(f"{by_hand(k)}:{by_hand(value[k])}" for k in sorted(value)) + "}"


@pytest.mark.parametrize("pairs", [None, (10, 100)])
def test_the_key_is_a_hash_of_the_settings(pairs):
    one = cell(pairs=pairs, rounds=None if pairs else 20, metrics=("kl", "gap"), coverage=0.5)
    content = {
        "format": 3,
        "world": one.world,
        "learner": one.learner,
        "offline_pairs": 0,
        "coverage": 0.5,
        "seed": 0,
        "block": 64,
        "metrics": ["gap", "kl"],
        "grid": "log",
        "points": 20,
        **({"pairs": pairs} if pairs else {}),
    }
    assert one.key == hashlib.sha256(by_hand(content).encode()).hexdigest()[:20]


FREE = {
    "replicas": 101,
    "rounds": 21,
    "world_label": "x",
    "learner_label": "x",
    "family": "x",
    "metric": "kl",
    "at_once": 2,
}
BOUND = {
    "world": {"kind": "linear", "version": 1, "dim": 5, "eta": 0.1, "contexts": None},
    "learner": {"kind": "online-iterative", "version": 2, "enhancer": {"kind": "uniform"}},
    "offline_pairs": 1,
    "coverage": 0.25,
    "seed": 1,
    "block": 32,
    "metrics": ("gap",),
    "grid": "linear",
    "points": 10,
}


def test_the_key_depends_on_all_that_numbers_depend_on_and_on_nothing_else():
    one = cell()
    assert set(FREE) | set(BOUND) | {"pairs"} == {f.name for f in fields(Cell)}
    for name, value in FREE.items():
        assert replace(one, **{name: value}).key == one.key, name
    keys = {replace(one, **{name: value}).key for name, value in BOUND.items()}
    assert len(keys | {one.key}) == len(BOUND) + 1
    offline = cell(rounds=None, pairs=(10, 20))
    assert offline.key != replace(offline, pairs=(10, 30)).key


def test_neither_order_nor_repetition_of_metrics_is_in_the_key():
    one = cell(metrics=("gap", "kl"))
    assert {cell(metrics=m).key for m in (("kl", "gap"), ("gap", "kl", "gap"))} == {one.key}
    assert cell(metrics=("kl",)).key != one.key


settings = st.fixed_dictionaries(
    {
        "dim": st.integers(1, 4),
        "eta": st.sampled_from([0.1, 1, 1.0, 2]),
        "reference": st.sampled_from(["uniform", "dirichlet"]),
        "batch": st.integers(1, 3),
        "enhancer": st.sampled_from(["uniform", "on-policy"]),
        "beta": st.sampled_from([1, 1.0, 0.5]),
        "seed": st.integers(0, 2),
        "replicas": st.integers(1, 3),
        "rounds": st.integers(1, 3),
        "label": st.sampled_from(["a", "b"]),
    }
)


def key_of(s):
    study = Study(
        name=s["label"],
        worlds=[{"kind": "linear", "dim": s["dim"], "eta": s["eta"], "reference": s["reference"]}],
        learners=[
            {
                "kind": "online-iterative",
                "label": s["label"],
                "batch_size": s["batch"],
                "enhancer": s["enhancer"],
                "radius": {"kind": "constant", "beta": s["beta"]},
            }
        ],
        rounds=s["rounds"],
        replicas=s["replicas"],
        seed=s["seed"],
    )
    return study.cells()[0].key


@given(settings, settings)
def test_keys_are_equal_exactly_where_settings_are(a, b):
    """Python calls 1 and 1.0 equal, and so do keys, since both fields are floats."""
    free = {"replicas", "rounds", "label"}
    equal = all(a[k] == b[k] for k in a if k not in free)
    assert (key_of(a) == key_of(b)) == equal


def test_objects_tables_and_spelt_out_defaults_have_one_key():
    worlds = [{"kind": "linear", "dim": 8, "eta": 0.1}]
    ways = [
        rt.OnlineIterative(),
        "online-iterative",
        {"kind": "online-iterative", "batch_size": 32.0, "enhancer": "optimistic"},
        {"kind": "online-iterative", "radius": {"kind": "constant", "beta": 1}},
        {"kind": "online-iterative", "radius": {"lam": 1}},
        {"kind": rt.OnlineIterative, "enhancer": rt.enhancers.Optimistic()},
        {"kind": "rlhf_theory.algorithms.online_iterative:OnlineIterative"},
    ]
    keys = [Study(name="x", worlds=worlds, learners=[way], rounds=1).cells()[0].key for way in ways]
    # The last one has another name for the same thing, and no promise that it stays the same.
    assert len(set(keys[:-1])) == 1


def test_blocks_cover_the_replicas():
    assert cell(replicas=200).blocks() == [(0, 64), (64, 128), (128, 192), (192, 200)]
    assert cell(replicas=64).blocks() == [(0, 64)]
    # More replicas keep every block but a partial last one.
    assert cell(replicas=1000).blocks()[:3] == cell(replicas=200).blocks()[:3]


def test_settings_are_one_flat_table():
    flat = cell(offline_pairs=3).settings()
    assert flat["world.dim"] == 4
    assert flat["world.contexts"] is None
    assert flat["learner.enhancer.kind"] == "uniform"
    assert flat["learner.offline_pairs"] == 3
    assert flat["seed"] == 0
    assert not any("version" in name for name in flat)
    listed = cell(learner={"kind": "x", "powers": [1, 2], "parts": [{"kind": "a"}]}).settings()
    assert listed["learner.powers"] == "[1, 2]"
    assert listed["learner.parts[0].kind"] == "a"


@pytest.mark.parametrize("one", [cell(metrics=("gap",)), cell(rounds=None, pairs=(1, 2))])
def test_cells_survive_json_and_pickle(one):
    text = json.dumps(one.to_json(), allow_nan=False)
    assert Cell.from_json(json.loads(text)) == one
    assert pickle.loads(pickle.dumps(one)).key == one.key
    changed = {**json.loads(text), "seed": 5}
    with pytest.raises(ValueError, match="its settings give"):
        Cell.from_json(changed)


def test_a_cell_is_online_or_offline():
    assert cell().online
    assert not cell(rounds=None, pairs=(1,)).online
    for both in ({"pairs": (1,)}, {"rounds": None}):
        with pytest.raises(ValueError, match="one of the two"):
            cell(**both)
