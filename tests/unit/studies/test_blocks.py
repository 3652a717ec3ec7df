from __future__ import annotations

import errno
import json
import pickle
import re
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_info

from rlhf_theory.engine import tasks as engine_tasks
from rlhf_theory.engine.tasks import compute, record_failure
from rlhf_theory.experiments.runner import run
from rlhf_theory.store import DamagedError, read_json, write_json
from rlhf_theory.studies import blocks
from rlhf_theory.studies.blocks import Task
from rlhf_theory.studies.folder import StudyFolder
from rlhf_theory.studies.recording import recorded_rounds
from rlhf_theory.studies.registry import build_learner, cell_world
from rlhf_theory.studies.tables import about_of, block_table, read_block
from tests.helpers import unruly
from tests.helpers.study_cells import HERE, offline_cell, online_cell

MARKER = {"made_by": "rlhf-theory run", "name": "blocks", "format": 3}


def tasks(folder, cell):
    return [Task(folder=str(folder), cell=cell, first=a, stop=b) for a, b in cell.blocks()]


def computed(folder, cell):
    """Compute all blocks; return them as one frame."""
    outcomes = [compute(task) for task in tasks(folder, cell)]
    assert [o.state for o in outcomes] == ["done"] * len(outcomes), outcomes[0].error
    return pd.concat([pd.read_parquet(t.path) for t in tasks(folder, cell)], ignore_index=True)


def whole(cell):
    """The whole cell in one call of the runner."""
    return run(
        build_learner(cell.learner),
        cell_world(cell, 0, cell.replicas),
        rounds=cell.rounds,
        offline_pairs=cell.offline_pairs,
        pairs=cell.pairs,
        seed=cell.seed,
        block=cell.block,
    )


# ----------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize(
    "cell",
    [
        online_cell(),
        online_cell(offline_pairs=20, coverage=0.5, replicas=10),
        online_cell(world={"contexts": None, "instances": "shared"}, replicas=5),
        offline_cell(replicas=10),
    ],
    ids=["online", "hybrid with a partial block", "fresh contexts", "offline"],
)
def test_blocks_are_the_whole_run_bit_for_bit(tmp_path, cell):
    frame, trace = computed(tmp_path, cell), whole(cell)
    t = len(trace.index)
    np.testing.assert_array_equal(frame["replica"], np.repeat(np.arange(cell.replicas), t))
    np.testing.assert_array_equal(frame[trace.index_name], np.tile(trace.index, cell.replicas))
    for name, values in trace.arrays.items():
        np.testing.assert_array_equal(frame[name], values.ravel(), err_msg=name)


@pytest.mark.parametrize("cell", [online_cell(offline_pairs=16), offline_cell()])
def test_block_sizes_agree(tmp_path, cell):
    cell = replace(cell, replicas=20)
    frames = [computed(tmp_path, replace(cell, block=size)) for size in (1, 16, 64)]
    for other in frames[1:]:
        # Residuals of solvers are rounding errors themselves.
        drop = ["residual"]
        pd.testing.assert_frame_equal(
            frames[0].drop(columns=drop), other.drop(columns=drop), rtol=1e-8, atol=1e-8
        )


def test_labels_are_those_that_the_policy_of_the_row_was_fitted_on(tmp_path):
    cell = online_cell(offline_pairs=20, coverage=0.5)
    labels = computed(tmp_path, cell)["labels"].to_numpy().reshape(cell.replicas, -1)
    world, learner = cell_world(cell, 0, cell.replicas), build_learner(cell.learner)
    # What the states of the learner hold, from its data: the runner counts on its own.
    seen = []

    class Spy:
        def init(self, problem, data, key):
            return self._noted(learner.init(problem, data, key))

        def step(self, state, problem, feedback, key):
            state, report = learner.step(state, problem, feedback, key)
            return self._noted(state), report

        policy = learner.policy

        def _noted(self, state):
            seen.append(state.data.n_labels)
            return state

    run(Spy(), world, rounds=cell.rounds, offline_pairs=20, seed=cell.seed, block=cell.replicas)
    np.testing.assert_array_equal(labels, np.stack(seen, axis=1))
    assert labels[:, 0].min() > 0


