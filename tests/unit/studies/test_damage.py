"""What is stored is what was written, or is named, left out and computed anew: bit by bit."""

from __future__ import annotations

import json
import os

import pandas as pd
import pyarrow as pa
import pytest

from rlhf_theory.engine import seals
from rlhf_theory.engine.seals import describe, encode
from rlhf_theory.engine.tasks import compute
from rlhf_theory.store import DamagedError, DamageWarning
from rlhf_theory.studies.folder import StudyFolder
from rlhf_theory.studies.tables import read_block
from rlhf_theory.study import StudyResult
from tests.helpers.studied import small_file, small_result
from tests.helpers.study_cells import offline_cell, online_cell

SERIAL = {"backend": "serial", "jobs": 1, "quiet": True}


class Small:
    name = "small"

    def resolved(self):
        return {"replicas": 8, "rates": [0.25, 1e-3], "title": "café"}


@pytest.fixture
def ran(tmp_path):
    """A folder, a cell that is done in it, and the file of its first block."""
    folder, cell = StudyFolder(tmp_path), online_cell(rounds=2, replicas=4, block=2)
    folder.claim(Small())
    for task in folder.todo([cell]):
        outcome = compute(task)
        assert outcome.state == "done"
        folder.note(outcome)
    folder.close()
    return folder, cell, folder.tasks([cell])[0].path


