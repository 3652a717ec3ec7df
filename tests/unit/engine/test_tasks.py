"""What another task asks for: one computes it at a time, and its failures are those of any task."""

from __future__ import annotations

import errno
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlhf_theory.engine import exceptions
from rlhf_theory.engine.exceptions import fills_disk
from rlhf_theory.engine.sources import OtherCodeError
from rlhf_theory.engine.tasks import Made, ask, compute
from rlhf_theory.errors import Waiting
from rlhf_theory.store import read_json


@dataclass
class Asked:
    """A task that notes whether it has the claim, and raises what it is told to."""

    path: Path
    raises: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    name: str = "asked"
    at_once: None = None

    def claimed(self) -> AbstractContextManager[Any]:
        return self.lock

    def make(self) -> Made:
        if self.raises is not None:
            raise self.raises
        return Made("done", self.path.parent.stat(), self.lock.locked())


def test_what_is_asked_for_is_made_under_its_claim_and_computing_takes_none(tmp_path):
    task = Asked(tmp_path / "r.json")
    assert ask(task).about is True
    assert not task.lock.locked()
    with task.lock:  # whoever has the claim may compute with others
        assert compute(task).state == "done"


def test_a_failure_is_recorded_and_raised_as_it_is(tmp_path):
    task = Asked(tmp_path / "r.json", ArithmeticError("odd"))
    for attempts in (1, 2):
        with pytest.raises(ArithmeticError, match="odd"):
            ask(task)
        record = read_json(tmp_path / "r.failed.json")
        assert (record["error"], record["attempts"]) == ("ArithmeticError: odd", attempts)
    assert not task.lock.locked()


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        Waiting("labels"),
        OtherCodeError("other"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_failure_of_the_task_leaves_no_record(tmp_path, error):
    with pytest.raises(type(error)):
        ask(Asked(tmp_path / "r.json", error))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_known_by_its_cause_its_words_and_the_room(tmp_path, monkeypatch):
    full = OSError(errno.EDQUOT, "quota")
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = full
    assert fills_disk(full, tmp_path)
    assert fills_disk(wrapped, tmp_path)
    other = RuntimeError("writer failed")
    assert not fills_disk(other, tmp_path)
    assert not fills_disk(OSError(errno.EACCES, "denied"), tmp_path / "none")
    monkeypatch.setattr(exceptions, "no_room", lambda _: True)
    assert fills_disk(other, tmp_path)
