from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from rlhf_theory.engine.locks import alone, running
from rlhf_theory.studies import journals
from rlhf_theory.studies.journals import Held, Journals, Stamp

KNOWN = Held(seconds=2.0, rounds=5, metric="gap", digest="ab")
STAMP = Stamp(100, 17)


def written(folder, *names, held=KNOWN):
    """Journals of one process that has written down some blocks."""
    ours = Journals(folder)
    for name in names:
        ours.put(name, STAMP, held)
    ours.write()
    return ours


def files(folder):
    return sorted((folder / "journal").glob("*.jsonl"))


@pytest.mark.parametrize("other", [Stamp(101, 17), Stamp(100, 18)])
def test_a_file_of_another_size_or_time_is_not_known(tmp_path, other):
    found = written(tmp_path, "a/r")
    for known in (found, Journals(tmp_path)):
        assert known.get("a/r", STAMP) == KNOWN
        assert known.get("a/r", other) is None
        assert known.get("b/r", STAMP) is None


def test_the_same_content_keeps_what_it_took(tmp_path):
    written(tmp_path, "a/r", held=replace(KNOWN, seconds=None))
    one = Journals(tmp_path)
    assert one.get("a/r", STAMP).seconds is None
    one.put("a/r", STAMP, KNOWN)
    one.put("a/r", STAMP, replace(KNOWN, seconds=None))
    assert one.get("a/r", STAMP) == KNOWN
    one.write()
    # Whichever journal is read first.
    assert Journals(tmp_path).get("a/r", STAMP) == KNOWN


def test_each_process_appends_to_its_own_and_all_are_read(tmp_path):
    one, other = Journals(tmp_path), Journals(tmp_path)
    for k in range(3):
        for ours in (one, other):
            ours.put(f"{ours is one}/r{k}", STAMP, KNOWN)
            ours.write()
    assert len(files(tmp_path)) == 2
    known = Journals(tmp_path)
    assert all(known.get(f"{mine}/r{k}", STAMP) for mine in (True, False) for k in range(3))


def test_a_torn_line_is_ignored_and_costs_no_other_one(tmp_path):
    ours = written(tmp_path, "a/r0", "a/r1")
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_bytes(whole[: -1 - cut])
        assert Journals(tmp_path).get("a/r0", STAMP) == KNOWN
        assert Journals(tmp_path).get("a/r1", STAMP) is None
    # What the same process writes afterwards does not end up in the torn line.
    ours.put("a/r2", STAMP, KNOWN)
    ours.write()
    assert Journals(tmp_path).get("a/r2", STAMP) == KNOWN


def test_no_flip_in_a_line_makes_another_entry(tmp_path):
    written(tmp_path, "a/r0")
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert Journals(tmp_path)._known in ({}, {("a/r0", STAMP): KNOWN})


def test_several_become_one_that_knows_what_is_there(tmp_path):
    written(tmp_path, "a/r0", "gone/r0")
    last = written(tmp_path, "a/r1")
    last.put("a/r1", Stamp(7, 7), KNOWN)
    last.write()
    last.tidy(lambda: {"a/r0": STAMP, "a/r1": STAMP, "new/r0": STAMP})
    assert len(files(tmp_path)) == 1
    assert set(Journals(tmp_path)._known) == {("a/r0", STAMP), ("a/r1", STAMP)}


def test_one_alone_is_left_as_it_is(tmp_path):
    ours = written(tmp_path, "a/r0")
    ours.tidy(lambda: pytest.fail("looked through the folder"))
    assert Journals(tmp_path).get("a/r0", STAMP) == KNOWN


RUNS = """
import sys, pathlib
from rlhf_theory.engine.locks import running
with running(pathlib.Path(sys.argv[1])):
    print("runs", flush=True)
    sys.stdin.read()
"""


def test_nothing_is_rewritten_while_another_process_runs(tmp_path):
    written(tmp_path, "a/r0")
    last = written(tmp_path, "a/r1")
    lock = tmp_path / "journal" / "lock"
    there = {"a/r0": STAMP, "a/r1": STAMP}
    command = [sys.executable, "-c", RUNS, str(lock)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "runs\n"
        with running(lock):  # runs share it
            pass
        last.tidy(lambda: there)
        assert len(files(tmp_path)) == 2
        # The lock of the dead is free.
        child.kill()
        child.wait()
        last.tidy(lambda: there)
        assert len(files(tmp_path)) == 1
    finally:
        child.kill()
        child.communicate()


def test_a_run_waits_for_nobody_long(tmp_path, monkeypatch):
    lock = tmp_path / "journal" / "lock"
    lock.parent.mkdir()
    waited = []
    monkeypatch.setattr("rlhf_theory.engine.locks.time.sleep", waited.append)
    with alone(lock) as mine, running(lock):
        assert mine
    assert 1.0 < sum(waited) < 10.0


def test_a_journal_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "journal").write_text("in the way")
    ours = written(tmp_path, "a/r0")
    with ours.running():
        ours.tidy(lambda: {"a/r0": STAMP})
    assert Journals(tmp_path).get("a/r0", STAMP) is None


def test_a_block_that_comes_in_costs_one_line_however_many_there_are(tmp_path, monkeypatch):
    written(tmp_path, *(f"a/r{k}" for k in range(1000)))
    ours = Journals(tmp_path)
    ours.put("b/r0", STAMP, KNOWN)  # reads what there is, once
    before = {path: path.stat().st_size for path in files(tmp_path)}
    monkeypatch.setattr(journals, "_take_up", None)
    for k in range(5):
        ours.put(f"c/r{k}", STAMP, KNOWN)
        ours.write()
    grown = sum(path.stat().st_size for path in files(tmp_path)) - sum(before.values())
    assert grown < 6 * 100