def test_offline_labels_are_those_of_the_fit(tmp_path):
    cell = offline_cell()
    frame = computed(tmp_path, cell)
    np.testing.assert_array_equal(frame["labels"], whole(cell)["labels"].ravel())
    assert "regret" not in frame


def test_labels_are_counted_also_where_a_learner_reports_nothing(tmp_path):
    cell = online_cell(f"{HERE}:Silent", learner={})
    labels = computed(tmp_path, cell)["labels"].to_numpy().reshape(cell.replicas, -1)
    want = computed(tmp_path / "told", online_cell(learner={}))
    np.testing.assert_array_equal(labels.ravel(), want["labels"])
    assert (labels[:, -1] > 0).all()


def test_regret_sums_the_metric_over_all_rounds_before_whatever_is_kept(tmp_path):
    cell = online_cell(rounds=25, grid="linear", points=10, metric="jeffreys", metrics=("kl",))
    frame, trace = computed(tmp_path, cell), whole(cell)
    # The primary metric is always there.
    assert list(frame.columns) == ["replica", "round", "labels", "regret", "kl", "jeffreys"]
    assert sorted(set(frame["round"])) == [0, 10, 20, 25]
    for (replica, t), regret in frame.set_index(["replica", "round"])["regret"].items():
        assert regret == pytest.approx(sum(trace["jeffreys"][replica, :t]), rel=1e-12)


def test_without_a_metric_regret_is_of_the_gap_and_of_exploitability_where_there_is_none(tmp_path):
    gap = online_cell(metric=None)
    assert about_of(read_block_of(tmp_path, gap)).metric == "gap"
    game = online_cell(
        "nash-game",
        learner={"batch_size": 8},
        world={"kind": "intransitive", "instances": "shared"},
        metric=None,
    )
    game = replace(game, world={"kind": "intransitive", "contexts": 3, "actions": 3, "dim": 2})
    assert about_of(read_block_of(tmp_path, game)).metric == "exploitability"


def read_block_of(folder, cell):
    computed(folder, cell)
    return read_block(tasks(folder, cell)[0].path, cell)[0]


def test_kept_rows_are_the_rows_of_the_grid(tmp_path):
    cell = online_cell(rounds=30)
    every = computed(tmp_path, cell)
    some = computed(tmp_path, replace(cell, grid="log", points=5))
    wanted = every[every["round"].isin(recorded_rounds(30, "log", 5))].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, wanted)


# ----------------------------------------------------------------------------- the file


def test_the_file_says_what_it_is_and_its_bytes_do_not_depend_on_when(tmp_path):
    cell = online_cell()
    first, again = (tasks(tmp_path / place, cell)[1] for place in ("a", "b"))
    outcome = compute(first)
    compute(again)
    assert first.path.read_bytes() == again.path.read_bytes()
    table, about = read_block(first.path, cell)
    assert (about.key, about.first, about.stop, about.rounds) == (cell.key, 4, 8, 5)
    assert outcome.about == about
    state = first.path.stat()
    assert (outcome.size, outcome.modified) == (state.st_size, state.st_mtime_ns)
    assert outcome.name == first.name == f"{cell.key}/r000004-000008"
    assert first.path == tmp_path / "a" / "cells" / cell.key / "r000004-000008.parquet"
    stored = json.loads(pq.read_schema(first.path).metadata[b"rlhf_theory"])
    assert stored["versions"]["numpy"] == np.__version__
    assert table.num_rows == 4 * 6


def test_a_task_and_its_outcome_can_be_sent(tmp_path):
    task = tasks(tmp_path, online_cell())[0]
    sent = pickle.loads(pickle.dumps(task))
    assert sent.name == task.name
    outcome = compute(sent)
    assert pickle.loads(pickle.dumps(outcome)) == outcome


