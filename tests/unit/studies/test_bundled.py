import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rlhf_theory.studies.bundled import bundled_studies, study_path, study_text, title
from rlhf_theory.study import Study

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", sorted(bundled_studies()))
def test_every_study_on_the_shelf_is_right(name, quick):
    study = Study.from_toml(study_path(name), quick=quick)
    assert study.name == name
    assert study.title == title(study_path(name)) != ""


def test_the_standard_benchmark_has_the_worlds_that_it_is_about():
    cells = Study.from_toml(study_path("standard")).cells()
    worlds = {cell.world_label: cell.metric for cell in cells}
    assert len(worlds) >= 8
    for label in ("easy", "ill-conditioned", "poor coverage", "peaked reference", "many actions"):
        assert worlds[label] == "gap"
    assert worlds["misspecified"] == worlds["annotators"] == "gap"
    assert worlds["intransitive"] == "exploitability"
    assert len(cells) == len(worlds) * len({cell.learner_label for cell in cells})


def test_learners_of_the_standard_benchmark_get_equal_numbers_of_pairs():
    ends = set()
    for cell in Study.from_toml(study_path("standard")).cells():
        inner = cell.learner.get("learner", cell.learner)
        drawn = cell.offline_pairs + (cell.rounds or 0) * inner.get("batch_size", 0)
        ends.add(drawn if cell.online else cell.pairs[-1])
    assert ends == {6400}


def test_files_come_before_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("standard").write_text("mine")
    assert study_text("standard") == "mine"
    with pytest.raises(ValueError, match=r"there is no file none\.toml"):
        study_path("none.toml")
    with pytest.raises(ValueError, match="Did you mean 'coverage'"):
        study_path("covrage")


@pytest.mark.slow
def test_the_wheel_has_the_shelf(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"rlhf_theory/studies/regret/{name}.toml" for name in bundled_studies()} <= set(names)
