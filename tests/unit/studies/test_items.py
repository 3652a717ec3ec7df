"""Entries of a study together: which learner runs where, what is twice, and how many there are."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlhf_theory as rt
from rlhf_theory.studies.checks import MOST_CELLS
from rlhf_theory.studies.findings import ALL_WORLDS
from rlhf_theory.studies.grids import Variant
from rlhf_theory.studies.items import LearnerItem, WorldItem, count_pairs, pairs_of
from rlhf_theory.studies.messages import StudyError
from rlhf_theory.studies.running import chosen_cells
from rlhf_theory.study import Study


def world(label):
    return WorldItem(("world", 0), Variant({}), label, "linear", "gap", {}, ("gap",))


def learner(patterns):
    return LearnerItem(("learner", 0), Variant({}), "x", {}, 0, 0.0, patterns, True)


words = st.text("ab[]!*?-", min_size=1, max_size=5)
patterns = st.none() | st.lists(words, min_size=1, max_size=3).map(tuple)


@given(st.lists(words, max_size=4, unique=True), st.lists(patterns, max_size=4))
def test_patterns_are_those_of_files_and_every_label_means_itself(labels, some):
    """Compared with one call of `fnmatch.fnmatchcase` per world, learner and pattern."""
    worlds, learners, told = [world(n) for n in labels], [learner(p) for p in some], []
    pairs = pairs_of(worlds, learners, lambda path, text: told.append(text))
    expected = [
        (w, le)
        for w in worlds
        for le in learners
        if le.worlds is None
        or any(w.label == p or fnmatch.fnmatchcase(w.label, p) for p in le.worlds)
    ]
    assert [(id(w), id(le)) for w, le in pairs] == [(id(w), id(le)) for w, le in expected]
    assert count_pairs(worlds, learners) == len(pairs)
    lost = [
        p
        for le in learners
        for p in le.worlds or ()
        if worlds and not any(n == p or fnmatch.fnmatchcase(n, p) for n in labels)
    ]
    assert len(told) == len(lost)


def test_a_label_with_brackets_can_be_named():
    study = Study(
        name="x",
        worlds=[{"kind": "linear", "label": "w [x]"}, {"kind": "linear", "dim": 3, "label": "w y"}],
        learners=[
            {"kind": "nash-game", "label": "n*[1]", "worlds": "w [x]"},
            {"kind": "online-iterative", "label": "o"},
        ],
        rounds=1,
    )
    pairs = [(c.world_label, c.learner_label) for c in study.cells()]
    assert pairs == [("w [x]", "n*[1]"), ("w [x]", "o"), ("w y", "o")]
    for pattern, count in {"w [x]": 2, "n*[1]": 1, "w [x]/n*[1]": 1, "w*": 3, "o": 2}.items():
        assert len(chosen_cells(study, [pattern])) == count, pattern


def mistakes(**data):
    with pytest.raises(StudyError) as caught:
        Study(**{"name": "x", "rounds": 1, **data})
    return str(caught.value).splitlines()


def test_one_cell_twice_is_refused_with_both_places():
    twins = [
        {"kind": "online-iterative", "label": "a", "worlds": "linear*"},
        {"kind": "nash-game"},
        {"kind": "online-iterative", "label": "b", "worlds": ["linear dim=4"]},
    ]
    worlds = {"kind": "linear", "dim": {"grid": [2, 4]}}
    assert mistakes(world=[worlds], learner=twins) == [
        "learner[2]: 'b' is the same as 'a' (learner[0]), and both run in 'linear dim=4'; give "
        "each `worlds` of its own, or leave one out."
    ]
    # Apart from one another they are two cells, and so they are with other data.
    twins[0]["worlds"] = "linear dim=2"
    apart = Study(name="x", world=[worlds], learner=twins, rounds=1).cells()
    assert len({c.key for c in apart}) == len(apart) == 4
    twins[0] |= {"worlds": "linear*", "offline_pairs": 5}
    cells = Study(name="x", world=[worlds], learner=twins, rounds=1).cells()
    assert len({c.key for c in cells}) == len(cells) == 5


@pytest.mark.parametrize("key", ["worlds", "world"])
def test_no_family_may_have_the_name_of_the_scores_over_all_worlds(key):
    lines = mistakes(**{key: [{"kind": "linear", "family": ALL_WORLDS}]}, learner="nash-game")
    assert lines == [
        f'{key}[0].family: "{ALL_WORLDS}" stands for every world in the scores; choose another '
        "name."
    ]


def test_a_study_of_too_many_cells_is_one_mistake_with_its_numbers():
    sizes = {"kind": "online-iterative", "batch_size": {"grid": list(range(1, 41))}}
    worlds = [{"kind": "linear", "contexts": 2, "dim": {"grid": [2, 3]}}, "tie-cycle"]
    data = {"worlds": worlds, "learners": [sizes], "replicas": 1, "block": {"grid": [1, 2]}}
    most = MOST_CELLS // (3 * 40 * 2)
    with pytest.raises(StudyError) as caught:
        Study(name="x", rounds=1, seed={"grid": list(range(most + 1))}, **data)
    assert str(caught.value) == (
        f"The study has {(most + 1) * 240} cells, at most 100000 are allowed: it has 3 worlds, 40 "
        f"learners, seeds: {most + 1}, sizes of blocks: 2. Make its grids smaller, or several "
        "studies of it."
    )
    # Learners that run in fewer worlds count there alone.
    fewer = {**data, "learners": [{**sizes, "worlds": "linear*"}]}
    study = Study(name="x", rounds=1, seed={"grid": list(range(most + 1))}, **fewer)
    assert len(study.seed) * 160 == (most + 1) * 2 * 40 * 2 <= MOST_CELLS


def test_metrics_of_mixed_worlds_may_be_named_together_and_without_that_of_a_world():
    data = {"worlds": ["linear", "tie-cycle"], "learners": ["nash-game"]}
    for names in (["gap", "exploitability", "kl"], ["kl"], ["labels"], ["kl", "kl"]):
        study = Study(name="x", rounds=1, record={"metrics": names}, **data)
        assert {c.metric for c in study.cells()} == {"gap", "exploitability"}
    lines = mistakes(record={"metrics": ["gap", "n_labels"]}, **data)
    assert len(lines) == 1
    assert lines[0].startswith('record.metrics[1]: "n_labels" is not here')


def test_a_pairless_world_changes_nothing():
    study = Study(
        name="x",
        worlds=["linear", "tie-cycle"],
        learners=[{"kind": rt.OnlineIterative(batch_size=2), "worlds": "linear"}],
        rounds=1,
    )
    assert [c.world_label for c in study.cells()] == ["linear"]