def flipped(good, place):
    """The bytes with one bit turned."""
    damaged = bytearray(good)
    damaged[place // 8] ^= 1 << place % 8
    return bytes(damaged)


def rot(path, place=8 * 60):
    """Turn a bit and leave size and time of change as they are: what a disk does."""
    state = path.stat()
    path.write_bytes(flipped(path.read_bytes(), place))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


# ----------------------------------------------------------------------------- no flip in silence


def check_flips(path, read, step):
    """Turn bits all over a file; return how many are noticed. No other one changes a number."""
    good, want, noticed = path.read_bytes(), read(), 0
    for place in range(0, 8 * len(good), step):
        path.write_bytes(flipped(good, place))
        try:
            found = read()
        except DamagedError:
            noticed += 1
        else:
            assert found == want, f"bit {place} of {8 * len(good)}"
    path.write_bytes(good)
    assert read() == want
    return noticed


# Of eight bits of each byte one, another one from byte to byte; at night all.
@pytest.mark.parametrize("step", [83, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flip_in_a_block_changes_a_number_in_silence(ran, step):
    _, cell, path = ran

    def read():
        table, about = read_block(path, cell)
        bits = {n: table[n].to_numpy().tobytes() for n in table.column_names}
        return about, list(bits.items()), [str(t) for t in table.schema.types]

    bits = 8 * path.stat().st_size
    assert check_flips(path, read, step) > 0.5 * bits / step


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flip_in_the_study_changes_a_value_in_silence(ran, step):
    folder, _, _ = ran
    path = folder.path / "resolved.json"
    bits = 8 * path.stat().st_size
    assert check_flips(path, folder.resolved, step) > 0.5 * bits / step


@pytest.mark.parametrize("step", [149, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("columns", [None, ["gap", "labels"]])
def test_no_flip_in_the_file_of_all_blocks_changes_a_number(ran, step, columns):
    folder, cell, _ = ran
    cells = [cell, offline_cell(replicas=2)]
    folder.note(compute(folder.todo(cells)[0]))
    path = folder.compact(cells)
    good, want = path.read_bytes(), folder.read(cells, columns)
    noticed = 0
    for place in range(0, 8 * len(good), step):
        path.write_bytes(flipped(good, place))
        try:
            found = folder.read(cells, columns)
        except DamageWarning:
            assert not path.exists()
            noticed += 1
        else:
            pd.testing.assert_frame_equal(found, want, check_exact=True)
    assert noticed > 0.2 * 8 * len(good) / step


# ----------------------------------------------------------------------------- another cell's block


def changed(table, **about):
    """The table with what it says of itself, sealed anew: no damage, but another block."""
    says = json.loads(table.schema.metadata[b"rlhf_theory"])
    kept = {n: v for n, v in says.items() if n not in ("digest", "columns")}
    return describe(table.replace_schema_metadata(None), kept | about)


def renamed(table, old, new):
    names = [new if n == old else n for n in table.column_names]
    return table.rename_columns(names).replace_schema_metadata(table.schema.metadata)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: changed(t.drop_columns(["gap"])), "it lacks gap"),
        (lambda t: changed(renamed(t, "regret", "regrets")), "it lacks regret"),
        (lambda t: changed(renamed(t, "round", "pairs")), "it lacks round"),
        (lambda t: changed(t.slice(1)), "its rows are other values of replica"),
        (lambda t: changed(t, rounds=3), "its rows are other values of replica"),
        (lambda t: changed(t, key="0" * 20), "must hold the block that its name says"),
        (lambda t: changed(t, format=2), "is of format 2, which is not read any more"),
        (lambda t: changed(t, format=99), "its format must be 3; got 99"),
        (lambda t: t.replace_schema_metadata(None), "its format must be 3; got None"),
        (lambda t: renamed(t, "gap", "gaq"), "its columns must be .*gap"),
        (lambda t: t.set_column(3, "regret", pa.nulls(t.num_rows, pa.float64())), "regret are not"),
        (lambda t: t.set_column(2, "labels", t["labels"].cast(pa.float32())), "labels are not"),
    ],
)  # fmt: skip
def test_a_block_that_is_none_of_the_cell_is_refused(ran, change, says):
    _, cell, path = ran
    table, _ = read_block(path, cell)
    path.write_bytes(encode(table))
    read_block(path, cell)
    path.write_bytes(encode(change(table)))
    with pytest.raises(DamagedError, match=says):
        read_block(path, cell)


def test_a_column_that_the_cell_does_not_record_is_refused(tmp_path):
    folder, cell = StudyFolder(tmp_path), online_cell(metrics=("kl",))
    (task, _) = folder.tasks([cell])
    compute(task)
    table, _ = read_block(task.path, cell)
    task.path.write_bytes(encode(changed(table.append_column("mine", table["kl"]))))
    with pytest.raises(DamagedError, match="it has mine, which the cell does not record"):
        read_block(task.path, cell)


def test_a_disk_that_cannot_be_read_is_no_damage(ran, monkeypatch):
    folder, cell, path = ran

    def broken(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(seals.pq, "ParquetFile", broken)
    with pytest.raises(OSError, match="Input/output"):
        read_block(path, cell)
    with pytest.raises(OSError, match="Input/output"):
        folder.read([cell])
    assert path.exists()


# ----------------------------------------------------------------------------- named, dropped, anew


def test_a_rotten_block_is_trusted_until_somebody_reads_all(ran):
    _, cell, path = ran
    good = path.read_bytes()
    rot(path)
    folder = StudyFolder(ran[0].path)
    assert len(folder.done([cell])) == 2
    (said,) = folder.verify([cell])
    assert str(path) in said
    assert [p.name for p in path.parent.glob("*.damaged")] == ["r000000-000002.damaged"]
    # Everybody sees it now; the next run makes it anew, and what was wrong is gone.
    (task,) = StudyFolder(folder.path).todo([cell])
    assert task.path == path
    assert compute(task).state == "done"
    assert path.read_bytes() == good
    assert not list(path.parent.glob("*.damaged"))


@pytest.mark.parametrize("drop", [True, False])
def test_reading_all_without_a_right_to_write_forgets_the_block_here(ran, monkeypatch, drop):
    folder, cell, path = ran
    rot(path)

    def read_only(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "replace", read_only)
    assert len(folder.verify([cell], drop=drop)) == 1
    assert path.exists()
    assert [task.path for task in folder.todo([cell])] == [path]
    assert len(folder.read([cell])) == 2 * 3


def test_what_a_run_has_replaced_meanwhile_is_not_taken_away(ran, monkeypatch):
    folder, cell, path = ran
    good = path.read_bytes()
    rot(path)
    real = read_block

    def replaced(where, *rest):
        try:
            return real(where, *rest)
        finally:
            if where == path:
                where.write_bytes(good)

    monkeypatch.setattr("rlhf_theory.studies.ledger.read_block", replaced)
    assert len(folder.verify([cell])) == 1
    assert path.read_bytes() == good
    assert len(folder.done([cell])) == 2


def test_readers_name_what_is_damaged_and_go_on_without_it(tmp_path):
    result = small_result(tmp_path)
    out, want = result.folder.path, result.to_pandas()
    rot(sorted(out.glob("cells/*/r000005-000010.parquet"))[0])
    (out / "curves.parquet").unlink()
    with pytest.warns(DamageWarning, match=r"r000005-000010.parquet .* the next run makes it anew"):
        found = StudyResult(out).to_pandas()
    assert found["replica"].nunique() == 12
    assert 0 < len(want) - len(found) <= 5 * 7
    again = result.study.run(out, **SERIAL)
    assert again.tally.done == 1
    pd.testing.assert_frame_equal(again.to_pandas(), want, check_exact=True)


def test_a_run_that_verifies_names_and_mends_everything(tmp_path):
    result = small_result(tmp_path)
    out, study = result.folder.path, result.study
    files = [*out.glob("cells/*/r*.parquet"), out / "curves.parquet", out / "resolved.json"]
    good = {path: path.read_bytes() for path in files}
    bad = [files[0], files[3], out / "curves.parquet", out / "resolved.json"]
    for path in bad:
        rot(path, 8 * 200)
    # Nothing is opened, so nothing is noticed.
    assert study.run(out, **SERIAL).tally.done == 0
    rot(out / "resolved.json", 8 * 200)
    with pytest.warns(DamageWarning) as told:
        again = study.run(out, verify=True, **SERIAL)
    named = [str(path) for path in bad for t in told if str(t.message).startswith(str(path))]
    assert named == [str(path) for path in bad]
    assert again.tally.done == 2
    assert {path: path.read_bytes() for path in files} == good


def test_a_damaged_study_says_what_to_do(tmp_path):
    result = small_result(tmp_path)
    rot(result.folder.path / "resolved.json", 8 * 200)
    with pytest.raises(DamagedError, match=r"resolved.json must be what .*Run the study again"):
        StudyResult(result.folder.path)
    assert result.study.run(result.folder.path, **SERIAL).tally.done == 0
    assert StudyResult(result.folder.path).counts()["done"] == 18
    assert small_file(tmp_path).exists()
