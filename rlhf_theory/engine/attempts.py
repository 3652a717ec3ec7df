"""One attempt at a task in a worker: kept apart from others, and marked in case the worker dies."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import sys
import threading
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import cloudpickle
import numpy as np

from rlhf_theory.engine.exceptions import in_one_line, writable
from rlhf_theory.engine.sources import OtherCodeError
from rlhf_theory.engine.workers import Worker, deciding_versions, difference, this_worker

_T = TypeVar("_T")


class _ProcessState:
    """What a process has one of, whatever its threads do: current folder, filters of warnings."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        with suppress(OSError):  # it may have been removed
            self._folder = Path.cwd()
        self._filters, self._show = list(warnings.filters), warnings.showwarning

    def restore(self) -> None:
        """Have them again as they were when this was made."""
        # Not by `catch_warnings`: it forgets which warnings were shown, and each would come again
        # in every block.
        warnings.showwarning = self._show
        if list(warnings.filters) != self._filters:
            warnings.filters[:] = self._filters  # type: ignore[index]
        if self._folder is not None:
            with suppress(OSError):
                os.chdir(self._folder)


_SAVED: list[_ProcessState] = []
_LOCK = threading.Lock()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Undo what a learner has changed for the ones after it in the same process.

    That is the current folder, the filters of warnings, and NumPy's handling of floating-point
    errors. Where several threads are inside, the first two come back when the last one leaves.
    """
    with _LOCK:
        _SAVED.append(_SAVED[0] if _SAVED else _ProcessState())
    try:
        with np.errstate():
            yield
    finally:
        with _LOCK:
            saved = _SAVED.pop()
            if not _SAVED:
                saved.restore()


class DeadWorkerError(RuntimeError):
    """A worker ended without an answer: it was killed, crashed, or ran out of memory or time."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What comes back from an attempt; plain data, so that it always comes back.

    Attributes
    ----------
    payload
        What the call returned, pickled; empty where it raised.
    error, traceback
        The exception, in one line and in full.
    errno
        Error number, where the exception was an ``OSError``.
    died
        The attempt was a second start: the worker of the first one died.
    refused
        Why this worker must not compute: its code or its versions are others. Empty where it may.
    worker
        Who answers; None where nothing was reached.
    """

    payload: bytes = b""
    error: str = ""
    traceback: str = ""
    errno: int | None = None
    died: bool = False
    refused: str = ""
    worker: Worker | None = None

    @classmethod
    def of(cls, error: BaseException) -> Answer:
        """Return the answer that says what was raised."""
        return cls(
            error=in_one_line(error),
            traceback=writable("".join(traceback.format_exception(error))),
            errno=error.errno if isinstance(error, OSError) else None,
        )

    @property
    def value(self) -> Any:
        """What the call returned."""
        return pickle.loads(self.payload)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A call to be made in a worker, once.

    The mark is there from the start of the call to its end, so a mark without a living worker names
    the task that killed it. Some schedulers start the task of a dead worker again on their own; the
    mark is still there then, and the second start only says so. So a task kills one worker per
    attempt at most, whatever the scheduler's own idea of retrying is.

    Attributes
    ----------
    payload
        Function and argument, pickled. Unpickled inside the call, so that a module that a worker
        cannot import is the error of this task; the pool lives on.
    mark
        File that marks the running call.
    paths
        Where the main process looks for modules; a worker on another machine, or a fresh
        interpreter, may know fewer places.
    versions
        What decides numbers in the main process; a worker that has others refuses.
    """

    payload: bytes
    mark: str
    paths: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[[_T], object], argument: _T, mark: Path) -> Attempt:
        """Return an attempt at ``function(argument)``; raises what pickling raises."""
        payload = cloudpickle.dumps((function, argument))
        # An empty entry means the current folder, which is another one in the worker.
        paths = tuple(path or str(Path.cwd()) for path in sys.path)
        return cls(payload=payload, mark=str(mark), paths=paths, versions=deciding_versions())

    def __call__(self) -> Answer:
        """Make the call. Whatever is raised is an answer, except Ctrl-C."""
        try:
            # Exclusive creation is decided by the file server. A look whether the file exists could
            # be answered from the memory of this machine.
            os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return Answer(died=True)
        except OSError as error:
            return Answer.of(error)
        worker = this_worker(self.versions)
        try:
            if refused := difference(self.versions, worker):
                return Answer(refused=refused, worker=worker)
            sys.path.extend(path for path in self.paths if path not in sys.path)
            function, argument = pickle.loads(self.payload)
            return Answer(payload=cloudpickle.dumps(function(argument)), worker=worker)
        except KeyboardInterrupt:
            raise
        except OtherCodeError as error:
            refused = (
                f"The worker {worker.name} is refused: {error} Give all workers the files of this "
                "process, and start them anew; what is done is kept."
            )
            return Answer(refused=refused, worker=worker)
        except BaseException as error:  # a learner may call `sys.exit`
            return Answer.of(error)
        finally:
            Path(self.mark).unlink(missing_ok=True)


class Marks:
    """The marks of one run, in a folder of their own below the folder of the study.

    Two runs on one folder at once do not see each other's marks. What a killed run has left is
    removed by the next one on the same machine.
    """

    def __init__(self, folder: Path) -> None:
        # Workers may be, or go, somewhere else.
        self._parent = folder.absolute() / ".running"
        self.folder = self._parent / f"{_host()}~{os.getpid()}~{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        self.sweep()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove what killed runs have left, and the folder of all marks where nobody runs."""
        for other in self._parent.iterdir() if self._parent.is_dir() else ():
            if _is_left_over(other.name):
                shutil.rmtree(other, ignore_errors=True)
        with suppress(OSError):  # another run is using it, or it is not there
            self._parent.rmdir()

    def path(self, number: int) -> Path:
        """Return the mark of task ``number``."""
        return self.folder / str(number)

    def is_set(self, number: int) -> bool:
        """Return whether task ``number`` has started and not ended."""
        return self.path(number).exists()

    def clear(self, number: int) -> None:
        """Remove the mark that a dead worker has left."""
        self.path(number).unlink(missing_ok=True)


def _host() -> str:
    return socket.gethostname().replace("~", "-").replace(os.sep, "-") or "here"


def _is_left_over(name: str) -> bool:
    """Return whether the run with this folder of marks ran on this machine and runs no more."""
    host, _, rest = name.partition("~")
    process = rest.partition("~")[0]
    # Signal 0 asks whether a process is there; elsewhere than on POSIX it would end it.
    if os.name != "posix" or host != _host() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
