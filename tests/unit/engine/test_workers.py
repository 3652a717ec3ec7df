"""Workers that have other code or other versions than the run, on every backend."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rlhf_theory
from rlhf_theory.engine import attempts
from rlhf_theory.engine.attempts import Attempt
from rlhf_theory.engine.workers import Worker, deciding_versions, difference
from rlhf_theory.studies import entries
from rlhf_theory.study import Study

PACKAGES = {
    "serial": "loky",
    "local": "loky",
    "dask": "distributed",
    "ray": "ray",
    "slurm": "submitit",
}
OPTIONS = {"slurm": {"cluster": "local"}}

LEARNER = """
from dataclasses import dataclass
import rlhf_theory as rt
import refused_helper

@dataclass(frozen=True, kw_only=True)
class Eps:
    share: float = 0.5

    def __call__(self, problem, data, key):
        return rt.OfflineGreedy()(problem, data, key)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of a learner in a file, four blocks."""
    (tmp_path / "refused_learner.py").write_text(LEARNER)
    (tmp_path / "refused_helper.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield Study(
        name="refused",
        worlds=[{"kind": "linear", "contexts": 3, "actions": 3, "dim": 2}],
        learners=["refused_learner:Eps"],
        pairs=[5],
        replicas=8,
        block=2,
    )
    for name in ("refused_learner", "refused_helper"):
        sys.modules.pop(name, None)
    entries.refresh()


def run(study, folder, backend):
    pytest.importorskip(PACKAGES[backend])
    return study.run(folder, backend=backend, jobs=2, quiet=True, options=OPTIONS.get(backend))


ELSEWHERE = pytest.mark.parametrize(
    "backend",
    ["local", *(pytest.param(b, marks=pytest.mark.slow) for b in ("dask", "ray", "slurm"))],
)


@ELSEWHERE
def test_a_worker_with_another_helper_file_stops_the_run(study, tmp_path, backend):
    (tmp_path / "refused_helper.py").write_text("x = 22\n")  # this process has the older one
    result = run(study, tmp_path / "out", backend)
    tally = result.tally
    assert (tally.done, tally.failed, tally.left) == (0, 0, 4)
    wanted = study.cells()[0].learner["code"]
    assert tally.stopped.startswith("The worker process ")
    assert f"results of {wanted!r} are asked for" in tally.stopped
    assert "The code here is 'refused_learner " in tally.stopped
    assert not list(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.rglob("*.failed.json"))
    # With the file as it was, the same command goes on.
    (tmp_path / "refused_helper.py").write_text("x = 1\n")
    assert run(study, tmp_path / "out", backend).tally.done == 4


@ELSEWHERE
def test_a_worker_with_another_numpy_stops_the_run(study, tmp_path, monkeypatch, backend):
    there = {**deciding_versions(), "numpy": "0.1"}
    monkeypatch.setattr(attempts, "deciding_versions", lambda: there)
    tally = run(study, tmp_path / "out", backend).tally
    assert (tally.done, tally.failed, tally.left) == (0, 0, 4)
    assert f"it has numpy {np.__version__} where this run has 0.1." in tally.stopped
    assert not list(tmp_path.rglob("*.parquet"))


def test_what_this_process_has_imported_runs_on_when_the_file_changes(study, tmp_path):
    (tmp_path / "refused_helper.py").write_text("x = 22\n")
    assert run(study, tmp_path / "out", "serial").tally.done == 4


def test_nothing_is_begun_by_a_worker_that_is_refused(tmp_path):
    call = Attempt.of(Path.touch, tmp_path / "begun", tmp_path / "mark")
    object.__setattr__(call, "versions", {**call.versions, "scipy": "0.1", "gone": "7"})
    answer = call()
    assert "it has scipy " in answer.refused
    assert "where this run has 0.1, and gone missing where this run has 7." in answer.refused
    assert not (tmp_path / "begun").exists()
    assert not (tmp_path / "mark").exists()


def test_versions_of_what_a_worker_has_beside_say_nothing():
    worker = Worker("here", 1, {"numpy": "1", "torch": "2"})
    assert difference({"numpy": "1"}, worker) == ""
    assert difference({"numpy": "2"}, worker).startswith("The worker process 1 on here is refused")


def test_two_checkouts_of_one_version_are_told_apart(tmp_path):
    """One line of this package is another one there; its version is the same."""
    copy = tmp_path / "rlhf_theory"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(rlhf_theory.__file__).parent, copy, ignore=skip)
    ask = "from rlhf_theory.engine.workers import deciding_versions as d; print(d()['rlhf-theory'])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def there() -> str:
        command = [sys.executable, "-P", "-c", ask]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    here = deciding_versions()["rlhf-theory"]
    assert there() == here
    with (copy / "bounds.py").open("a") as file:
        file.write("# another line\n")
    other = there()
    assert other != here
    assert other.partition(" (")[0] == here.partition(" (")[0]