def test_a_worker_writes_the_same_bytes(tmp_path):
    cell = online_cell(world={"dim": 3, "actions": 5}, offline_pairs=10)
    here, there = (tasks(tmp_path / place, cell) for place in ("a", "b"))
    # A fresh interpreter, whose linear algebra has as many threads as it likes.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert [o.state for o in pool.map(compute, there)] == ["done", "done"]
    for one, other in zip(here, there, strict=True):
        compute(one)
        assert one.path.read_bytes() == other.path.read_bytes()


def test_one_thread_of_linear_algebra(tmp_path, monkeypatch):
    seen = []

    def spy(*args, **kwargs):
        seen.extend(info["num_threads"] for info in threadpool_info())
        return run(*args, **kwargs)

    monkeypatch.setattr(blocks, "run", spy)
    assert compute(tasks(tmp_path, online_cell())[0]).state == "done"
    assert set(seen) == {1}


def test_what_has_appeared_meanwhile_is_not_computed_again(tmp_path, monkeypatch):
    task = tasks(tmp_path, online_cell())[0]
    before = compute(task)
    monkeypatch.setattr(blocks, "run", None)
    outcome = compute(task)
    assert (outcome.state, outcome.size, outcome.about) == ("skipped", before.size, before.about)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "moved"])
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    first, second = tasks(tmp_path, online_cell())
    compute(first)
    good = first.path.read_bytes()
    bad = {
        "cut": good[: len(good) // 2],
        # Inside a data page: only its checksum tells.
        "flipped": good[:60] + bytes([good[60] ^ 1]) + good[61:],
        "empty": b"",
        "foreign": b"PAR1 something else PAR1",
        "moved": b"",
    }[damage]
    first.path.write_bytes(bad)
    if damage == "moved":
        compute(second)
        first.path.write_bytes(second.path.read_bytes())
    with pytest.raises(DamagedError, match="must "):
        read_block(first.path, first.cell)
    assert compute(first).state == "done"
    assert first.path.read_bytes() == good


# ----------------------------------------------------------------------------- failures


def test_what_a_learner_raises_becomes_a_record(tmp_path):
    task = tasks(tmp_path, online_cell(f"{HERE}:Raising", learner={"text": "too cold"}))[0]
    outcomes = [compute(task) for _ in range(2)]
    assert {o.state for o in outcomes} == {"failed"}
    assert outcomes[0].error == "ValueError: too cold"
    assert not outcomes[0].disk
    record = read_json(task.beside(".failed.json"))
    assert record["attempts"] == 2
    assert "in init" in record["traceback"]
    assert record["error"] == outcomes[0].error
    names = {p.name for p in task.path.parent.iterdir()}
    assert names == {"r000000-000004.failed.json"}


def unruly_task(folder, how):
    return tasks(folder, online_cell(f"{unruly.HERE}:Unruly", learner={"how": how}))[0]


@pytest.mark.parametrize("how", unruly.DEADLY)
def test_whatever_a_learner_raises_is_a_failure_of_its_block(tmp_path, how):
    task = unruly_task(tmp_path, how)
    outcome = compute(task)
    assert outcome.state == "failed"
    says = {
        "exits": "SystemExit: bye",
        "stops": "StopEverythingError: stop",
        "mumbles": "ValueError: no such file: caf\\udce9",
        "is mute": "MuteError: (its text cannot be had)",
    }
    assert outcome.error == says[how]
    record = read_json(task.beside(".failed.json"))
    assert (record["error"], record["traceback"]) == (outcome.error, outcome.traceback)
    assert "in step" in record["traceback"]


def test_ctrl_c_in_a_learner_is_no_failure(tmp_path):
    task = unruly_task(tmp_path, "is interrupted")
    with pytest.raises(KeyboardInterrupt):
        compute(task)
    assert not task.path.parent.exists()


@pytest.mark.parametrize("how", unruly.HARMFUL)
def test_a_learner_changes_nothing_for_the_blocks_after_it(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    before = (Path.cwd(), list(warnings.filters), warnings.showwarning, np.geterr())
    assert compute(unruly_task(tmp_path, how)).state == "done"
    assert (Path.cwd(), list(warnings.filters), warnings.showwarning, np.geterr()) == before


def test_text_that_no_file_takes_is_recorded_nevertheless(tmp_path):
    task = tasks(tmp_path, online_cell())[0]
    outcome = record_failure(task, "caf\udce9", "in caf\udce9")
    record = read_json(task.beside(".failed.json"))
    assert (record["error"], record["traceback"]) == ("caf\\udce9", "in caf\\udce9")
    assert (outcome.error, outcome.traceback) == ("caf\\udce9", "in caf\\udce9")


def test_a_record_that_was_changed_by_hand_stops_nobody(tmp_path):
    task = tasks(tmp_path, online_cell())[0]
    record_failure(task, "first")
    task.beside(".failed.json").write_text('{"attempts": "many"}')
    record_failure(task, "second")
    assert read_json(task.beside(".failed.json"))["attempts"] == 1


def test_memory_that_ends_is_a_failure(tmp_path):
    task = tasks(tmp_path, online_cell(f"{HERE}:Raising", learner={"error": "MemoryError"}))[0]
    assert compute(task).error.startswith("MemoryError")


def test_success_removes_the_record(tmp_path):
    task = tasks(tmp_path, online_cell())[0]
    assert record_failure(task, "the worker died").state == "failed"
    assert read_json(task.beside(".failed.json"))["error"] == "the worker died"
    compute(task)
    assert {p.name for p in task.path.parent.iterdir()} == {"cell.json", task.path.name}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metrics": ("gapp",)}, "metric must be one of kl, gap, .* Did you mean 'gap'"),
        ({"metric": "exploitability"}, "metric must be one of"),
        ({"world": {"eta": -1.0}}, "eta must be positive"),
        ({"learner": {"batch_size": 0}}, "batch_size must be positive"),
        ({"kind": "no-such"}, "no-such"),
        ({"metric": "gapp", "metrics": ("kl",)}, "metric must be one of .* Did you mean 'gap'"),
        *(
            (
                {"kind": f"{HERE}:Clashing", "learner": {"name": name}},
                f"taken by a column of every table: {name}. Report it under another name",
            )
            for name in (
                "regret",
                "cell",
                "world",
                "learner",
                "family",
                "metric",
                "counted",
                "place",
                "replica",
                "seed",
                "block",
                "pairs",
                "round",
                "world.dim",
                "learner.batch_size",
            )
        ),
    ],
)
def test_mistakes_are_failures_that_say_what_there_is(tmp_path, changes, says):
    outcome = compute(tasks(tmp_path, online_cell(**changes))[0])
    assert outcome.state == "failed"
    assert re.search(says, outcome.error), outcome.error


