from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest

from rlhf_theory import store
from rlhf_theory.engine.tasks import Outcome, compute
from rlhf_theory.store import DamageWarning, write_json
from rlhf_theory.studies import curves, journals, ledger, looks
from rlhf_theory.studies import folder as module
from rlhf_theory.studies.folder import StudyFolder
from rlhf_theory.studies.tables import About
from tests.helpers.study_cells import offline_cell, online_cell


@dataclass(frozen=True)
class Named:
    name: str = "small"
    content: dict = field(default_factory=lambda: {"replicas": 8})

    def resolved(self):
        return self.content


def claimed(path):
    folder = StudyFolder(path)
    folder.claim(Named())
    return folder


def ran(path, *cells, keep=True):
    """A folder in which the cells are done; with ``keep`` its journal says so."""
    folder = claimed(path)
    for task in folder.todo(cells):
        outcome = compute(task)
        assert outcome.state == "done", outcome.error
        if keep:
            folder.note(outcome)
    folder.close()
    return folder


@pytest.fixture
def opened(monkeypatch):
    """Names of the block files that are opened to look whether they are whole."""
    names = []
    real = ledger.read_block

    def spy(path, *rest):
        names.append(path.stem)
        return real(path, *rest)

    monkeypatch.setattr(ledger, "read_block", spy)
    return names


def journal(path):
    """What the journals of a folder hold: names of blocks, once each."""
    lines = [x for p in (path / "journal").glob("*.jsonl") for x in p.read_text().split("\n") if x]
    return sorted({json.loads(line.partition(" ")[2])[0] for line in lines})


# ----------------------------------------------------------------------------- claiming


def test_a_folder_that_is_not_there_is_a_study_with_nothing_done(tmp_path):
    folder = StudyFolder(tmp_path / "deep" / "out")
    cell = online_cell()
    assert folder.done([cell]) == set()
    assert folder.failed([cell]) == {}
    assert [t.name for t in folder.todo([cell])] == [
        f"{cell.key}/r000000-000004",
        f"{cell.key}/r000004-000008",
    ]
    assert folder.read([cell]).empty
    assert not (tmp_path / "deep").exists()
    with pytest.raises(ValueError, match=r"with the resolved.json that .* it has none"):
        folder.resolved()


def test_claiming_stores_the_study_and_can_be_repeated(tmp_path):
    out = tmp_path / "out"
    StudyFolder(out).claim(Named(), toml="name = 'small' # mine\n")
    StudyFolder(out).claim(Named(content={"replicas": 16}))
    assert StudyFolder(out).resolved() == {"replicas": 16}
    assert (out / "study.toml").read_text() == "name = 'small' # mine\n"
    assert json.loads((out / "study.json").read_text()) == {
        "made_by": "rlhf-theory run",
        "name": "small",
        "format": 3,
    }


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"must be the folder of a study .* it is none"):
        StudyFolder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="must be the folder of a study"):
        StudyFolder(tmp_path / "out")


def test_another_format_and_another_maker_are_refused(tmp_path):
    for says in ({"made_by": "rlhf-theory run", "name": "a", "format": 99}, {"made_by": "cards"}):
        write_json(tmp_path / "study.json", says)
        with pytest.raises(ValueError, match=r"its study.json says"):
            StudyFolder(tmp_path)


@pytest.mark.parametrize("former", [1, 2])
def test_a_folder_of_a_former_format_is_to_be_computed_anew(tmp_path, former):
    marker = {"made_by": "rlhf-theory run", "name": "a", "format": former}
    write_json(tmp_path / "study.json", marker)
    with pytest.raises(ValueError, match="have to be computed anew, in another folder") as caught:
        StudyFolder(tmp_path)
    assert str(caught.value).startswith(
        f"The study in {tmp_path} is of format {former}, which is not"
    )
    assert str(caught.value).endswith("Choose one with --out.")


def test_another_study_is_refused_with_what_differs(tmp_path):
    folder = claimed(tmp_path)
    with pytest.raises(ValueError, match=r"name=other \(the folder has small\)"):
        folder.claim(Named("other"))
    assert StudyFolder(tmp_path).resolved() == {"replicas": 8}


