"""Studies: checked as a whole, all mistakes at once."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlhf_theory as rt
from rlhf_theory.estimators.confidence import Adaptive, Scaled
from rlhf_theory.register import found
from rlhf_theory.studies.messages import StudyError
from rlhf_theory.studies.parts import RunOptions
from rlhf_theory.studies.plot_specs import PlotSpec
from rlhf_theory.study import Study

BOTH = {
    "worlds": [{"kind": "linear", "dim": {"grid": [2, 4]}}],
    "learners": [rt.OnlineIterative(batch_size=8), {"kind": "offline-greedy"}],
    "rounds": 10,
    "pairs": [10, 100],
    "replicas": 8,
}


def mistakes(**data):
    with pytest.raises(StudyError) as caught:
        Study(**{"name": "x", **data})
    return str(caught.value).splitlines()


def test_a_study_of_objects_and_names():
    study = Study(name="first", **BOTH)
    cells = study.cells()
    assert [(c.world_label, c.learner_label) for c in cells] == [
        ("linear dim=2", "online-iterative"),
        ("linear dim=2", "offline-greedy"),
        ("linear dim=4", "online-iterative"),
        ("linear dim=4", "offline-greedy"),
    ]
    assert [(c.rounds, c.pairs) for c in cells[:2]] == [(10, None), (None, (10, 100))]
    assert cells[0].learner["batch_size"] == 8
    assert cells[2].world["dim"] == 4
    assert {c.metric for c in cells} == {"gap"}
    assert study.origins["rounds"] == "python"
    assert study.origins["worlds[0].dim.grid[1]"] == "python"
    assert study.origins["worlds[0].eta"] == "default"
    assert study.origins["block"] == "default"


def test_a_resolved_study_is_plain_and_has_the_same_cells():
    study = Study(name="first", seed={"grid": [0, 1]}, **BOTH)
    stored = json.loads(json.dumps(study.resolved(), allow_nan=False))
    assert Study(**stored).cells() == study.cells()
    assert Study.model_validate(stored).cells() == study.cells()
    assert Study.from_resolved(stored).cells() == study.cells()
    assert pickle.loads(pickle.dumps(study)).cells() == study.cells()


def test_results_can_be_read_where_a_learner_is_not_installed_any_more():
    stored = Study(name="first", **BOTH).resolved()
    stored["learners"][0] |= {"kind": "gone_package:Learner", "version": 9}
    study = Study.from_resolved(stored)
    assert study.cells()[0].learner["kind"] == "gone_package:Learner"
    with pytest.raises(StudyError, match="cannot be loaded"):
        study.changed({"replicas": 16})


def test_seeds_and_blocks_may_be_grids_and_join_the_labels():
    study = Study(
        name="x", worlds="linear", learners="offline-greedy", pairs=[5], seed={"grid": [3, 7]}
    )
    assert [(c.world_label, c.seed) for c in study.cells()] == [
        ("linear seed=3", 3),
        ("linear seed=7", 7),
    ]
    assert len({c.key for c in study.cells()}) == 2


def test_changes_are_checked_and_keep_their_origin():
    study = Study(name="first", **BOTH).changed({"replicas": 16}, origin="extend")
    assert study.replicas == 16
    assert study.origins["replicas"] == "extend"
    assert study.origins["rounds"] == "python"
    with pytest.raises(StudyError, match="replicas: must be at least 1; got 0"):
        study.changed({"replicas": 0})


def test_learners_run_where_their_patterns_say():
    study = Study(
        name="x",
        worlds=[{"kind": "linear", "label": "easy"}, {"kind": "tie-cycle"}, "annotator-cycle"],
        learners={
            "greedy": {"kind": "offline-greedy", "worlds": "easy"},
            "nash": {"kind": "offline-pessimistic-nash", "worlds": ["*-cycle"]},
        },
        pairs=[5],
    )
    assert [(c.world_label, c.learner_label, c.metric) for c in study.cells()] == [
        ("easy", "greedy", "gap"),
        ("tie-cycle", "nash", "exploitability"),
        ("annotator-cycle", "nash", "exploitability"),
    ]


def test_offline_keys_do_not_depend_on_the_grid_of_rounds():
    one, other = (
        Study(name="x", record={"grid": grid}, **BOTH).cells() for grid in ("log", "linear")
    )
    assert one[1].key == other[1].key
    assert one[0].key != other[0].key
    assert (other[0].grid, other[0].points) == ("linear", 1)
    assert (one[0].grid, one[0].points) == ("log", 20)


def test_all_mistakes_come_at_once_in_the_order_of_the_study():
    lines = mistakes(
        titel="t",
        replicas=0,
        rounds={"grid": [1, 2]},
        record={"grid": "lgo", "pionts": 3},
        run={"jobs": 0, "backend": "dsk"},
        world=[
            {"kind": "linear", "dim": {"grid": [0, 4]}, "label": ""},
            {"kind": "linaer"},
            {"kind": "linear", "metric": "gpa", "reference": "peakd"},
            {"dim": 3},
        ],
        learner=[
            {
                "kind": "online-iterative",
                "offline_pairs": -1,
                "radius": {"kind": "scaled", "multiplier": "x", "rule": {"kind": "r9"}},
                "enhancer": {"kind": "optimistic", "fomr": "free"},
                "batch_size": True,
            }
        ],
        plot=[{"kind": "suboptimalty"}],
    )
    expected = [
        "titel: unknown key; allowed are 'format', .* Did you mean 'title'",
        r"replicas: must be at least 1; got 0\.",
        "rounds: cannot be a grid",
        "record.grid: must be 'log', 'linear' or 'all'; got \"lgo\". Did you mean 'log'",
        "record.pionts: unknown key; .* Did you mean 'points'",
        r"run.jobs: must be at least 1; got 0\.",
        "run.backend: must be .*Did you mean 'dask'",
        "world[0].label: must have at least 1 characters",
        r"world[0].dim.grid[0]: dim must be at least 1; got 0\.",
        "world[1].kind: unknown world 'linaer'; choose from .*Did you mean 'linear'",
        'world[2].reference: must be "uniform", "dirichlet" or "peaked"; got "peakd". '
        "Did you mean 'peaked'",
        "world[3].kind: is missing; choose from 'annotator-cycle'",
        "learner[0].offline_pairs: must be at least 0; got -1",
        "learner[0].enhancer.fomr: .*it has 'form', .*Did you mean 'form'",
        "learner[0].radius.rule.kind: unknown radius 'r9'; choose from 'adaptive'",
        'learner[0].radius.multiplier: must be a number; got "x"',
        "learner[0].batch_size: must be a whole number; got true",
        "plot[0].kind: must be 'frontier', .*Did you mean 'suboptimality'",
    ]
    text = "\n".join(lines)
    for pattern in expected:
        start, _, rest = pattern.partition(": ")
        found = [line for line in lines if line.startswith(f"{start}: ")]
        assert len(found) == 1, (start, text)
        for part in rest.replace("\\.", ".").split(".*"):
            assert part in found[0], (part, found[0])
    assert len(lines) == len(expected), text
    order = [line.partition(":")[0].partition("[")[0].partition(".")[0] for line in lines]
    assert order == sorted(order, key=list(dict.fromkeys(order)).index)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"rounds": None}, "rounds: is missing: 'online-iterative' is an online learner"),
        ({"pairs": None}, "pairs: is missing: 'offline-greedy' is an offline learner"),
        ({"pairs": [10, 5]}, "pairs: must increase; got [10, 5]"),
        ({"pairs": []}, "pairs: must have at least 1 entries"),
        (
            {"learners": ["offline-greedy"]},
            "rounds: is for online learners, and the study has none",
        ),
        ({"learners": ["nash-game"]}, "pairs: is for offline learners, and the study has none"),
        ({"learners": []}, "learners: is missing: a study needs at least one learner"),
        ({"worlds": []}, "worlds: is missing: a study needs at least one world"),
        ({"worlds": ["linear", "linear"]}, "worlds[1].label: label 'linear' is taken"),
        (
            {"worlds": ["linear", {"kind": "linear", "label": "b", "dim": 8}]},
            "worlds[1]: 'b' is the same as 'linear' in all but its label",
        ),
        (
            {"worlds": [{"kind": "linear", "replicas": 3}]},
            "worlds[0].replicas: replicas of a world",
        ),
        (
            {"worlds": [rt.worlds.linear(replicas=1)]},
            "worlds[0].kind: a World cannot be written down",
        ),
        ({"worlds": [{"kind": "linear", "dim": {"grid": [1, 2], "x": 1}}]}, "stands alone"),
        ({"worlds": [{"kind": "linear", "eta": float("nan")}]}, "worlds[0].eta: must be finite"),
        ({"worlds": [{"kind": "linear", "eta": np.zeros(2)}]}, "worlds[0].eta: must be plain data"),
        (
            {"worlds": [{"kind": "linear", "metric": "exploitability"}]},
            "worlds[0].metric: must be one of 'gap', 'jeffreys', 'kl'; got \"exploitability\"",
        ),
        (
            {"learners": ["nash-game", {"kind": "offline-greedy", "offline_pairs": 5}]},
            "learners[1].offline_pairs: is for online learners",
        ),
        (
            {"learners": ["offline-greedy", {"kind": "nash-game", "coverage": 0.5}]},
            "learners[1].coverage: is the law of offline pairs, and this online learner has none",
        ),
        (
            {"learners": ["offline-greedy", {"kind": "nash-game", "worlds": ["easy"]}]},
            "learners[1].worlds[0]: \"easy\" matches no world; their labels are 'linear dim=2'",
        ),
        (
            {"learners": ["nash-game", {"kind": "offline-greedy", "planner": "nash"}]},
            "learners[1].planner: unknown planner 'nash'; choose from 'argmax'",
        ),
        (
            {"learners": ["nash-game", {"kind": "offline-greedy", "planner": "best-of-n"}]},
            "learners[1].planner.n: is missing; planner 'best-of-n' needs a number",
        ),
        ({"record": {"metrics": ["gpa"]}}, 'record.metrics[0]: "gpa" is not here; known are'),
        ({"record": {"grid": "all", "points": 3}}, "record.points: is not for grid"),
        ({"seed": {"grid": [1, 1]}}, "seed: holds a value twice"),
        ({"seed": -1}, "seed: must be a whole number, at least 0"),
        ({"block": {"grid": [0, 4]}}, "block: must be a whole number, at least 1"),
        (
            {"name": "a/b"},
            "name: must have letters, digits, '-', '_' and '.' only, and begin with a letter or a "
            'digit; got "a/b".',
        ),
        (
            {"rounds": [10, 20]},
            "rounds: cannot be a grid: give the largest; results at smaller numbers are in it.",
        ),
        ({"replicas": {"grid": [4, 8]}}, "replicas: cannot be a grid: give the largest"),
        ({"pairs": {"grid": [4, 8]}}, "pairs: cannot be a grid: give a list of increasing"),
        (
            {"worlds": [{"kind": "linear", "dim": [4, 8]}]},
            "dim: must be a whole number; got [4, 8]. For one entry per value write "
            "{ grid = [4, 8] }.",
        ),
        ({"worlds": [{"kind": "linear", "dim": {"gird": [4, 8]}}]}, "Did you mean 'grid'?"),
        ({"seed": {"gird": [4, 8]}}, "Did you mean 'grid'?"),
        (
            {"learners": ["offline-greedy", {"kind": "nash-game", "offline_pairs": [0, 5]}]},
            "offline_pairs: must be a whole number; got [0, 5]. For one entry per value write",
        ),
        (
            {"learners": ["offline-greedy", {"kind": "online-iterative", "enhancer": 3}]},
            "learners[1].enhancer: must be an enhancer: a name ('from-reference'",
        ),
        ({"batch_size": 4}, "Did you mean learners.batch_size?"),
        ({"offline_pairs": 4}, "Did you mean learners.offline_pairs?"),
        ({"dim": 4}, "Did you mean worlds.dim?"),
        ({"points": 4}, "Did you mean record.points?"),
        (
            {"plot": [], "plots": [{"kind": "regret"}]},
            "plots: is the same as 'plot'; give one of the two.",
        ),
        ({"format": 3}, "format: must be 2; got 3"),
        ({"plots": [{"kind": "regret", "facet": "world.dmi"}]}, "Did you mean 'world.dim'"),
        ({"plots": [{"kind": "regret", "metric": "gapp"}]}, 'plots[0].metric: "gapp" is not here'),
        ({"plots": [{"kind": "slopes", "window": [9, 3]}]}, "must be two increasing numbers"),
        ({"run": {"options": {"addres": "x"}, "backend": "dask"}}, "run.options: "),
        ({"quick": {"replicas": 0}}, "quick.replicas: must be at least 1"),
        ({"learner": "offline-greedy"}, "is the same as 'learners'; give one of the two"),
    ],
)
def test_one_mistake_is_one_line(data, line):
    given = {k: v for k, v in {**BOTH, **data}.items() if v is not None}
    lines = mistakes(**given)
    assert len(lines) == 1, lines
    assert line in lines[0]


def test_settings_of_the_default_part_can_be_changed_without_its_kind():
    study = Study(
        name="x",
        worlds="linear",
        learners=[{"kind": "same-law-pairs", "learner": {"batch_size": 4, "radius": {"beta": 2}}}],
        rounds=1,
    )
    inner = study.cells()[0].learner["learner"]
    assert (inner["kind"], inner["batch_size"], inner["radius"]["beta"]) == (
        "online-iterative",
        4,
        2.0,
    )


def test_none_is_what_is_left_out():
    data = {"name": "x", "worlds": "linear", "learners": "nash-game", "rounds": 1}
    given = Study(**data, pairs=None, record={"metrics": None}, quick={"pairs": None})
    assert given.cells() == Study(**data).cells()


def test_none_is_a_word():
    study = Study(
        name="x", worlds=[{"kind": "linear", "contexts": "none"}], learners="nash-game", rounds=1
    )
    assert study.cells()[0].world["contexts"] is None


def test_objects_in_grids_and_in_tables():
    study = Study(
        name="x",
        worlds="linear",
        learners=[
            {
                "kind": rt.OnlineIterative(batch_size=4),
                "label": "a",
                "enhancer": {"grid": [rt.enhancers.Uniform(), "on-policy"]},
                "radius": Scaled(Adaptive(), 0.5),
                "offline_pairs": np.int64(7),
            }
        ],
        rounds=1e1,
    )
    cells = study.cells()
    assert [c.learner["enhancer"]["kind"] for c in cells] == ["uniform", "on-policy"]
    assert cells[0].learner["batch_size"] == 4
    assert cells[0].offline_pairs == 7
    assert cells[0].rounds == 10
    assert cells[0].learner["radius"]["multiplier"] == 0.5


@given(
    st.dictionaries(
        st.sampled_from(["dim", "eta", "reference", "contexts", "kind", "label", "seed", "xyz"]),
        st.none()
        | st.booleans()
        | st.integers(-3, 3)
        | st.floats()
        | st.text(max_size=3)
        | st.lists(st.integers(0, 2), max_size=2)
        | st.fixed_dictionaries({"grid": st.lists(st.integers(-1, 3), max_size=2)}),
        max_size=5,
    )
)
def test_whatever_somebody_writes_is_a_study_or_a_study_error(entry):
    found, study = (), None
    try:
        study = Study(
            name="x", worlds=[{"kind": "linear", **entry}], learners="offline-greedy", pairs=[1]
        )
    except StudyError as error:
        found = error.mistakes
    assert bool(found) == (study is None)
    assert all(m.text and m.place.startswith("worlds") for m in found)
    if study is not None:
        json.dumps(study.resolved(), allow_nan=False)


def test_the_words_are_those_of_the_register():
    kinds = PlotSpec.model_json_schema()["properties"]["kind"]["enum"]
    assert kinds == list(found("plot"))
    backends = RunOptions.model_json_schema()["properties"]["backend"]["enum"]
    assert backends == list(found("backend"))
    with pytest.raises(ValueError, match=r"Did you mean 'slurm'"):
        Study(name="x", **BOTH, run={"backend": "slrum"})


def test_pydantic_waits_until_a_study_is_made():
    code = (
        "import sys, rlhf_theory, rlhf_theory.studies.registry, rlhf_theory.studies.cells;"
        "sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_study_is_shown_in_one_line():
    study = Study(name="first", seed={"grid": [0, 1]}, title="A <b>", **BOTH)
    assert len(study.cells()) == 8
    assert repr(study) == str(study) == "Study('first': 2 worlds, 2 learners, 8 cells, 8 replicas)"
    stored = Study.from_resolved(study.resolved())
    assert repr(stored) == repr(study)
    one = Study(name="x", worlds="linear", learners="offline-greedy", pairs=[1], replicas=1)
    assert repr(one) == "Study('x': 1 world, 1 learner, 1 cell, 1 replica)"
    text = study._repr_html_()
    assert "<b>first</b>: 2 worlds, 2 learners" in text
    assert "A &lt;b&gt;" in text
    assert "learners: online-iterative, offline-greedy" in text
    many = Study(name="x", worlds=[{"kind": "linear", "dim": {"grid": list(range(1, 15))}}],
                 learners="offline-greedy", pairs=[1])  # fmt: skip
    assert "linear dim=12 and 2 more" in many._repr_html_()


def test_a_grid_of_one_block_is_a_grid_and_in_the_label():
    data = {"name": "x", "worlds": "linear", "learners": "offline-greedy", "pairs": [1]}
    assert Study(**data, block={"grid": [64]}).cells()[0].world_label == "linear block=64"
    assert Study(**data, block=64).cells()[0].world_label == "linear"
