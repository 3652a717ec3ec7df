"""Where values come from, also after a study was stored and made longer."""

import json

import pytest

from rlhf_theory.studies.origins import stored_origins
from rlhf_theory.studies.provenance import Provenance
from rlhf_theory.study import Study

TEXT = """
format = 2
name = "easy"
rounds = 20
replicas = 8
[quick]
replicas = 2
[[world]]
kind = "linear"
dim = { grid = [4, 8] }
[[world]]
kind = "tie-cycle"
[[learner]]
kind = "online-iterative"
radius = { kind = "scaled", multiplier = { grid = [0.1, 1] }, rule = "adaptive" }
[[plot]]
kind = "suboptimality"
style = "neurips2024"
"""


@pytest.fixture
def study(tmp_path):
    file = tmp_path / "easy.toml"
    file.write_text(TEXT, encoding="utf-8")
    sets = ["world[0].eta=0.5", "record.points=5", "plot.metric=gap"]
    return Study.from_toml(file, sets, quick=True)


EXPECTED = {
    "name": "file",
    "rounds": "file",
    "replicas": "quick",
    "record.points": "--set",
    "record.grid": "default",
    "worlds[0].dim": "file",
    "worlds[1].dim": "file",
    "worlds[1].eta": "--set",
    "worlds[1].actions": "default",
    "worlds[2].kind": "file",
    "worlds[2].eta": "default",
    "learners[1].radius.multiplier": "file",
    "learners[1].radius.rule.kind": "file",
    "learners[1].radius.rule.delta": "default",
    "learners[0].batch_size": "default",
    "plots[0].kind": "file",
    "plots[0].venue": "file",
    "plots[0].metric": "--set",
    "plots[0].band": "default",
}


def test_origins_have_the_places_of_the_resolved_study(study):
    found = study.resolved_origins()
    assert {place: found[place] for place in EXPECTED} == EXPECTED
    # Each place leads to a value of the resolved study, which is none where it was left out.
    table = study.resolved()
    for place in found:
        node = table
        for part in place.replace("[", ".").replace("]", "").split("."):
            node = node[int(part)] if part.isdigit() else node.get(part)
        assert not isinstance(node, dict) or node == {}


def test_a_study_made_longer_keeps_where_its_values_came_from(study, tmp_path):
    folder = tmp_path / "out"
    for values in ({"replicas": 16}, {"rounds": 40}):
        table = json.loads(json.dumps(study.resolved()))
        Provenance(
            folder, ["run"], table, origins=study.resolved_origins(), backend="serial", jobs=1
        )
        stored = Study.from_resolved(table, stored_origins(folder, table))
        assert stored.origins == stored.resolved_origins() == study.resolved_origins()
        study = stored.changed(values, origin="extend")
    extended = {"replicas": "extend", "rounds": "extend"}
    assert {place: study.origins[place] for place in EXPECTED} == EXPECTED | extended
    assert set(study.origins.values()) == {"file", "--set", "default", "extend"}


def test_only_the_record_of_this_very_study_counts(study, tmp_path):
    table = study.resolved()
    assert stored_origins(tmp_path, table) == {}
    place = tmp_path / "provenance"
    place.mkdir()
    (place / "20260101T000000Z-a.json").write_text(
        json.dumps({"study": table, "origins": {"rounds": "file"}}), encoding="utf-8"
    )
    (place / "20260102T000000Z-b.json").write_text(
        json.dumps({"study": {**table, "rounds": 3}, "origins": {"rounds": "--set"}}),
        encoding="utf-8",
    )
    (place / "20260103T000000Z-c.json").write_text("{", encoding="utf-8")
    (place / "20260104T000000Z-d.json").write_text("[]", encoding="utf-8")
    assert stored_origins(tmp_path, table) == {"rounds": "file"}
    # Without a record nothing is known, and every value counts as given.
    assert Study.from_resolved(table).origins == {}
    assert Study.from_resolved(table).changed().origins["rounds"] == "python"
