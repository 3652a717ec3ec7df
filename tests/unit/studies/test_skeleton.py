"""Study files to start from, and the JSON schema."""

import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from rlhf_theory import register
from rlhf_theory.register import found
from rlhf_theory.studies import entries
from rlhf_theory.studies.messages import StudyError
from rlhf_theory.studies.skeleton import copied, json_schema, skeleton
from rlhf_theory.study import Study

STANDARD = Path(__file__).parents[3] / "benchmarks" / "regret" / "standard.toml"


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema(Study)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_new_file_is_a_study(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(skeleton("mine"), encoding="utf-8")
    study = Study.from_toml(path)
    assert study.name == "mine"
    assert len(study.cells()) == 2
    assert Study.from_toml(path, quick=True).replicas == 8


def test_its_comments_are_the_defaults(tmp_path):
    """With every commented setting in force the cells are the same: the comments tell the truth."""
    plain = skeleton("mine")
    lines = []
    inside = False
    for line in plain.splitlines():
        inside = line.startswith(("[[world]]", "[[learner]]")) or (inside and line != "")
        lines.append(line.removeprefix("# ") if inside and line.startswith("# ") else line)
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert path.read_text(encoding="utf-8").count("\n# ") < plain.count("\n# ") - 10
    full = Study.from_toml(path)
    assert full.cells() == Study(**tomllib.loads(plain)).cells()


def test_a_copy_has_another_name_and_the_same_comments():
    text = STANDARD.read_text(encoding="utf-8")
    new = copied(text, "other")
    assert new.splitlines()[0] == text.splitlines()[0]
    old, made = tomllib.loads(text), tomllib.loads(new)
    assert made.pop("name") == "other"
    old.pop("name")
    assert made == old
    with pytest.raises(StudyError, match="must stand at the top"):
        copied("[record]\nname = 'x'\n", "other")


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden"])
def test_names_that_a_study_cannot_have(name):
    with pytest.raises(StudyError, match="name: must have letters"):
        skeleton(name)


def test_the_schema_accepts_what_the_package_accepts(validator):
    for text in (skeleton("mine"), STANDARD.read_text(encoding="utf-8")):
        data = tomllib.loads(text)
        Study(**data)
        validator.validate(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(nmae="x"),
        lambda d: d.update(replicas=0),
        lambda d: d.update(seed=-1),
        lambda d: d["world"][0].update(dmi=3),
        lambda d: d["world"][0].update(dim="x"),
        lambda d: d["world"][0].update(kind="linaer"),
        lambda d: d["world"][0].update(reference="peakd"),
        lambda d: d["learner"][0].update(enhancer="unifrom"),
        lambda d: d["learner"][0].update(radius={"kind": "scaled", "multiplier": "x"}),
        lambda d: d["learner"][0].update(coverage=2),
        lambda d: d["plot"][0].update(band="x"),
        lambda d: d["run"].update(backend="x"),
        lambda d: d["record"].update(grid="x"),
    ],
)
def test_the_schema_refuses_what_the_package_refuses(validator, change):
    data = tomllib.loads(skeleton("mine"))
    assert validator.is_valid(data)
    change(data)
    assert not validator.is_valid(data)
    with pytest.raises(StudyError):
        Study(**data)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(seed={"grid": [0, 1]}),
        lambda d: d["world"][0].update(dim={"grid": [2, 3]}, contexts="none"),
        lambda d: d["learner"][0].update(radius={"beta": 2}),
        lambda d: d["learner"][0].update(
            radius={
                "kind": "scaled",
                "multiplier": {"grid": [0.1, 1]},
                "rule": "marginal-likelihood",
            }
        ),
        lambda d: d["learner"][0].update(enhancer={"grid": ["uniform", {"kind": "optimistic"}]}),
        lambda d: d["learner"][1].update(worlds="easy", coverage={"grid": [0, 0.5]}),
    ],
)
def test_the_schema_allows_grids_and_shorthands(validator, change):
    data = tomllib.loads(skeleton("mine"))
    change(data)
    validator.validate(data)
    Study(**data)


def test_what_cannot_be_used_is_left_out_of_the_schema(monkeypatch):
    module = ModuleType("clashing_module")
    module.Clash = Clash
    monkeypatch.setitem(sys.modules, "clashing_module", module)
    points = [
        EntryPoint("odd", "no_such_module:Learner", "rlhf_theory.learners"),
        EntryPoint("clash", "clashing_module:Clash", "rlhf_theory.learners"),
    ]
    monkeypatch.setattr(register, "entry_points", lambda group: points if "learn" in group else [])
    entries.refresh()
    try:
        assert {"odd", "clash"} < set(found("learner"))
        definitions = json_schema(Study)["$defs"]
        assert "learner-offline-greedy" in definitions
        assert {"learner-odd", "learner-clash"}.isdisjoint(definitions)
    finally:
        entries.refresh()


class Clash:
    """A learner with a setting that means something else in a study."""

    def __init__(self, grid: int = 1) -> None:
        self.grid = grid


def test_every_kind_is_in_the_schema():
    definitions = json_schema(Study)["$defs"]
    for role in ("world", "learner", "enhancer", "radius", "planner", "policy"):
        for name in found(role):
            assert f"{role}-{name}" in definitions
