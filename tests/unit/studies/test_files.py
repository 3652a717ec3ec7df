"""Study files and changes from the command line."""

import pytest

from rlhf_theory.studies.files import change, value_of
from rlhf_theory.studies.messages import StudyError
from rlhf_theory.study import Study

TEXT = """
format = 2
name = "easy"
rounds = 20
pairs = [10, 100]
replicas = 8

[quick]
replicas = 2
record = { points = 3 }

[record]
grid = "log"

[[world]]
kind = "linear"
label = "easy"
dim = { grid = [4, 8] }

[[world]]
kind = "intransitive"

[[learner]]
kind = "online-iterative"
enhancer = { grid = ["optimistic", { kind = "uniform" }] }
radius = { kind = "scaled", multiplier = { grid = [0.1, 1] }, rule = "adaptive" }

[[learner]]
kind = "offline-greedy"

[[plot]]
kind = "suboptimality"
style = "neurips2024"

[run]
jobs = 2
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "easy.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_file_is_a_study(file):
    study = Study.from_toml(file)
    assert len(study.cells()) == 3 * (4 + 1)
    assert study.plots[0].venue == "neurips2024"
    assert study.run_options.jobs == 2
    assert study.origins["world[0].dim.grid[1]"] == "file"
    assert study.origins["world[0].actions"] == "default"
    assert study.origins["learner[0].radius.rule.kind"] == "file"
    assert study.origins["learner[0].radius.rule.delta"] == "default"
    assert set(study.origins.values()) == {"file", "default"}


def test_the_quick_form_changes_what_it_names(file):
    study = Study.from_toml(file, quick=True)
    assert (study.replicas, study.rounds, study.record.points) == (2, 20, 3)
    assert study.origins["replicas"] == "quick"
    assert study.origins["record.points"] == "quick"
    assert study.origins["record.grid"] == "file"
    assert Study.from_toml(file, ["replicas=5"], quick=True).replicas == 5
    file.write_text(TEXT.replace("[quick]", "[quik]"), encoding="utf-8")
    with pytest.raises(StudyError, match=r"quick: is missing in .*easy.toml"):
        Study.from_toml(file, quick=True)


def test_the_quick_form_changes_entries_too_and_the_command_line_comes_after_it(file):
    text = TEXT.replace("[quick]", '[quick]\nset = ["world[0].contexts=3", "rounds=7"]')
    file.write_text(text, encoding="utf-8")
    study = Study.from_toml(file, ["world[0].contexts=5"], quick=True)
    assert (study.rounds, study.cells()[0].world["contexts"]) == (7, 5)
    assert study.origins["rounds"] == "quick"
    assert study.origins["world[0].contexts"] == "--set"
    quick = Study.from_toml(file, quick=True)
    assert quick.cells()[0].world["contexts"] == 3
    assert quick.origins["world[0].contexts"] == "quick"
    assert Study.from_toml(file).cells()[0].world["contexts"] != 3
    file.write_text(text.replace("rounds=7", "world[9].x=1"), encoding="utf-8")
    with pytest.raises(StudyError, match=r"quick.set world\[9\].x=1: "):
        Study.from_toml(file, quick=True)


def cells_after(file, *sets):
    study = Study.from_toml(file, sets)
    return study, study.cells()


def test_a_change_at_the_top(file):
    study, _ = cells_after(file, "rounds=50", "record.grid=all", "run.backend=serial")
    assert (study.rounds, study.record.grid, study.run_options.backend) == (50, "all", "serial")
    for place in ("rounds", "record.grid", "run.backend"):
        assert study.origins[place] == "--set"
    assert study.origins["run.jobs"] == "file"


def test_a_change_without_number_reaches_all_that_have_the_setting(file):
    study, cells = cells_after(file, "world.dim=3", "learner.batch_size=4")
    assert {c.world["dim"] for c in cells} == {3}
    assert {c.learner.get("batch_size", 4) for c in cells} == {4}
    assert study.origins["world[0].dim"] == "--set"
    assert study.origins["world[1].dim"] == "--set"
    assert study.origins["learner[0].batch_size"] == "--set"
    assert "learner[1].batch_size" not in study.origins


def test_a_change_of_one_entry(file):
    _, cells = cells_after(file, "world[1].dim=3")
    assert {c.world["dim"] for c in cells} == {3, 4, 8}
    _, cells = cells_after(file, "worlds[0].dim={ grid = [2, 6] }")
    assert {c.world["dim"] for c in cells} == {2, 4, 6}


def test_a_change_inside_parts_goes_through_names_defaults_and_grids(file):
    study, cells = cells_after(
        file,
        "learner[0].radius.rule.delta=0.2",
        "learner[0].enhancer.form=free",
        "learner[1].planner=argmax",
    )
    online = [c for c in cells if c.online]
    assert {c.learner["radius"]["rule"]["delta"] for c in online} == {0.2}
    forms = {(c.learner["enhancer"]["kind"], c.learner["enhancer"].get("form")) for c in online}
    assert forms == {("optimistic", "free"), ("uniform", None)}
    assert study.origins["learner[0].enhancer.grid[0].form"] == "--set"
    assert study.origins["learner[0].enhancer.grid[0].kind"] == "file"


def test_a_change_of_the_default_part_keeps_its_other_settings(file):
    _, cells = cells_after(file, "learner[1].planner={ kind = 'best-of-n', n = 4 }")
    assert {c.learner["planner"]["kind"] for c in cells if not c.online} == {"best-of-n"}
    file.write_text(TEXT.replace("radius = {", "# radius = {"), encoding="utf-8")
    _, cells = cells_after(file, "learner.radius.lam=2")
    radii = [c.learner["radius"] for c in cells if c.online]
    assert all(r == {"kind": "constant", "version": 1, "beta": 1.0, "lam": 2.0, "scale": 1.0}
               for r in radii)  # fmt: skip


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("rounds", "must be PLACE=VALUE"),
        ("=3", "must be PLACE=VALUE"),
        ("learner[0.x=3", "must be PLACE=VALUE"),
        ("world.dmi=3", "no world has a setting 'dmi'; .*Did you mean 'dim'"),
        ("learner.planner.tie=3", "its planner is of a kind without it. Change learner.planner as"),
        ("world[2].dim=3", "must have a number from 0 to 1"),
        ("world[0]=3", "must have a number from 0 to 1, and then a setting"),
        ("rounds.x=3", "leads into a value that is no table"),
        ("rounds=[1", "is no value in TOML"),
        ("rounds=1\nx = 2", "is more than one value"),
        ("replicas=8,rounds=2", "'8,rounds=2' is more than one value; repeat --set for every"),
        ("rounds={ grid = [1], x = y }", "is no value in TOML"),
        ("learner[greedy].lam=2", "The index is a number, counted from 0; got 'greedy'"),
        ("world[easy].dim=2", r"got 'easy'. Did you mean world\[0\].dim\?"),
        ("batch_size=4", r"batch_size: unknown key; .*Did you mean learner.batch_size\?"),
        ("jobs=4", r"Did you mean run.jobs\?"),
        ("plot[1].band=quantiles", "must have a number from 0 to 0"),
    ],
)
def test_changes_that_name_nothing_say_what_there_is(file, item, message):
    with pytest.raises(StudyError, match=message):
        Study.from_toml(file, [item])


def test_changed_values_pass_the_same_checks(file):
    with pytest.raises(StudyError) as caught:
        Study.from_toml(file, ["rounds=-1", "world[0].dim=0", "record.gird=all"])
    assert str(caught.value).splitlines() == [
        "rounds: must be at least 0; got -1.",
        "record.gird: unknown key; allowed are 'metrics', 'grid', 'points'. Did you mean 'grid'?",
        "world[0].dim: dim must be at least 1; got 0.",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("-1.", -1.0),
        ("01:00:00", "01:00:00"),
        ("2026-01-01", "2026-01-01"),
        ("true", True),
        ("uniform", "uniform"),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ("{ grid = [1] }", {"grid": [1]}),
        ("likelihood-ratio", "likelihood-ratio"),
        ("my_module:Thing", "my_module:Thing"),
    ],
)
def test_values_are_toml_and_bare_words_are_text(text, value):
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_a_plot_can_be_changed():
    data = {"plot": [{"kind": "regret"}, {"kind": "pairs"}]}
    assert change(data, "plot.style=icml2024") == {("plot", 0, "style"), ("plot", 1, "style")}
    assert [p["style"] for p in data["plot"]] == ["icml2024", "icml2024"]


def test_files_that_are_no_studies(tmp_path):
    with pytest.raises(StudyError, match=r"none.toml cannot be read: No such file"):
        Study.from_toml(tmp_path / "none.toml")
    file = tmp_path / "broken.toml"
    file.write_text("format = 2\nname = easy\n", encoding="utf-8")
    with pytest.raises(
        StudyError, match=r"line 2, column \d+, is no TOML: .*there is: name = easy"
    ):
        Study.from_toml(file)
    file.write_text('name = "easy', encoding="utf-8")
    with pytest.raises(StudyError, match="is no TOML"):
        Study.from_toml(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StudyError, match="not text in UTF-8"):
        Study.from_toml(file)
    file.write_text("", encoding="utf-8")
    with pytest.raises(StudyError) as caught:
        Study.from_toml(file)
    assert len(str(caught.value).splitlines()) >= 1


def test_one_table_instead_of_a_list_is_one_entry(file):
    text = TEXT.replace("[[plot]]", "[plot]")
    file.write_text(text, encoding="utf-8")
    assert len(Study.from_toml(file, ["plot.metric=gap"]).plots) == 1


def enhancers(study):
    return [c.learner["enhancer"] for c in study.cells() if c.online]


def test_another_kind_of_a_part_brings_its_own_settings(file):
    """Nothing of the kind before is left: neither of the default nor of what the file sets."""
    uniform = {"kind": "uniform", "version": 1}
    line = 'enhancer = { grid = ["optimistic", { kind = "uniform" }] }\n'
    tables = ["", 'enhancer = { kind = "optimistic", form = "free" }\n', 'enhancer = "on-policy"\n']
    for table in tables:
        file.write_text(TEXT.replace(line, table), encoding="utf-8")
        study = Study.from_toml(file, ["learner.enhancer.kind=uniform"])
        assert all(one == uniform for one in enhancers(study))
        assert study.origins["learner[0].enhancer.kind"] == "--set"
    # What the new kind has, too, stays; and a setting that no kind has is still a mistake.
    sets = ["learner[0].radius.kind=adaptive", "learner[0].radius.lam=3"]
    file.write_text(TEXT.replace("radius = {", "radius = { lam = 2.0 } #"), encoding="utf-8")
    radii = [c.learner["radius"] for c in Study.from_toml(file, sets[:1]).cells() if c.online]
    assert {(r["kind"], r["lam"]) for r in radii} == {("adaptive", 2.0)}
    wrong = TEXT.replace(line, 'enhancer = { kind = "optimistic", fomr = "free" }\n')
    file.write_text(wrong, encoding="utf-8")
    with pytest.raises(StudyError, match="fomr: enhancer 'uniform' has no such setting"):
        Study.from_toml(file, ["learner.enhancer.kind=uniform"])
    with pytest.raises(StudyError) as caught:
        Study.from_toml(file, ["learner.enhancer.kind=unifrm"])
    assert "Did you mean 'uniform'" in str(caught.value)
