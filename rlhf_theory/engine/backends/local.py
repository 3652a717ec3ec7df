"""Backends on this machine: this process, and a pool of processes."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import loky
from loky.process_executor import ShutdownExecutorError, TerminatedWorkerError

from rlhf_theory.engine.backends.pool import ONE_THREAD, BackendError, Call, backend

_GLANCE = 0.5


@backend
@dataclass(frozen=True)
class Serial:
    """Everything in this process, one after the other; for debuggers."""

    name: ClassVar[str] = "serial"

    def open(self, jobs: int, folder: Path) -> SerialPool:  # noqa: ARG002
        """Return the pool that has no workers."""
        return SerialPool()


class SerialPool:
    """Makes each call when it is submitted."""

    deaths: tuple[type[BaseException], ...] = ()
    breaks = False
    here = True
    width = 1

    def submit(self, calls: Sequence[Call]) -> list[Future[object]]:
        """Make the calls. ``KeyboardInterrupt`` and the like pass through."""
        return [self._made(call) for call in calls]

    def _made(self, call: Call) -> Future[object]:
        future: Future[object] = Future()
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self, *, kill: bool) -> None:
        """Do nothing."""


@backend
@dataclass(frozen=True)
class Local:
    """Processes on this machine, by loky: fresh interpreters, which take functions of notebooks."""

    name: ClassVar[str] = "local"

    def open(self, jobs: int, folder: Path) -> LocalPool:  # noqa: ARG002
        """Start ``jobs`` processes."""
        return LocalPool(jobs)


class LocalPool:
    """A pool of processes; not the shared one of loky, whose workers others may have set up."""

    deaths = (TerminatedWorkerError, ShutdownExecutorError)
    breaks = True
    here = False

    def __init__(self, jobs: int) -> None:
        self.width = jobs
        # A worker that has loaded a model is larger than before, and no leak; it only starts anew.
        warnings.filterwarnings("ignore", "A worker was restarted", UserWarning)
        self._pool = loky.ProcessPoolExecutor(
            max_workers=jobs, env=ONE_THREAD, initializer=_settle, initargs=(os.getpid(),)
        )

    def submit(self, calls: Sequence[Call]) -> list[Future[object]]:
        """Queue the calls."""
        futures: list[Future[object]] = []
        for call in calls:
            try:
                futures.append(self._pool.submit(call))
            except loky.BrokenProcessPool as error:
                # A worker died since the last look. The loop learns it where it learns of deaths.
                futures.append(Future())
                futures[-1].set_exception(TerminatedWorkerError(str(error)))
            except OSError as error:
                message = f"No process can be started here ({error}); try fewer with --jobs."
                raise BackendError(message) from error
        return futures

    def close(self, *, kill: bool) -> None:
        """End the workers; returns when they are gone."""
        self._pool.shutdown(wait=True, kill_workers=kill)


def _settle(parent: int) -> None:
    """Prepare a worker."""
    # Ctrl-C, which the terminal sends to all processes, is for the main one to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    """End this worker when the main process is gone, even if that was killed."""
    while os.getppid() == parent:
        time.sleep(_GLANCE)
    os._exit(1)
