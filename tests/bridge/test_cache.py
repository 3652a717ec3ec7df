"""The row cache: complete rows or none, whoever is killed, whatever is cut off."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_bridge.storage.cache import INDEX, RowCache, row_key
from rlhf_theory.errors import ShapeError
from rlhf_theory.store import DamageWarning
from tests.helpers.cache_writer import WIDTH, add, open_cache, wrong

PROGRAM = Path(__file__).parents[1] / "helpers" / "cache_writer.py"
ROW_BYTES = 8 + 4 * WIDTH


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )


def result(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate()
    assert process.returncode == 0
    return out.strip().splitlines()[-1]


def small(folder: Path, **changes) -> RowCache:
    return RowCache(folder, changes.pop("configuration", {"a": 1}), **{"width": 3, **changes})


def test_row_returns_as_written(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "new" / "cache")
    assert add(cache, np.arange(10)) == 10
    assert wrong(cache, np.arange(20)) == (10, 0)
    assert wrong(open_cache(tmp_path / "new" / "cache"), np.arange(20)) == (10, 0)


def test_lookup_keeps_order_and_repeats(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    add(cache, np.arange(6))
    assert wrong(cache, np.array([5, 2, 2, 9, 0])) == (4, 0)
    found, rows, exact = cache.lookup([])
    assert (found.shape, rows.shape, exact.shape) == ((0,), (0, WIDTH), (0, 1))


def test_missing_rows_are_zero(tmp_path: Path) -> None:
    found, rows, exact = small(tmp_path, n_exact=2).lookup([row_key((1,), (2,))])
    assert not found.any()
    assert not rows.any()
    assert exact.shape == (1, 2)


def test_rows_are_kept_once(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    assert add(cache, np.array([1, 2, 1, 3])) == 3
    size = (cache.folder / "rows.bin").stat().st_size
    assert add(cache, np.array([3, 2, 1])) == 0
    assert (cache.folder / "rows.bin").stat().st_size == size == 3 * ROW_BYTES
    assert len(cache) == 3


def test_first_of_equal_keys_counts(tmp_path: Path) -> None:
    cache, key = small(tmp_path), row_key((1,), (2,))
    cache.append([key, key], np.array([[1.0, 2, 3], [4, 5, 6]]))
    cache.append([key], np.full((1, 3), 9.0))
    assert cache.lookup([key])[1].tolist() == [[1, 2, 3]]


def test_half_precisiorounds_once_and_halves_the_file(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, dtype="float16")
    add(cache, np.arange(5))
    assert (cache.folder / "rows.bin").stat().st_size == 5 * (8 + 2 * WIDTH)
    # The exact column is compared in double precision, the others as numpy rounds them.
    assert wrong(cache, np.arange(5)) == (5, 0)
    assert cache.lookup([])[1].dtype == np.float16


def test_half_precision_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    cache, keys = small(tmp_path, dtype="float16"), [row_key((i,)) for i in range(2)]
    with pytest.raises(ValueError, match=r"row 1 is not\. Its numbers are too large: use float32"):
        cache.append(keys, np.array([[1.0, 2, 3], [1, 1e5, 1]]))
    assert len(cache) == 0


def test_refuses_rows_that_are_not_finite_or_misshaped(tmp_path: Path) -> None:
    cache, key = small(tmp_path), row_key((1,))
    with pytest.raises(ValueError, match=r"finite as float32; row 0 is not\.$"):
        cache.append([key], np.array([[1.0, np.nan, 3]]))
    with pytest.raises(ShapeError, match=r"rows must have shape \(1, 3\); got \(1, 4\)"):
        cache.append([key], np.zeros((1, 4)))
    with pytest.raises(ShapeError, match=r"exact must have shape \(1, 0\)"):
        cache.append([key], np.zeros((1, 3)), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="16 bytes"):
        cache.append([b"short"], np.zeros((1, 3)))
    assert len(cache) == 0
    with pytest.raises(ValueError, match="width and n_exact"):
        small(tmp_path, width=0)
    with pytest.raises(ValueError, match="dtype must be one of float32, float16"):
        small(tmp_path, dtype="float64")


def test_keys_know_where_a_part_ends() -> None:
    keys = {row_key(*parts) for parts in ([(1, 2), (3,)], [(1,), (2, 3)], [(1, 2, 3)], [(1, 2)])}
    assert len(keys) == 4
    assert row_key([1, 2], [3]) == row_key((1, 2), (3,))


def test_configurations_share_a_folder_and_no_rows(tmp_path: Path) -> None:
    key = row_key((1,), (2,))
    caches = [
        small(tmp_path),
        small(tmp_path, configuration={"a": 2}),
        small(tmp_path, width=4),
        small(tmp_path, dtype="float16"),
        small(tmp_path, n_exact=1),
    ]
    assert len({c.folder for c in caches}) == 5
    caches[0].append([key], np.ones((1, 3)))
    assert [len(c) for c in caches] == [1, 0, 0, 0, 0]
    assert len(small(tmp_path, configuration={"a": 1})) == 1


def test_refuses_a_folder_of_another_configuration(tmp_path: Path) -> None:
    ours = small(tmp_path / "one")
    ours.append([row_key((1,))], np.ones((1, 3)))
    other = small(tmp_path / "two", width=4)
    # Somebody copied one configuration over the other.
    for name in ("study.json", "rows.bin", "index.bin"):
        (other.folder / name).write_bytes((ours.folder / name).read_bytes())
    with pytest.raises(ValueError, match=r"another one: this has width=4 \(the folder has 3\)"):
        small(tmp_path / "two", width=4)
    assert (other.folder / "rows.bin").read_bytes() == (ours.folder / "rows.bin").read_bytes()


def test_refuses_a_foreign_folder_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("hello")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex\). Nothing was changed"):
        small(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="must be a folder; it is a file"):
        small(tmp_path / "thesis.tex")


def test_refuses_a_cache_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"kind": "llm_bridge row cache", "format": 99}')
    with pytest.raises(ValueError, match=r"format=1 \(the folder has 99\)"):
        small(tmp_path)


def test_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    assert len(small(tmp_path / "cache")) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("name", ["rows.bin", "index.bin"])
def test_torn_tail_is_never_returned_and_is_overwritten(tmp_path: Path, name: str) -> None:
    size = {"rows.bin": 8 + 4 * 3, "index.bin": INDEX.itemsize}[name]
    rows = np.arange(12.0).reshape(4, 3)
    keys = [row_key((i,)) for i in range(4)]
    for cut in range(1, 2 * size + 1):
        cache = small(tmp_path / f"{name}{cut}", n_exact=1)
        cache.append(keys[:3], rows[:3], rows[:3, :1])
        with (cache.folder / name).open("r+b") as stream:
            stream.truncate(3 * size - cut)
        left = 3 - -(-cut // size)
        for view in (cache, small(tmp_path / f"{name}{cut}", n_exact=1)):
            found, got, exact = view.lookup(keys)
            assert found.tolist() == [i < left for i in range(4)]
            np.testing.assert_array_equal(got[:left], rows[:left])
            np.testing.assert_array_equal(exact[:left], rows[:left, :1])
        # The last first, so that a stale entry would name the wrong row.
        assert cache.append(keys[3:], rows[3:], rows[3:, :1]) == 1
        assert (cache.folder / "index.bin").stat().st_size == (left + 1) * INDEX.itemsize
        assert cache.append(keys[::-1], rows[::-1], rows[::-1, :1]) == 3 - left
        found, got, _ = small(tmp_path / f"{name}{cut}", n_exact=1).lookup(keys)
        assert found.all()
        np.testing.assert_array_equal(got, rows)


def test_garbage_after_the_last_row_is_overwritten(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    add(cache, np.arange(3))
    for name, garbage in (("rows.bin", b"\xff" * (2 * ROW_BYTES + 5)), ("index.bin", b"\x01" * 7)):
        with (cache.folder / name).open("ab") as stream:
            stream.write(garbage)
    assert wrong(open_cache(tmp_path), np.arange(6)) == (3, 0)
    add(open_cache(tmp_path), np.arange(6))
    assert wrong(cache, np.arange(6)) == (6, 0)


def test_damaged_row_counts_as_missing_and_is_replaced(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    add(cache, np.arange(4))
    with (cache.folder / "rows.bin").open("r+b") as stream:
        stream.seek(2 * ROW_BYTES + 100)
        stream.write(b"\0" * 64)
    reader = open_cache(tmp_path)
    with pytest.warns(DamageWarning, match=r"rows\.bin is damaged: 1 of its rows"):
        found, rows, exact = reader.lookup([row_key((i, i + 1), (7,)) for i in range(4)])
    assert found.tolist() == [True, True, False, True]
    assert not rows[2].any()
    assert not exact[2].any()
    assert add(reader, np.arange(4)) == 1
    assert wrong(reader, np.arange(4)) == (4, 0)
    assert wrong(open_cache(tmp_path), np.arange(4)) == (4, 0)


def test_reader_sees_what_others_append(tmp_path: Path) -> None:
    reader, writer = open_cache(tmp_path), open_cache(tmp_path)
    add(writer, np.arange(5))
    assert wrong(reader, np.arange(5)) == (5, 0)
    add(reader, np.arange(3, 8))
    assert wrong(writer, np.arange(8)) == (8, 0)
    assert len(writer) == len(reader) == 8


def test_threads_share_one_cache(tmp_path: Path) -> None:
    cache, added = open_cache(tmp_path), []

    def work(first: int) -> None:
        added.extend(add(cache, np.arange(i, i + 5)) for i in range(first, first + 40, 5))

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == len(cache) == 70
    assert wrong(cache, np.arange(70)) == (70, 0)


def test_processes_append_at_the_same_time(tmp_path: Path) -> None:
    # Both make the folder, and half of the rows are wanted by both.
    writers = [start("append", tmp_path / "c", first, first + 200, 1) for first in (0, 100)]
    assert [w.stdout.readline() for w in writers] == ["ready\n"] * 2
    (tmp_path / "go").touch()
    reader, seen = None, 0
    while any(w.poll() is None for w in writers):
        if reader is None and (tmp_path / "c").exists():
            reader = open_cache(tmp_path / "c")
        if reader is not None:
            there, bad = wrong(reader, np.arange(300))
            assert bad == 0
            assert there >= seen
            seen = there
    assert sum(int(result(w)) for w in writers) == 300
    cache = open_cache(tmp_path / "c")
    assert wrong(cache, np.arange(300)) == (300, 0)
    assert (cache.folder / "rows.bin").stat().st_size == 300 * ROW_BYTES
    assert (cache.folder / "index.bin").stat().st_size == 300 * INDEX.itemsize


def test_killed_writers_leave_complete_rows(tmp_path: Path) -> None:
    words = result(start("killed", tmp_path / "c", 12)).split()
    assert words[0] == "ok", words
    cache = open_cache(tmp_path / "c")
    assert len(cache) == int(words[1]) >= 12 * 300
    assert wrong(cache, np.arange(len(cache))) == (len(cache), 0)


def test_full_disk_leaves_the_cache_intact(tmp_path: Path) -> None:
    there, bad, message = result(start("full", tmp_path / "c", 25)).split(maxsplit=2)
    # 25 rows fit and rows come in sevens: three times seven were published.
    assert (int(there), int(bad)) == (21, 0)
    assert "What it holds is intact; free space, or choose another folder." in message
    cache = open_cache(tmp_path / "c")
    assert wrong(cache, np.arange(30)) == (21, 0)
    assert (cache.folder / "rows.bin").stat().st_size == 21 * ROW_BYTES
    assert add(cache, np.arange(30)) == 9
    assert wrong(cache, np.arange(30)) == (30, 0)


def test_writer_that_waits_in_vain_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("llm_bridge.storage.cache.LOCK_SECONDS", 0.01)
    holder, waiting = open_cache(tmp_path), open_cache(tmp_path)
    with (
        holder._lock,
        pytest.raises(OSError, match=r"cannot be added to the cache .* could not be acquired"),
    ):
        add(waiting, np.arange(3))
    assert add(waiting, np.arange(3)) == 3


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, 12), max_size=6).map(tuple)
        | st.sampled_from(["reopen", "cut rows", "cut index"]),
        max_size=8,
    ),
    st.sampled_from(["float32", "float16"]),
)
def test_cache_behaves_like_a_dictionary(steps, dtype) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = small(Path(folder), n_exact=1, dtype=dtype)
        known: list[int] = []  # in the order of the file
        for step in steps:
            if step == "reopen":
                cache = small(Path(folder), n_exact=1, dtype=dtype)
            elif isinstance(step, str):
                name, size = (
                    ("rows.bin", 8 + 3 * np.dtype(dtype).itemsize)
                    if step == "cut rows"
                    else ("index.bin", INDEX.itemsize)
                )
                if known:
                    with (cache.folder / name).open("r+b") as stream:
                        stream.truncate(size * len(known) - 1)
                    known.pop()
            else:
                index = np.array(step, dtype=float)
                rows = index[:, None] / 3 + np.arange(3)
                new = cache.append([row_key((i,), ()) for i in step], rows, index[:, None])
                fresh = [i for i in dict.fromkeys(step) if i not in known]
                assert new == len(fresh)
                known += fresh
            everything = range(13)
            found, rows, exact = cache.lookup([row_key((i,), ()) for i in everything])
            assert found.tolist() == [i in known for i in everything]
            want = (np.arange(13)[:, None] / 3 + np.arange(3)).astype(dtype)
            np.testing.assert_array_equal(rows[found], want[found])
            np.testing.assert_array_equal(exact[found, 0], np.arange(13.0)[found])
