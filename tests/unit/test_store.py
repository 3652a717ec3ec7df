from __future__ import annotations

import os

import pytest

from rlhf_theory import store
from rlhf_theory.store import (
    claim_folder,
    folder_study,
    read_json,
    replaced,
    write_atomic,
    write_json,
)

STUDY = {"made_by": "test", "seed": 0, "sizes": (1, 2)}


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208 no temporary file is left


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, b"one")

    def full(_handle):
        raise OSError("disk full")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"two")
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_folder_is_claimed_once_and_found_again(tmp_path):
    out = tmp_path / "deep" / "out"
    claim_folder(out, STUDY)
    (out / "result.txt").write_text("x")
    claim_folder(out, STUDY)
    assert folder_study(out)["sizes"] == [1, 2]


def test_an_empty_folder_may_be_claimed(tmp_path):
    claim_folder(tmp_path, STUDY)
    assert folder_study(tmp_path) is not None


def test_a_file_is_refused(tmp_path):
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(ValueError, match=r"must be a folder; it is a file. Choose another"):
        claim_folder(out, STUDY)
    assert out.read_text() == "mine"


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex\)"):
        claim_folder(tmp_path, STUDY)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_study_is_refused_with_what_differs(tmp_path):
    claim_folder(tmp_path, STUDY)
    with pytest.raises(ValueError, match=r"seed=1 \(the folder has 0\)"):
        claim_folder(tmp_path, {**STUDY, "seed": 1})
    assert folder_study(tmp_path)["seed"] == 0


@pytest.mark.parametrize("content", ["not json", "[1, 2]"])
def test_a_marker_that_is_none_of_ours_is_no_marker(tmp_path, content):
    (tmp_path / store.MARKER).write_text(content)
    assert folder_study(tmp_path) is None
    with pytest.raises(ValueError, match="holds other files"):
        claim_folder(tmp_path, STUDY)


def test_what_a_claim_that_was_killed_has_left_is_no_other_file(tmp_path, monkeypatch):
    """The folder of theorem cards was refused for ever."""
    monkeypatch.setattr(store.time, "sleep", lambda _: None)
    half = tmp_path / f".{store.MARKER}.1.aa.tmp"
    half.write_text("{")
    claim_folder(tmp_path, STUDY)
    assert [path.name for path in tmp_path.iterdir()] == [store.MARKER]
    half.write_text("{")  # beside a marker it is left to whoever tidies up
    claim_folder(tmp_path, STUDY)
    assert half.exists()


def test_a_file_that_is_written_in_parts_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(b"old")
    with replaced(path) as temporary:
        temporary.write_bytes(b"new, ")
        assert path.read_bytes() == b"old"
        with temporary.open("ab") as stream:
            stream.write(b"all of it")
    assert path.read_bytes() == b"new, all of it"

    def stop_halfway():
        with replaced(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        stop_halfway()
    assert path.read_bytes() == b"new, all of it"
    assert [p.name for p in tmp_path.iterdir()] == ["large.bin"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff"])
def test_json_that_cannot_be_read_is_none(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) is None
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