def test_a_folder_that_cannot_be_written_to_is_refused_with_what_to_do(tmp_path, monkeypatch):
    # By hand: a superuser may write anywhere.
    def read_only(path, _):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "write_json", read_only)
    with pytest.raises(ValueError, match=r"must be writable; .*Permission denied.*--out"):
        StudyFolder(tmp_path / "out").claim(Named())


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_that_somebody_is_just_claiming_is_waited_for(tmp_path, monkeypatch, killed):
    half = tmp_path / ".study.json.1.aa.tmp"
    half.write_text("{")
    waited = []

    def other(seconds):
        waited.append(seconds)
        if len(waited) == 3 and not killed:
            half.unlink()
            write_json(
                tmp_path / "study.json",
                {"made_by": "rlhf-theory run", "name": "small", "format": 3},
            )

    monkeypatch.setattr(module.time, "sleep", other)
    folder = StudyFolder(tmp_path)
    folder.claim(Named())
    assert len(waited) == (store._TRIES if killed else 3)
    assert StudyFolder(tmp_path).resolved() == {"replicas": 8}
    assert not half.exists()


def test_reading_needs_no_right_to_write(tmp_path, monkeypatch):
    cell = online_cell()
    ran(tmp_path, cell, keep=False)

    real = type(tmp_path).open

    def read_only(path, mode="r", *rest, **options):
        if mode in ("r", "rb"):
            return real(path, mode, *rest, **options)
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "open", read_only)
    folder = StudyFolder(tmp_path)
    assert len(folder.done([cell])) == 2
    assert len(folder.read([cell])) == 8 * 6
    folder.close()


# ----------------------------------------------------------------------------- what is done


def test_what_a_journal_knows_is_not_opened(tmp_path, opened):
    cells = [online_cell(), offline_cell()]
    ran(tmp_path, *cells)
    folder = StudyFolder(tmp_path)
    assert len(folder.done(cells)) == 4
    assert folder.todo(cells) == []
    assert opened == []
    held = folder.look(cells).held
    assert set(held) == folder.done(cells)
    assert min(h.seconds for h in held.values()) > 0


def test_a_whole_file_that_nobody_listed_is_read_once(tmp_path, opened):
    cell = online_cell()
    ran(tmp_path, cell, keep=False)
    folder = StudyFolder(tmp_path)
    for _ in range(2):
        assert len(folder.done([cell])) == 2
    folder.close()
    assert len(opened) == 2
    StudyFolder(tmp_path).done([cell])
    assert len(opened) == 2
    assert {held.seconds for held in folder.look([cell]).held.values()} == {None}


@pytest.mark.parametrize("listed", [True, False])
def test_a_truncated_file_is_computed_again(tmp_path, listed):
    cell = online_cell()
    first, _ = ran(tmp_path, cell, keep=listed).tasks([cell])
    good = first.path.read_bytes()
    first.path.write_bytes(good[:-7])
    folder = StudyFolder(tmp_path)
    look = folder.look([cell])
    assert [t.name for t in look.todo] == [first.name]
    (said,) = look.damaged
    assert said.startswith(f"{first.path} must be a block of a study")
    folder.note(compute(first))
    assert first.path.read_bytes() == good
    assert folder.todo([cell]) == []


def test_a_file_of_another_size_is_read_and_counts_if_it_is_whole(tmp_path, opened):
    cell = online_cell(rounds=3)
    ran(tmp_path, cell)
    longer = replace(cell, rounds=7)
    for task in StudyFolder(tmp_path).todo([longer]):
        compute(task)  # and killed before the journal was written
    opened.clear()
    assert len(StudyFolder(tmp_path).done([longer])) == 2
    assert len(opened) == 2


def test_a_file_that_is_gone_is_computed_again(tmp_path):
    cell = online_cell()
    folder = ran(tmp_path, cell)
    first, _ = folder.tasks([cell])
    first.path.unlink()
    assert [t.name for t in StudyFolder(tmp_path).todo([cell])] == [first.name]


@pytest.mark.parametrize("content", ["", "{", "00000000 []", None])
def test_without_a_journal_that_can_be_read_the_files_are(tmp_path, content, opened):
    cell = online_cell()
    ran(tmp_path, cell)
    (path,) = (tmp_path / "journal").glob("*.jsonl")
    path.unlink() if content is None else path.write_text(content)
    folder = StudyFolder(tmp_path)
    assert len(folder.done([cell])) == 2
    assert len(opened) == 2
    folder.close()
    assert len(journal(tmp_path)) == 2


