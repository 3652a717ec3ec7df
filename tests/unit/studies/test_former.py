"""What format 1 wrote is refused, with what to write instead."""

import json

import pyarrow as pa
import pytest

from rlhf_theory.register import found
from rlhf_theory.studies.expressions import Expression, ExpressionError, setting_names
from rlhf_theory.studies.former import KINDS
from rlhf_theory.studies.messages import StudyError
from rlhf_theory.studies.plot_specs import PlotSpec
from rlhf_theory.studies.tables import about_of
from rlhf_theory.study import Study

BEST_OF_N = {"kind": "online-iterative", "planner": {"kind": "best-of-n", "n": 4}}
GOOD = {"name": "x", "worlds": "linear", "learners": "online-iterative", "rounds": 3}


def mistakes(**data):
    with pytest.raises(StudyError) as caught:
        Study(**{**GOOD, **data})
    return str(caught.value).splitlines()


def test_a_file_of_format_1_is_told_all_that_has_other_names(tmp_path):
    file = tmp_path / "old.toml"
    file.write_text(
        'format = 1\nname = "x"\nrounds = 3\n[[world]]\nkind = "linear"\n[[learner]]\n'
        'kind = "online-iterative"\nn_offline = 5\nradius = "r2-prime"\n[[plot]]\n'
        'kind = "suboptimality"\nx = "t"\n',
        encoding="utf-8",
    )
    with pytest.raises(StudyError) as caught:
        Study.from_toml(file)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("format: is 1, which is not read any more; write format = 2, and in")
    assert "offline_pairs for n_offline" in first
    assert "round or pairs for t, labels for n" in first
    assert "global-fixed-design for r1, fixed-design for r1-prime" in first
    assert [line.partition(": ")[0] for line in rest] == [
        "learner[0].n_offline",
        "learner[0].radius",
        "plot[0].x",
    ]


def test_another_format_is_refused():
    assert mistakes(format=3) == ["format: must be 2; got 3."]


@pytest.mark.parametrize(("role", "old"), KINDS)
def test_former_kinds_are_unknown_with_their_name_of_today(role, old):
    assert old not in found(role)
    assert KINDS[role, old] in found(role)
    (line,) = mistakes(learners=[{"kind": "online-iterative", role: {"kind": old}}])
    assert line.startswith(f"learners[0].{role}.kind: unknown {role} {old!r}; choose from")
    assert line.endswith(f" It was a name in format 1; write {KINDS[role, old]!r}.")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (
            {"learners": [{"kind": "online-iterative", "n_offline": 5}]},
            "learners[0].n_offline: was a name in format 1; write offline_pairs.",
        ),
        (
            {"worlds": [{"kind": "chi-squared", "n": 100}]},
            "worlds[0].n: was a name in format 1; write pairs.",
        ),
    ],
)
def test_former_keys(data, line):
    assert mistakes(**data) == [line]


def test_where_a_setting_has_that_name_it_is_no_former_one():
    assert Study(**{**GOOD, "learners": [BEST_OF_N]}).cells()[0].learner["planner"]["n"] == 4
    (line,) = mistakes(worlds=[{"kind": "linear", "n": 3}])
    assert "has no such setting" in line


@pytest.mark.parametrize(
    ("bound", "words"),
    [("d / sqrt(t)", "uses 't', a name in format 1; write round or pairs."),
     ("d / sqrt(n)", "uses 'n', a name in format 1; write labels.")],
)  # fmt: skip
@pytest.mark.parametrize("learner", ["online-iterative", BEST_OF_N])
def test_bounds_in_former_words(bound, words, learner):
    plots = [{"kind": "suboptimality", "bound": bound}]
    (line,) = mistakes(learners=[learner], plots=plots)
    assert line.startswith(f"plots[0].bound: {bound!r} {words}")


def test_a_bound_can_name_the_n_of_best_of_n_in_full():
    names = setting_names({"learner.planner.n": 4})
    assert Expression("learner.planner.n").evaluate(names) == 4
    with pytest.raises(ExpressionError, match="write labels"):
        Expression("n").evaluate(names)


@pytest.mark.parametrize("word", ["t", "n"])
def test_axes_in_former_words(word):
    text = f'must be "round", "pairs" or "labels"; \'{word}\' was a name in format 1.'
    assert mistakes(plots=[{"kind": "suboptimality", "x": word}]) == [f"plots[0].x: {text}"]
    with pytest.raises(StudyError) as caught:
        PlotSpec.of("suboptimality", x=word)
    assert str(caught.value) == f"x: {text}"


@pytest.mark.parametrize("former", [1, 2])
def test_a_block_of_a_former_format_is_to_be_computed_anew(former):
    says = {"format": former, "key": "k", "first": 0, "stop": 1, "rounds": 1, "metric": None}
    table = pa.table({"t": [0]}).replace_schema_metadata({"rlhf_theory": json.dumps(says)})
    with pytest.raises(
        ValueError, match=rf"is of format {former}.*computed anew, in another folder"
    ):
        about_of(table)