def test_a_full_disk_is_no_failure_of_the_cell(tmp_path, monkeypatch):
    task = tasks(tmp_path, online_cell())[0]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blocks, "write_atomic", full)
    outcome = compute(task)
    assert (outcome.state, outcome.disk) == ("failed", True)
    assert [p.name for p in task.path.parent.iterdir()] == ["cell.json"]


def test_a_failure_that_cannot_be_written_is_told_nevertheless(tmp_path, monkeypatch):
    task = tasks(tmp_path, online_cell(f"{HERE}:Raising", learner={}))[0]

    def broken(*_):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(engine_tasks, "write_json", broken)
    outcome = compute(task)
    assert (outcome.state, outcome.error, outcome.disk) == ("failed", "ValueError: no good", False)


def test_a_file_in_the_way_is_a_failure(tmp_path):
    (tmp_path / "cells").write_text("mine")
    outcome = compute(tasks(tmp_path, online_cell())[0])
    assert outcome.state == "failed"
    assert (tmp_path / "cells").read_text() == "mine"


# ----------------------------------------------------------------------------- extending


def test_a_longer_run_replaces_a_shorter_one_and_equals_an_undisturbed_one(tmp_path):
    short, long = online_cell(rounds=3, offline_pairs=8), online_cell(rounds=6, offline_pairs=8)
    assert short.key == long.key
    computed(tmp_path / "a", short)
    computed(tmp_path / "a", long)
    computed(tmp_path / "b", long)
    for one, other in zip(tasks(tmp_path / "a", long), tasks(tmp_path / "b", long), strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def test_a_thinned_run_is_extended_although_its_last_round_leaves_the_grid(tmp_path):
    short, long = (online_cell(rounds=t, grid="linear", points=10) for t in (17, 40))
    computed(tmp_path, short)
    assert set(computed(tmp_path, long)["round"]) == {0, 10, 20, 30, 40}


def test_a_longer_file_serves_a_shorter_cell(tmp_path):
    computed(tmp_path, online_cell(rounds=6))
    assert compute(tasks(tmp_path, online_cell(rounds=3))[0]).state == "skipped"


def test_a_longer_run_that_does_not_repeat_the_shorter_one_fails_and_keeps_it(tmp_path):
    size = tmp_path / "size"
    size.write_text("4")
    cell = online_cell(f"{HERE}:Moody", learner={"file": str(size)})
    task = tasks(tmp_path, cell)[0]
    compute(task)
    before = task.path.read_bytes()
    size.write_text("5")
    outcome = compute(replace(task, cell=replace(cell, rounds=9)))
    assert outcome.state == "failed"
    assert "over 9 rounds must repeat the 5 that are stored" in outcome.error
    assert re.search(r"labels of replica 0 at round 1 was \d\.0 and is now \d\.0", outcome.error)
    assert task.path.read_bytes() == before
    size.write_text("4")
    assert compute(replace(task, cell=replace(cell, rounds=9))).state == "done"


def test_another_primary_metric_computes_the_regret_anew(tmp_path):
    cell = online_cell()
    computed(tmp_path, cell)
    other = replace(cell, metric="jeffreys")
    frame = computed(tmp_path, other)
    last = frame[frame["round"] == 5]["regret"]
    np.testing.assert_allclose(last, whole(cell)["jeffreys"][:, :-1].sum(axis=1))


@pytest.mark.parametrize("metrics", [None, ("kl",)])
def test_another_primary_metric_with_fewer_rounds_keeps_the_rounds(tmp_path, metrics):
    cell = online_cell(rounds=6, metrics=metrics)
    computed(tmp_path / "a", cell)
    other = replace(cell, rounds=3, metric="jeffreys")
    computed(tmp_path / "a", other)
    # As if it had been all rounds from the beginning; and back again.
    for now in (replace(cell, metric="jeffreys"), cell):
        computed(tmp_path / now.metric, now)
        if now is cell:
            computed(tmp_path / "a", cell)
        for one, calm in zip(
            tasks(tmp_path / "a", now), tasks(tmp_path / now.metric, now), strict=True
        ):
            assert one.path.read_bytes() == calm.path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "learner"), [("online-iterative", {"batch_size": 8}), (f"{HERE}:Silent", {})]
)
@pytest.mark.parametrize("metrics", [None, ("kl", "residual"), ("residual",)])
def test_a_run_of_no_rounds_is_extended(tmp_path, kind, learner, metrics):
    none = online_cell(kind, learner=learner, rounds=0, offline_pairs=8, metrics=metrics)
    some = replace(none, rounds=4)
    computed(tmp_path / "a", none)
    if metrics == ("residual",) and kind.endswith("Silent"):
        # Now it is known that nothing of the kind is reported.
        assert "metric must be one of" in compute(tasks(tmp_path / "a", some)[0]).error
        return
    computed(tmp_path / "a", some)
    computed(tmp_path / "b", some)
    for one, other in zip(tasks(tmp_path / "a", some), tasks(tmp_path / "b", some), strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


# ----------------------------------------------------------------------------- chosen metrics


def test_a_cell_keeps_those_of_the_wanted_metrics_that_it_has(tmp_path):
    wanted = ("exploitability", "kl", "residual")
    frame = computed(tmp_path, online_cell(metrics=wanted))
    # And its primary one; in the order of a file that keeps everything.
    assert list(frame.columns) == [
        "replica", "round", "labels", "regret", "kl", "gap", "residual",
    ]  # fmt: skip
    everything = computed(tmp_path, online_cell())
    pd.testing.assert_frame_equal(frame, everything[frame.columns], check_exact=True)
    offline = computed(tmp_path, offline_cell(metrics=("labels", "exploitability", "kl")))
    assert list(offline.columns) == ["replica", "pairs", "labels", "kl", "gap"]


@pytest.mark.parametrize("cell", [online_cell(), offline_cell()], ids=["online", "offline"])
def test_what_every_table_has_can_be_asked_for_alone(tmp_path, cell):
    frame = computed(tmp_path, replace(cell, metrics=("labels",)))
    assert list(frame.columns[-1:]) == ["gap"]
    assert frame["labels"].notna().all()


def test_order_and_repetition_of_the_metrics_change_no_byte(tmp_path):
    def files(place, cell):
        computed(tmp_path / place, cell)
        return {t.name: t.path.read_bytes() for t in tasks(tmp_path / place, cell)}

    cell = online_cell(metrics=("kl", "gap", "jeffreys"))
    assert files("a", cell) == files("b", replace(cell, metrics=("jeffreys", "kl", "gap")))
    # One that is named twice may be another cell, whose key its file says; not another table.
    trace = whole(replace(cell, replicas=4))
    twice = replace(cell, metrics=("gap", "kl", "gap", "jeffreys"))
    one, other = (block_table(c, 0, 4, trace) for c in (cell, twice))
    assert one.replace_schema_metadata(None).equals(other.replace_schema_metadata(None))


def test_another_primary_metric_is_added_to_chosen_ones_also_offline(tmp_path):
    for cell in (online_cell(metrics=("kl",)), offline_cell(metrics=("kl",))):
        assert "jeffreys" not in computed(tmp_path, cell)
        other = replace(cell, metric="jeffreys")
        assert other.key == cell.key
        frame = computed(tmp_path, other)
        assert "jeffreys" in frame
        assert "gap" not in frame
        assert compute(tasks(tmp_path, other)[0]).state == "skipped"


def test_the_longer_last_block_replaces_the_shorter_one(tmp_path):
    few, more = online_cell(replicas=6), online_cell(replicas=8)
    computed(tmp_path, few)
    write_json(tmp_path / "study.json", MARKER)
    old = tasks(tmp_path, few)[-1]
    record_failure(old, "of long ago")
    assert old.path.exists()
    outcomes = [compute(task) for task in StudyFolder(tmp_path).todo([more])]
    assert [o.state for o in outcomes] == ["done"]
    names = sorted(p.name for p in old.path.parent.iterdir())
    assert names == ["cell.json", "r000000-000004.parquet", "r000004-000008.parquet"]


def test_a_shorter_last_block_goes_only_when_the_longer_one_is_there(tmp_path, monkeypatch):
    computed(tmp_path, online_cell(replicas=6))
    write_json(tmp_path / "study.json", MARKER)
    old = tasks(tmp_path, online_cell(replicas=6))[-1]

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(blocks, "write_atomic", broken)
    (task,) = StudyFolder(tmp_path).todo([online_cell()])
    assert task.replaces == (old.name,)
    assert compute(task).state == "failed"
    assert old.path.exists()


def test_a_recorded_array_of_a_wrong_shape_is_told_with_the_right_one(tmp_path):
    outcome = compute(tasks(tmp_path, online_cell(f"{HERE}:Odd", learner={}))[0])
    assert outcome.state == "failed"
    assert outcome.error == (
        "ShapeError: step must record 'mine' with shape (R,) = (4,), one value per replica; "
        "got (3,)."
    )