def test_a_file_of_another_time_is_read(tmp_path, opened):
    cell = online_cell()
    first, _ = ran(tmp_path, cell).tasks([cell])
    first.path.touch()
    assert len(StudyFolder(tmp_path).done([cell])) == 2
    assert opened == [first.path.stem]


def test_fewer_rounds_than_asked_are_not_done(tmp_path):
    cell = online_cell(rounds=3)
    folder = ran(tmp_path, cell)
    assert folder.done([replace(cell, rounds=2)]) == folder.done([cell])
    assert folder.done([replace(cell, rounds=4)]) == set()
    assert folder.done([replace(cell, metric="jeffreys")]) == set()


def test_more_replicas_need_only_their_own_blocks(tmp_path):
    few, more = online_cell(replicas=6), online_cell(replicas=10)
    ran(tmp_path, few)
    folder = StudyFolder(tmp_path)
    names = [t.name.partition("/")[2] for t in folder.todo([more])]
    assert names == ["r000004-000008", "r000008-000010"]
    for task in folder.todo([more]):
        folder.note(compute(task))
    assert len(folder.done([more])) == 3
    folder.close()
    assert journal(tmp_path) == [
        f"{few.key}/r{a}" for a in ("000000-000004", "000004-000008", "000008-000010")
    ]
    # What was replaced cannot be had any more.
    assert len(StudyFolder(tmp_path).done([few])) == 1


def test_what_a_block_took_is_not_forgotten(tmp_path):
    cell = online_cell()
    folder = ran(tmp_path, cell)
    before = folder.look([cell]).held
    other = StudyFolder(tmp_path)
    for task in folder.tasks([cell]):
        other.note(compute(task))  # skipped
    other.close()
    assert StudyFolder(tmp_path).look([cell]).held == before


def test_a_task_knows_its_folder_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = StudyFolder("out").tasks([online_cell()])[0]
    monkeypatch.chdir("/")
    assert task.path.is_relative_to(tmp_path / "out")


def test_a_cell_that_comes_twice_is_computed_once(tmp_path):
    cell = online_cell()
    folder = StudyFolder(tmp_path)
    assert len(folder.tasks([cell, replace(cell, learner_label="B")])) == 2


def test_failures_are_those_of_blocks_that_are_not_done(tmp_path):
    cell = online_cell()
    folder = claimed(tmp_path)
    first, second = folder.tasks([cell])
    for task in (first, second):
        folder.record_failure(task, "the worker died 3 times")
    assert set(folder.failed([cell])) == {first.name, second.name}
    folder.note(compute(first))
    assert set(folder.failed([cell])) == {second.name}
    assert folder.failed([cell])[second.name]["error"] == "the worker died 3 times"
    assert second.name in {t.name for t in folder.todo([cell])}


def test_two_runs_lose_nothing_of_what_they_know(tmp_path):
    cell = online_cell()
    one, other = claimed(tmp_path), StudyFolder(tmp_path)
    assert one.done([cell]) == other.done([cell]) == set()
    first, second = one.tasks([cell])
    with one.running(), other.running():
        one.note(compute(first))
        other.note(compute(second))
    assert len(list((tmp_path / "journal").glob("*.jsonl"))) == 2
    one.close()
    other.close()
    names = {first.name, second.name}
    assert set(journal(tmp_path)) == names
    assert len(list((tmp_path / "journal").glob("*.jsonl"))) == 1
    # And each sees what the other has done.
    assert one.done([cell]) == other.done([cell]) == names


def test_looking_through_many_blocks_takes_a_glance_at_each(tmp_path, monkeypatch):
    # No file is opened, and none is asked for its state twice.
    cell = online_cell(replicas=400, block=1)
    folder = claimed(tmp_path)
    tasks = folder.tasks([cell])
    tasks[0].path.parent.mkdir()
    about = About(key=cell.key, first=0, stop=1, rounds=5, metric="gap", digest="")
    written = []
    real = journals.zlib.crc32
    monkeypatch.setattr(journals.zlib, "crc32", lambda text: written.append(text) or real(text))
    for task in tasks:
        task.path.write_bytes(b"x")
        state = task.path.stat()
        stamp = {"size": state.st_size, "modified": state.st_mtime_ns}
        folder.note(Outcome(name=task.name, state="done", seconds=1.0, about=about, **stamp))
    assert len(written) == len(tasks)  # a line for each, written once
    counts = Counter()
    for module_, name in ((ledger, "read_block"), (looks, "Stamp"), (journals, "_take_up")):
        call = getattr(module_, name)

        def counted(*given, call=call, name=name):
            counts[name] += 1
            return call(*given)

        monkeypatch.setattr(module_, name, counted)
    assert len(StudyFolder(tmp_path).look([cell]).done) == len(tasks)
    assert counts["read_block"] == 0
    assert counts["Stamp"] == len(tasks)
    assert counts["_take_up"] <= 2 * len(tasks)  # with an empty line before each


