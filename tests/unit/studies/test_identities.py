"""Results of older code: found, adopted, removed, and never mixed with others."""

from __future__ import annotations

import json
import os
import sys

import pandas as pd
import pytest

import rlhf_theory as rt
from rlhf_theory.report.study_report import write_study_report
from rlhf_theory.studies import entries, identities
from rlhf_theory.studies.identities import adopted, older, unmarked
from rlhf_theory.studies.messages import StudyError
from rlhf_theory.studies.running import longer, plan_study
from rlhf_theory.study import Study, StudyResult

LEARNER = """
from dataclasses import dataclass
import rlhf_theory as rt
import older_helper

@dataclass(frozen=True, kw_only=True)
class Eps:
    share: float = 0.5

    def __call__(self, problem, data, key):
        return rt.OfflineGreedy(lam=older_helper.LAM)(problem, data, key)
"""

NAMES = ("older_learner", "older_helper")


def forget():
    for name in NAMES:
        sys.modules.pop(name, None)
    entries.refresh()


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Return the study with the code of a helper as it is given: as a new process would."""
    (tmp_path / "older_learner.py").write_text(LEARNER)
    monkeypatch.syspath_prepend(tmp_path)

    def at(lam: float, **changes):
        (tmp_path / "older_helper.py").write_text(f"LAM = {lam}\n")
        forget()
        return Study(
            **{
                "name": "older",
                "worlds": [{"kind": "linear", "contexts": 3, "actions": 3, "dim": 2}],
                "learners": [
                    {"kind": "older_learner:Eps", "label": "mine"},
                    {"kind": "offline-greedy", "label": "ours"},
                ],
                "pairs": [20],
                "replicas": 6,
                "block": 2,
                **changes,
            }
        )

    yield at
    forget()


def run(study, folder, **options):
    return study.run(folder, backend="serial", quiet=True, **options)


def table(result) -> pd.DataFrame:
    rows = result.to_pandas()
    return rows[rows["learner"] == "mine"].drop(columns="cell").reset_index(drop=True)


def test_an_edit_of_a_helper_is_another_cell_and_old_and_new_rows_do_not_mix(study, tmp_path):
    """The cell held replicas of both, when the key did not know the helper."""
    first = table(run(study(1.0), tmp_path / "out"))
    result = run(study(50.0, replicas=8), tmp_path / "out")
    assert (result.tally.done, result.counts()["missing"]) == (4 + 1, 0)
    fresh = table(run(study(50.0, replicas=8), tmp_path / "fresh"))
    pd.testing.assert_frame_equal(table(result), fresh)
    assert not first.equals(table(result)[: len(first)])


def test_a_cell_says_what_it_is_and_what_its_code_was_made_of(study, tmp_path):
    result = run(study(1.0), tmp_path / "out")
    for cell in result.cells:
        says = json.loads((tmp_path / "out" / "cells" / cell.key / "cell.json").read_text())
        assert says["key"] == cell.key
        assert says["identity"] == json.loads(json.dumps(cell.identity))
    mine, ours = result.cells
    assert "code" in mine.learner
    assert "code" not in ours.learner
    says = json.loads((tmp_path / "out" / "cells" / mine.key / "cell.json").read_text())
    assert set(says["made_of"]["older_learner"]) == set(NAMES)


def test_status_says_what_is_of_older_code_before_and_after_the_next_run(study, tmp_path):
    folder = tmp_path / "out"
    run(study(1.0), folder)
    assert list(StudyResult(folder).status()["older"]) == [0, 0]
    now = study(2.0)
    # Nothing has run since the edit: what is shown is of older code, and nothing was imported.
    result = StudyResult(folder)
    assert list(result.status()["older"]) == [3, 0]
    [(_, [found]), _] = result.older()
    assert found.changed == ("older_helper",)
    forget()
    assert not set(NAMES) & set(sys.modules)
    assert list(StudyResult(folder).status()["older"]) == [3, 0]
    assert not set(NAMES) & set(sys.modules)
    result = run(now, folder)
    assert list(result.status()[["done", "older"]].loc[0]) == [3, 3]
    assert plan_study(now, folder).older.keys() == {result.cells[0].key}


def test_adopted_results_are_those_of_the_cell_and_everybody_is_told(study, tmp_path):
    folder = tmp_path / "out"
    before = table(run(study(1.0), folder))
    result = run(study(2.0), folder, old="keep")
    assert (result.tally.done, result.counts()["done"]) == (0, 6)
    pd.testing.assert_frame_equal(table(result), before)
    assert list(result.status()["older"]) == [0, 0]
    assert len(list((folder / "cells").iterdir())) == 2
    [(key, [entry])] = adopted(folder, result.cells).items()
    assert key == result.cells[0].key
    assert (entry["changed"], len(entry["blocks"])) == (["older_helper"], 3)
    record = json.loads(sorted((folder / "provenance").iterdir())[-1].read_text())
    assert record["older"]["done"] == "keep"
    assert [len(r["blocks"]) for r in record["older"]["results"][key]] == [3]
    page = write_study_report(result).read_text()
    said = "3 of 3 blocks were computed by older code and adopted with --keep-old; changed since: "
    assert f"mine in linear: {said}older_helper." in page


def test_the_latest_of_several_older_results_win_and_the_rest_can_be_dropped(study, tmp_path):
    folder = tmp_path / "out"
    old = run(study(1.0), folder).cells[0].key
    for path in (folder / "cells" / old).glob("*.parquet"):
        os.utime(path, (1, 1))
    late = table(run(study(5.0, replicas=4), folder))
    result = run(study(9.0), folder, old="keep")
    assert result.tally.done == 0
    pd.testing.assert_frame_equal(table(result)[: len(late)], late)
    [left] = older(folder, result.cells)[result.cells[0].key]
    assert (left.key, len(left.blocks)) == (old, 2)
    assert run(study(9.0), folder, old="drop").counts()["done"] == 6
    assert not (folder / "cells" / old).exists()


def test_dropped_results_are_gone_and_computed_anew(study, tmp_path):
    folder = tmp_path / "out"
    old = run(study(1.0), folder).cells
    result = run(study(50.0), folder, old="drop")
    assert result.tally.done == 3  # ours was of no older code
    assert not (folder / "cells" / old[0].key).exists()
    fresh = table(run(study(50.0), tmp_path / "fresh"))
    pd.testing.assert_frame_equal(table(result), fresh)


def test_a_damaged_older_block_is_not_adopted(study, tmp_path):
    folder = tmp_path / "out"
    old = run(study(1.0), folder).cells[0].key
    damaged = folder / "cells" / old / "r000002-000004.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    result = run(study(2.0), folder, old="keep")
    assert (result.tally.done, result.counts()["done"]) == (1, 6)
    [[entry]] = adopted(folder, result.cells).values()
    assert entry["blocks"] == ["r000000-000002", "r000004-000006"]
    assert damaged.exists()


def test_killed_in_the_middle_adoption_goes_on(study, tmp_path, monkeypatch):
    folder, moved = tmp_path / "out", []
    before = table(run(study(1.0), folder))

    def killed(path, *_):
        if moved:
            raise KeyboardInterrupt
        moved.append(path)
        return move(path, *_)

    move = identities._move
    monkeypatch.setattr(identities, "_move", killed)
    with pytest.raises(KeyboardInterrupt):
        run(study(2.0), folder, old="keep")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    result = run(study(2.0), folder, old="keep")
    assert result.tally.done == 0
    pd.testing.assert_frame_equal(table(result), before)
    [said] = adopted(folder, result.cells).values()
    there = (folder / "cells" / result.cells[0].key).glob("r*.parquet")
    assert {name for entry in said for name in entry["blocks"]} == {path.stem for path in there}


def test_other_settings_are_no_older_code(study, tmp_path):
    folder = tmp_path / "out"
    run(study(1.0), folder)
    other = study(1.0, learners=[{"kind": "older_learner:Eps", "label": "mine", "share": 0.1}])
    assert plan_study(other, folder).older == {}


def test_a_raised_version_is_older_code_too(study, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    run(study(1.0), folder)
    monkeypatch.setattr(rt.OfflineGreedy, "VERSION", 7, raising=False)
    result = run(study(1.0), folder)
    ours = result.older()[1][1]
    assert [one.changed for one in ours] == [("VERSION of offline-greedy, 1 then and 7 now",)]


def test_extending_with_other_code_is_refused_unless_somebody_says_what_to_do(study, tmp_path):
    folder = tmp_path / "out"
    run(study(1.0), folder)
    study(2.0)
    with pytest.raises(StudyError, match=r"learners\[0\]\.code: must be .*--keep-old adopts"):
        longer(StudyResult(folder).study, replicas=8)
    more = longer(StudyResult(folder).study, replicas=8, old="keep")
    result = run(more, folder, old="keep")
    assert (result.tally.done, result.counts()["done"]) == (2, 8)


def test_marks_are_taken_from_specs_and_from_nothing_else():
    spec = {"kind": "a", "version": 1, "code": "m 0", "part": [{"kind": "b", "version": 2}]}
    plain = {"table": {"code": "0", "version": 3}}
    assert unmarked({**spec, **plain}) == {"kind": "a", "part": [{"kind": "b"}], **plain}
