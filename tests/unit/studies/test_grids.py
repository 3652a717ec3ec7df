"""Grids in entries."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from rlhf_theory.studies.grids import LARGEST, check_grids, expand, is_grid, label_of


def mistakes_in(value):
    found = []
    count = check_grids(value, lambda path, text: found.append((path, text)))
    return count, found


def test_grids_multiply_and_the_last_varies_fastest():
    entry = {"a": {"grid": [1, 2]}, "b": "x", "c": {"d": [{"grid": ["u", "v", "w"]}]}}
    variants = list(expand(entry))
    assert [(v.value["a"], v.value["c"]["d"][0]) for v in variants] == list(
        itertools.product([1, 2], "uvw")
    )
    assert variants[-1].varied == {("a",): 2, ("c", "d", 0): "w"}
    assert variants[-1].place(("c", "d", 0)) == ("c", "d", 0, "grid", 2)
    assert variants[-1].place(("c", "x")) == ("c", "x")
    assert mistakes_in(entry) == (6, [])


def test_a_grid_of_parts_may_hold_grids():
    entry = {
        "radius": {"grid": ["marginal-likelihood", {"kind": "constant", "beta": {"grid": [1, 2]}}]}
    }
    variants = list(expand(entry))
    assert [v.value["radius"] for v in variants] == [
        "marginal-likelihood",
        {"kind": "constant", "beta": 1},
        {"kind": "constant", "beta": 2},
    ]
    # A mistake in the last beta is shown where it stands in the file.
    assert variants[2].place(("radius", "beta")) == ("radius", "grid", 1, "beta", "grid", 1)
    assert mistakes_in(entry) == (3, [])
    assert label_of("x", variants[2].varied) == "x radius=constant(beta=2)"


def test_labels_use_the_shortest_name_that_is_unique():
    varied = {("radius", "lam"): 1.0, ("planner", "lam"): 2, ("dim",): 4, ("f", "on"): True}
    assert label_of("l", varied) == "l radius.lam=1.0 planner.lam=2 dim=4 on=true"


def test_grids_that_are_none_are_reported():
    count, found = mistakes_in(
        {
            "a": {"grid": []},
            "b": {"grid": 3},
            "c": {"grid": [1], "kind": "x"},
            "d": {"grid": [1, 1]},
        }
    )
    assert count == 2
    assert [path for path, _ in found] == [("a", "grid"), ("b", "grid"), ("c",), ("d", "grid", 1)]
    assert "at least one value; got 3" in found[1][1]
    assert "stands alone" in found[2][1]
    assert "twice" in found[3][1]


def test_values_that_are_there_twice_are_found_at_their_second_place():
    # Values as JSON has them, so that 1 and 1.0 are two.
    values = [1, "1", 1.0, True, [1], {"a": 1}, {"a": 1}, "1", [1], 2, 2]
    texts = [json.dumps(value) for value in values]
    again = [("grid", i) for i, text in enumerate(texts) if text in texts[:i]]
    assert [path for path, _ in mistakes_in({"grid": values})[1]] == again
    assert len(again) == 4


def test_a_grid_of_too_many_values_is_only_counted():
    class Unseen:
        def __repr__(self):
            raise AssertionError

    entry = {"a": {"grid": [1, 2]}, "b": {"grid": [Unseen()] * (LARGEST + 1)}}
    assert mistakes_in(entry) == (2 * (LARGEST + 1), [])


leaf = st.integers() | st.text(max_size=3) | st.booleans()
tree = st.recursive(
    leaf,
    lambda inner: (
        st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
        | st.lists(inner, max_size=2)
        | st.lists(inner, min_size=1, max_size=2).map(lambda values: {"grid": values})
    ),
    max_leaves=8,
)


def has_grid(value):
    if is_grid(value):
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(has_grid, inner))


def at(value, path):
    for part in path:
        value = value[part]
    return value


@given(tree)
def test_entries_without_grids_are_counted_and_come_from_where_they_say(value):
    variants = list(expand(value))
    count, _ = mistakes_in(value)
    assert len(variants) == count
    for variant in variants:
        assert not has_grid(variant.value)
        for path, new in variant.varied.items():
            assert at(variant.value, path) == new
            written = at(value, variant.place(path))
            assert has_grid(written) or written == new
    if not has_grid(value):
        assert variants[0].value == value
        assert not variants[0].varied
