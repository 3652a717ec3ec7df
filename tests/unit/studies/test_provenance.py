from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest

from rlhf_theory.engine.workers import Worker
from rlhf_theory.studies import provenance
from rlhf_theory.studies.provenance import Provenance, git_state, plain_json


def refuse(_):
    raise AssertionError("JSON knows neither NaN nor infinity")


def load(path):
    return json.loads(path.read_text(), parse_constant=refuse)


@dataclass(frozen=True)
class Tally:
    done: int = 3
    stopped: str = ""


def start(folder, **changes):
    settings = {"origins": {"rounds": "--set"}, "backend": "local", "jobs": 2, **changes}
    return Provenance(folder, ["rlhf-theory", "run", "a b.toml"], {"name": "a"}, **settings)


def test_a_run_leaves_a_record_at_its_start_and_completes_it(tmp_path):
    record = start(tmp_path)
    first = load(record.path)
    assert (first["end"], first["seconds"], first["tally"]) == (None, None, None)
    assert first["command"] == ["rlhf-theory", "run", "a b.toml"]
    assert first["study"] == {"name": "a"}
    assert first["origins"] == {"rounds": "--set"}
    assert (first["backend"], first["jobs"]) == ("local", 2)
    record.end(Tally())
    last = load(record.path)
    assert last["tally"] == {"done": 3, "stopped": ""}
    assert last["end"] >= last["start"]
    assert last["seconds"] >= 0
    assert {k: v for k, v in last.items() if k not in ("end", "seconds", "tally")} == {
        k: v for k, v in first.items() if k not in ("end", "seconds", "tally")
    }


def test_every_worker_is_named_also_by_a_run_that_was_killed(tmp_path):
    record, same = start(tmp_path), {"numpy": "1"}
    assert load(record.path)["workers"] == []
    record.hire(Worker("one", 7, same))
    assert load(record.path)["workers"] == [{"host": "one", "processes": 1, "versions": same}]
    for worker in (
        Worker("one", 8, same),
        Worker("one", 7, same),
        Worker("two", 7, {"numpy": "2"}),
    ):
        record.hire(worker)
    record.end(Tally())
    assert load(record.path)["workers"] == [
        {"host": "one", "processes": 2, "versions": same},
        {"host": "two", "processes": 1, "versions": {"numpy": "2"}},
    ]


def test_words_that_no_file_takes_are_recorded_nevertheless(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance.platform, "node", lambda: "caf\udce9")
    record = Provenance(
        tmp_path,
        ["run", "caf\udce9.toml"],
        {"caf\udce9": ["caf\udce9"]},
        origins={"caf\udce9": "--set"},
        backend="serial",
        jobs=1,
    )
    record.end(Tally(stopped="caf\udce9"))
    content = load(record.path)
    said = "caf\\udce9"
    assert content["command"] == ["run", f"{said}.toml"]
    assert content["study"] == {said: [said]}
    assert content["origins"] == {said: "--set"}
    assert content["machine"]["host"] == content["tally"]["stopped"] == said


def test_every_run_has_a_file_of_its_own_and_names_are_in_the_order_of_time(tmp_path):
    # Several within one second: names of whole seconds were in order with probability 1 / 20!.
    paths = [start(tmp_path).path for _ in range(20)]
    assert len(set(paths)) == 20
    assert sorted((tmp_path / "provenance").iterdir()) == paths


def test_versions_libraries_and_machine(tmp_path):
    content = load(start(tmp_path).path)
    assert content["versions"]["numpy"] == np.__version__
    assert "pyarrow" in content["versions"]
    assert any(row["user_api"] == "blas" for row in content["linear_algebra"])
    assert all("filepath" not in row for row in content["linear_algebra"])
    assert content["machine"]["usable_cores"] >= 1
    assert content["machine"]["processor"]


def test_no_environment_variable_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "very-secret-value")
    text = start(tmp_path).path.read_text()
    assert "very-secret-value" not in text
    assert os.environ["PATH"] not in text


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, "-C", str(folder), *words], check=True, capture_output=True)


def test_the_state_of_the_code(tmp_path):
    git(tmp_path, "init")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "one")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "results.txt").write_text("what a run writes is no change of the code")
    assert git_state(tmp_path) == state
    (tmp_path / "a.py").write_text("2")
    assert git_state(tmp_path) == {**state, "dirty": True}


@pytest.mark.parametrize("problem", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 5)])
def test_without_git_there_is_no_state(tmp_path, monkeypatch, problem):
    def broken(*_, **__):
        raise problem

    monkeypatch.setattr(provenance.subprocess, "run", broken)
    assert git_state(tmp_path) is None


def test_plain_data_hold_nothing_that_json_does_not_know():
    value = {
        "a": [float("nan"), -np.inf, np.float64(0.5), np.int64(3), True, None],
        "b": (Tally(), {1, 2}),
        3: np.bool_(True),
    }
    found = plain_json(value)
    assert found == {
        "a": ["nan", "-inf", 0.5, 3, True, None],
        "b": [{"done": 3, "stopped": ""}, [1, 2]],
        "3": True,
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found