def test_old_temporary_files_go_and_young_ones_stay(tmp_path):
    cell = online_cell()
    folder = ran(tmp_path, cell)
    place = folder.tasks([cell])[0].path.parent
    old, young = place / ".r000000-000004.parquet.1.aa.tmp", place / ".r.parquet.2.bb.tmp"
    top, mine = tmp_path / ".resolved.json.3.cc.tmp", place / ".notes"
    for path in (old, young, top, mine):
        path.write_text("half")
    long_ago = time.time() - 4000
    for path in (old, top, mine):
        os.utime(path, (long_ago, long_ago))
    claimed(tmp_path)
    assert [p.exists() for p in (old, young, top, mine)] == [False, True, False, True]
    assert len(StudyFolder(tmp_path).done([cell])) == 2


def test_temporary_folders_of_trainings_go_when_nobody_can_be_writing_a_model(tmp_path):
    ran(tmp_path, online_cell())
    training = tmp_path / "kept" / "trainings" / "a1"
    old, young, result = training / ".model.1.tmp", training / ".model.2.tmp", training / "model"
    for path, hours in ((old, 25), (young, 23), (result, 25)):
        path.mkdir(parents=True)
        (path / "weights").write_text("half")
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    claimed(tmp_path)
    assert [p.exists() for p in (old, young, result)] == [False, True, True]


# ----------------------------------------------------------------------------- reading


def expected(folder, cell):
    """The table of a cell, put together with pandas from its files."""
    parts = [pd.read_parquet(task.path) for task in folder.tasks([cell]) if task.path.exists()]
    frame = pd.concat(parts, ignore_index=True)
    frame.insert(0, "cell", cell.key)
    if cell.online:
        frame.insert(3, "pairs", np.nan)
    else:
        frame.insert(2, "round", np.nan)
    return frame


def same(found, *wanted):
    wanted = pd.concat(wanted, ignore_index=True)
    assert list(found.columns[:6]) == ["cell", "replica", "round", "pairs", "labels", "regret"]
    assert set(found.columns) == set(wanted.columns)
    assert isinstance(found["cell"].dtype, pd.CategoricalDtype)
    plain = found.assign(cell=found["cell"].astype(str))
    pd.testing.assert_frame_equal(
        plain[list(wanted.columns)], wanted, check_exact=True, check_dtype=False
    )


@pytest.mark.parametrize("compacted", [False, True])
def test_reading_gives_every_cell_in_order(tmp_path, compacted):
    cells = [online_cell(), offline_cell(replicas=6), online_cell(seed=9, metrics=("kl",))]
    folder = ran(tmp_path, *cells)
    if compacted:
        assert folder.compact(cells) == tmp_path / "curves.parquet"
    tables = [expected(folder, cell) for cell in cells]
    same(folder.read(cells), *tables)
    same(StudyFolder(tmp_path).read(cells[:1]), tables[0])
    same(folder.read(cells[::-1]), *tables[::-1])


@pytest.mark.parametrize("compacted", [False, True])
def test_chosen_columns(tmp_path, compacted):
    cells = [online_cell(), offline_cell()]
    folder = ran(tmp_path, *cells)
    if compacted:
        folder.compact(cells)
    found = folder.read(cells, ["gap", "regret"])
    assert list(found.columns) == ["cell", "replica", "round", "pairs", "gap", "regret"]
    assert found["gap"].notna().all()
    assert found["regret"].isna().sum() == 8 * 3
    with pytest.raises(ValueError, match=r"columns must be among .*gap.*; got gapp"):
        folder.read(cells, ["gapp"])


def test_the_one_file_is_used_while_the_blocks_are_the_same(tmp_path, monkeypatch):
    cells = [online_cell(), offline_cell()]
    folder = ran(tmp_path, *cells)
    folder.compact(cells)
    tables = [expected(folder, cell) for cell in cells]
    read = []
    real = curves.read_block

    def spy(path, *rest):
        read.append(path.parent.name)
        return real(path, *rest)

    monkeypatch.setattr(curves, "read_block", spy)
    same(folder.read(cells), *tables)
    assert read == []
    # One cell grows: only its blocks are read.
    longer = replace(cells[0], rounds=8)
    for task in folder.todo([longer]):
        folder.note(compute(task))
    same(folder.read([longer, cells[1]]), expected(folder, longer), tables[1])
    assert set(read) == {longer.key}


