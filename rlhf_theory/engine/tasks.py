"""A task: computed once, written as a file, and found there by the next run."""

from __future__ import annotations

import os
import platform
import time
import traceback
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from rlhf_theory.engine.exceptions import in_one_line, is_full, line_of, writable
from rlhf_theory.engine.sources import OtherCodeError
from rlhf_theory.errors import Waiting
from rlhf_theory.store import read_json, write_json


class Named(Protocol):
    """A task, as whoever hands it out sees it."""

    @property
    def name(self) -> str:
        """Name in journals and messages."""
        ...

    @property
    def at_once(self) -> tuple[str, int] | None:
        """A group of tasks, and how many of it may be in flight together; None for any number."""
        ...


class Task(Named, Protocol):
    """Something to compute: plain data, which goes to a worker as it is."""

    @property
    def path(self) -> Path:
        """The file that is there when it is done; absolute. Its failure is recorded beside it."""
        ...

    def make(self) -> Made:
        """Compute it and write its file, unless a finished one is there.

        Raises
        ------
        OtherCodeError
            If the code here is not the task's: no failure of the task.
        Waiting
            If somebody has to answer first: none either.
        """
        ...


class Shared(Task, Protocol):
    """What several tasks may need at once, and ask for: a training."""

    def claimed(self) -> AbstractContextManager[object]:
        """Have it alone: others wait. The system frees it when its holder dies.

        `make` takes no claim: of several processes that compute it together one has it.
        """
        ...


@dataclass(frozen=True)
class Made:
    """The finished file of a task.

    Attributes
    ----------
    state
        ``"done"``, or ``"skipped"`` where the file was there.
    file
        State of the file that was written or found.
    about
        What it holds, for the folder or for whoever asks. What goes to a folder is small.
    """

    state: Literal["done", "skipped"]
    file: os.stat_result
    about: object = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a task; small, so that it travels cheaply.

    Attributes
    ----------
    name
        Name of the task.
    state
        ``"done"``; ``"failed"``; ``"skipped"`` where the finished file had appeared meanwhile;
        ``"waiting"`` for somebody to answer, who is told by ``error``.
    seconds
        Wall time in the worker.
    size, modified
        Bytes of the finished file and its time of change in nanoseconds, 0 where there is none.
    error, traceback
        What went wrong, in one line and in full; empty where nothing did.
    disk
        The error was a full disk or quota, which is no failure of the task.
    about
        What the finished file holds; None where there is none.
    """

    name: str
    state: Literal["done", "failed", "skipped", "waiting"]
    seconds: float
    size: int = 0
    modified: int = 0
    error: str = ""
    traceback: str = ""
    disk: bool = False
    about: object = None


def compute(task: Task) -> Outcome:
    """Compute a task; runs in a worker.

    Never raises for what the task does: an exception, or `sys.exit`, is a failed outcome, and a
    record beside the file of the task.

    Raises
    ------
    OtherCodeError
        If the code here is not the task's; nothing is written then.
    """
    clock = time.perf_counter()
    try:
        made = task.make()
        return Outcome(
            name=task.name,
            state=made.state,
            seconds=time.perf_counter() - clock,
            size=made.file.st_size,
            modified=made.file.st_mtime_ns,
            about=made.about,
        )
    except (KeyboardInterrupt, OtherCodeError):
        raise  # no failure of the task
    except Waiting as request:
        seconds = time.perf_counter() - clock
        return Outcome(name=task.name, state="waiting", seconds=seconds, error=str(request))
    except BaseException as error:
        return _failed(task, error, time.perf_counter() - clock)


def ask(task: Shared) -> Made:
    """Return what another task needs: found there, or computed here, by one who asks at a time.

    Raises
    ------
    BaseException
        What the task raises; a failure is recorded beside its file as by `compute`.
    """
    clock = time.perf_counter()
    with task.claimed():
        try:
            return task.make()
        except (KeyboardInterrupt, OtherCodeError, Waiting):
            raise  # no failure of the task
        except BaseException as error:
            _failed(task, error, time.perf_counter() - clock)
            raise


def _failed(task: Task, error: BaseException, seconds: float) -> Outcome:
    """Record what a task is raising, unless the disk is full."""
    text = in_one_line(error)
    if isinstance(error, OSError) and is_full(error.errno):
        return _failure(task, text, "", seconds, disk=True)
    trace = writable(traceback.format_exc())
    try:
        return record_failure(task, text, trace, where=line_of(error), seconds=seconds)
    except OSError as problem:
        full = is_full(problem.errno)
        return _failure(task, text, trace, seconds, disk=full)


def _failure(task: Task, text: str, trace: str, seconds: float, *, disk: bool = False) -> Outcome:
    return Outcome(
        name=task.name, state="failed", seconds=seconds, error=text, traceback=trace, disk=disk
    )


def failure_path(path: Path) -> Path:
    """Return where the failure of the task with a file is recorded."""
    return path.with_suffix(".failed.json")


def record_failure(
    task: Task, error: str, trace: str = "", *, where: str = "", seconds: float = 0.0
) -> Outcome:
    """Write ``NAME.failed.json`` beside the file of a task; return the outcome to go with it.

    The record has ``error``, ``where`` (file and line), ``traceback``, ``attempts`` (how often the
    task has failed so far), ``when`` and ``host``. It goes when the task is done.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    path = failure_path(task.path)
    error, trace = writable(error), writable(trace)
    before = (read_json(path) or {}).get("attempts")
    record = {
        "error": error,
        "where": writable(where),
        "traceback": trace,
        "attempts": (before if isinstance(before, int) else 0) + 1,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": writable(platform.node()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return _failure(task, error, trace, seconds)
