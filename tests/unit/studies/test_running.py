import hashlib
import json

import pytest

from rlhf_theory.studies.running import chosen_cells, default_folder, longer, plan_study
from rlhf_theory.study import Study, StudyResult
from tests.helpers.studied import TOML, small_file, small_result

OPTIONS = {"backend": "serial", "jobs": 1, "quiet": True}


def digests(out):
    files = sorted((out / "cells").rglob("r*.parquet"))
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture
def study(tmp_path):
    return Study.from_toml(small_file(tmp_path))


def test_a_second_run_computes_nothing(tmp_path, study):
    out = small_result(tmp_path).folder.path
    before = {f: f.stat().st_mtime_ns for f in (out / "cells").rglob("*.parquet")}
    assert len(before) == 18
    again = study.run(out, **OPTIONS)
    assert (again.tally.done, again.tally.left) == (0, 0)
    assert {f: f.stat().st_mtime_ns for f in (out / "cells").rglob("*.parquet")} == before


def test_a_folder_holds_the_study_its_settings_and_its_provenance(tmp_path):
    out = small_result(tmp_path, command=["rlhf-theory", "run", "small.toml"]).folder.path
    assert (out / "study.toml").read_text() == TOML
    assert json.loads((out / "resolved.json").read_text())["replicas"] == 12
    (record,) = (out / "provenance").glob("*.json")
    content = json.loads(record.read_text())
    assert content["command"] == ["rlhf-theory", "run", "small.toml"]
    assert content["tally"]["done"] == 18
    assert content["origins"]["replicas"] == "file"
    assert content["origins"]["worlds[0].eta"] == "default"
    assert (out / "curves.parquet").is_file()


def test_a_plan_writes_nothing_and_counts(tmp_path, study):
    plan = plan_study(study, tmp_path / "out")
    assert (len(plan.todo), plan.done, plan.failed, len(plan.cells)) == (18, 0, 0, 6)
    assert not (tmp_path / "out").exists()
    study.run(tmp_path / "out", only=["game"], **OPTIONS)
    plan = plan_study(study, tmp_path / "out")
    assert (len(plan.todo), plan.done) == (12, 6)


def test_patterns_choose_cells(study):
    def labels(*only):
        return [(c.world_label, c.learner_label) for c in chosen_cells(study, only)]

    assert labels("game") == [("game", "greedy"), ("game", "GSHF")]
    assert labels("easy*/GSHF") == [("easy dim=2", "GSHF"), ("easy dim=3", "GSHF")]
    assert len(labels("greedy", "game")) == 4
    key = study.cells()[1].key
    assert labels(key) == [("easy dim=2", "GSHF")]
    with pytest.raises(
        ValueError, match="'gmae' matches none of GSHF, easy dim=2, easy dim=3, game"
    ):
        labels("gmae")


def test_more_replicas_keep_what_exists(tmp_path, study):
    out = small_result(tmp_path).folder.path
    before = digests(out)
    more = longer(study, replicas=23)
    assert more.origins["replicas"] == "extend"
    assert longer(StudyResult(out).study, replicas=23).origins["rounds"] == "file"
    result = more.run(out, **OPTIONS)
    # Blocks of five: two of three stay, the third had two replicas and is one of five now.
    assert result.tally.done == 6 * 3
    after = digests(out)
    kept = {f: d for f, d in before.items() if "000010-000012" not in f}
    assert {f: after[f] for f in kept} == kept
    fresh = more.run(tmp_path / "fresh", **OPTIONS)
    assert digests(fresh.folder.path) == after


def test_more_rounds_repeat_the_stored_prefix(tmp_path, study):
    out = small_result(tmp_path).folder.path
    before = small_table(out, study)
    result = longer(study, rounds=9).run(out, **OPTIONS)
    assert result.tally.done == 9  # the online cells
    after = result.to_pandas()
    online = after[after["round"] <= 5].reset_index(drop=True)
    was = before[before["round"] <= 5].reset_index(drop=True)
    assert online["gap"].equals(was["gap"])
    assert after["round"].max() == 9
    fresh = longer(study, rounds=9).run(tmp_path / "fresh", **OPTIONS)
    assert digests(fresh.folder.path) == digests(out)


def test_the_end_of_a_study_on_its_way_to_more_rounds_is_what_all_blocks_have(tmp_path, study):
    result = small_result(tmp_path)
    want = result.summary()
    last = sorted((result.folder.path / "cells").rglob("r000010-000012.parquet"))
    short = {f: f.read_bytes() for f in last}
    longer(study, rounds=9).run(result.folder.path, **OPTIONS)
    for file, content in short.items():
        file.write_bytes(content)
    mixed = StudyResult(result.folder.path)
    assert mixed.to_pandas()["pairs"].max() == 40
    assert mixed.summary().equals(want)


def small_table(out, study):
    return study.run(out, **OPTIONS).to_pandas()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"replicas": 11}, "replicas can only grow, from 12; got 11"),
        ({"rounds": 2}, "rounds can only grow, from 6; got 2"),
    ],
)
def test_studies_do_not_shrink(study, more, words):
    with pytest.raises(ValueError, match=words):
        longer(study, **more)


def test_a_study_without_online_learners_has_no_rounds():
    study = Study(name="a", worlds=["linear"], learners=["offline-greedy"], pairs=[5])
    with pytest.raises(ValueError, match="no online learner, so no rounds to extend"):
        longer(study, rounds=5)


def test_a_new_learner_is_all_that_is_computed(tmp_path, study):
    out = small_result(tmp_path).folder.path
    learners = [*study.resolved()["learners"], {"kind": "ensemble-minimum", "n_members": 2}]
    result = study.changed({"learners": learners}).run(out, **OPTIONS)
    assert result.tally.done == 9
    assert set(result.to_pandas()["learner"]) == {"greedy", "GSHF", "ensemble-minimum"}


def test_backends_and_jobs_do_not_change_a_bit(tmp_path, study):
    serial = study.run(tmp_path / "serial", **OPTIONS)
    local = study.run(tmp_path / "local", backend="local", jobs=2, quiet=True)
    assert digests(serial.folder.path) == digests(local.folder.path)


def test_the_default_folder_is_named_after_the_study(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(default_folder(study)) == "results/small"
    result = study.run(only=["game/greedy"], **OPTIONS)
    assert result.folder.path.resolve() == tmp_path / "results" / "small"


def test_bad_options_write_nothing(tmp_path, study):
    for options, words in (
        ({"jobs": -1}, "jobs must be at least 1; got -1"),
        ({"backend": "slurn"}, "Did you mean 'slurm'"),
        ({"backend": "serial", "options": {"partition": "gpu"}}, "partition"),
    ):
        with pytest.raises(ValueError, match=words):
            study.run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_study_is_refused(tmp_path, study):
    out = small_result(tmp_path).folder.path
    with pytest.raises(ValueError, match="holds another one: this has name=other"):
        study.changed({"name": "other"}).run(out, **OPTIONS)