def test_a_damaged_file_of_all_blocks_is_not_needed(tmp_path):
    cell = online_cell()
    folder = ran(tmp_path, cell)
    folder.compact([cell])
    (tmp_path / "curves.parquet").write_bytes(b"PAR1")
    with pytest.warns(DamageWarning, match=r"curves.parquet must .* The blocks are read instead"):
        same(folder.read([cell]), expected(folder, cell))
    assert not (tmp_path / "curves.parquet").exists()


@pytest.mark.parametrize("columns", [None, ["gap", "labels"]])
def test_a_file_of_all_blocks_with_damaged_pages_is_not_needed(tmp_path, columns):
    cells = [online_cell(rounds=40), offline_cell()]
    folder = ran(tmp_path, *cells)
    path = folder.compact(cells)
    before = folder.read(cells, columns)
    content = bytearray(path.read_bytes())
    for flipped in (range(60, len(content) // 3), [70], [len(content) // 2]):
        damaged = bytearray(content)
        for i in flipped:
            damaged[i] ^= 0x5A
        path.write_bytes(damaged)
        # The end of the file, which says what it holds, is still good.
        assert curves._kept(tmp_path, folder._contents(cells)) == {cell.key for cell in cells}
        with pytest.warns(DamageWarning):
            found = folder.read(cells, columns)
        pd.testing.assert_frame_equal(found, before, check_exact=True)


def test_blocks_of_a_cell_that_hold_different_columns_lose_none(tmp_path):
    # Stopped in the middle: one block has another primary metric, one has no rounds yet.
    cell = online_cell(rounds=0, metrics=("kl",), replicas=12)
    folder = ran(tmp_path, cell)
    first, second, _ = folder.tasks([replace(cell, rounds=3)])
    for task in (first, replace(second, cell=replace(second.cell, metric="jeffreys"))):
        folder.note(compute(task))
    before = folder.read([replace(cell, rounds=3)])
    assert {"kl", "gap", "jeffreys"} <= set(before.columns)
    assert before["jeffreys"].notna().sum() == 4 * 4
    folder.compact([replace(cell, rounds=3)])
    after = StudyFolder(tmp_path).read([replace(cell, rounds=3)])
    pd.testing.assert_frame_equal(after[before.columns], before, check_exact=True)


def test_the_file_of_all_blocks_is_made_in_parts(tmp_path, monkeypatch):
    cells = [online_cell(), online_cell(seed=1, metrics=("kl",)), offline_cell()]
    folder = ran(tmp_path, *cells)
    folder.compact(cells)
    at_once = (tmp_path / "curves.parquet").read_bytes()
    before = folder.read(cells)
    monkeypatch.setattr(curves, "_ROWS", 10)
    monkeypatch.setattr(ledger, "_AHEAD", 2)
    (tmp_path / "curves.parquet").unlink()
    folder.compact(cells)
    assert (tmp_path / "curves.parquet").read_bytes() != at_once
    pd.testing.assert_frame_equal(folder.read(cells), before, check_exact=True)
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_rounds_beyond_the_cell_are_cut_off(tmp_path):
    cell = online_cell(rounds=7)
    folder = ran(tmp_path, cell)
    for compacted in (False, True):
        if compacted:
            folder.compact([cell])
        found = folder.read([replace(cell, rounds=4)])
        assert found["round"].max() == 4
        assert len(found) == 8 * 5
        assert folder.read([cell])["round"].max() == 7


def test_blocks_that_are_missing_are_left_out(tmp_path):
    cell = online_cell()
    folder = claimed(tmp_path)
    second = folder.tasks([cell])[1]
    folder.note(compute(second))
    found = folder.read([cell])
    assert sorted(set(found["replica"])) == [4, 5, 6, 7]


def test_regret_of_an_offline_study_is_not_a_number(tmp_path):
    cell = offline_cell()
    found = ran(tmp_path, cell).read([cell])
    assert np.isnan(found["regret"]).all()
    assert found["round"].isna().all()
    assert found["pairs"].notna().all()
