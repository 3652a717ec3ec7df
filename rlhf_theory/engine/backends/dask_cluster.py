"""Backend on Dask: a cluster that runs already, or one of processes on this machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rlhf_theory.engine.attempts import DeadWorkerError
from rlhf_theory.engine.backends.pool import ONE_THREAD, BackendError, Call, backend, needed
from rlhf_theory.errors import suggestion

_PATIENCE = "30s"
_FEW = 16
# Dask gives up the seat of a worker that has not come back by then, even if its nanny is just about
# to start the next one; a learner that kills its process at once so ends all workers for good.
_NEVER = "1000 days"
_GLANCE = 2.0
_NOBODY = 60.0
"""Seconds without a single worker on this machine after which calls count as those of dead ones."""


@backend
@dataclass(frozen=True, kw_only=True)
class Dask:
    """A Dask cluster.

    Attributes
    ----------
    address
        Address of a scheduler. None takes the variable ``DASK_SCHEDULER_ADDRESS``, and without
        that starts workers of one thread each on this machine.
    parameters
        What a call takes of the resources that workers were started with: numbers by name, such as
        ``GPU = 1`` and ``MEMORY = 8e9`` of ``dask worker --resources "GPU=2 MEMORY=64e9"``. Workers
        that are started here have whatever is asked for.
    """

    address: str | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    name: ClassVar[str] = "dask"

    def __post_init__(self) -> None:
        for key, amount in self.parameters.items():
            if type(amount) not in (int, float) or not amount > 0:
                message = (
                    "An option of the backend 'dask' must be the address, or a positive number of "
                    f"a resource; got {key} = {amount!r}.{suggestion(key, ['address'])}"
                )
                raise ValueError(message)

    def open(self, jobs: int, folder: Path) -> DaskPool:  # noqa: ARG002
        """Connect, or start ``jobs`` workers."""
        address = self.address or os.environ.get("DASK_SCHEDULER_ADDRESS")
        return DaskPool(address, jobs, self.parameters)


class DaskPool:
    """The workers of a Dask scheduler."""

    breaks = False
    here = False

    def __init__(self, address: str | None, jobs: int, parameters: Mapping[str, float]) -> None:
        self._needs = dict(parameters)
        dask = needed("dask", "dask")
        distributed = needed("distributed", "dask")
        self.deaths = (DeadWorkerError, distributed.KilledWorker)
        self._jobs, self._cluster = jobs, None
        self._stack = ExitStack()
        with ExitStack() as stack:
            stack.enter_context(_Silence())
            try:
                if address is None:
                    environ = {
                        **dask.config.get("distributed.nanny.pre-spawn-environ"),
                        **ONE_THREAD,
                    }
                    stack.enter_context(
                        dask.config.set(
                            {
                                "distributed.nanny.pre-spawn-environ": environ,
                                "distributed.deploy.lost-worker-timeout": _NEVER,
                            }
                        )
                    )
                    self._cluster = distributed.LocalCluster(
                        n_workers=jobs,
                        threads_per_worker=1,
                        processes=True,
                        resources=self._needs or None,
                        # The scheduler's web server cannot be left out: any free port, for this
                        # machine alone, so that two runs do not fight over one.
                        dashboard_address="127.0.0.1:0",
                        # Workers near a limit that nobody asked for stop working.
                        memory_limit=0,
                        silence_logs=logging.CRITICAL,
                    )
                    stack.callback(self._cluster.close)
                self._client = distributed.Client(
                    address or self._cluster, set_as_default=False, timeout=_PATIENCE
                )
            except (OSError, TimeoutError, RuntimeError, ValueError) as error:
                where = f"at {address}" if address else "on this machine"
                message = (
                    f"No Dask scheduler answers {where} ({type(error).__name__}: {error}). "
                    "Check the address (DASK_SCHEDULER_ADDRESS), or unset it for a local cluster."
                )
                raise BackendError(message) from error
            stack.callback(self._client.close)
            if self._needs:
                self._check_resources()
            self._stack = stack.pop_all()
        self._running: dict[Future[object], Any] = {}
        self._closing = threading.Event()
        if self._cluster is not None:
            threading.Thread(target=self._watch, args=(self._cluster,), daemon=True).start()

    def _check_resources(self) -> None:
        """Refuse what no worker has: Dask would keep the calls waiting for one that does."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        largest = {
            name: max((float(w["resources"].get(name, 0.0)) for w in workers), default=0.0)
            for name in self._needs
        }
        lacking = {n: largest[n] for n, amount in self._needs.items() if largest[n] < amount}
        if workers and lacking:
            message = (
                f"Each call needs {self._needs} of a Dask worker; the most that one of "
                f"{len(workers)} has is {lacking}. Start workers with --resources, or ask for less."
            )
            raise BackendError(message)

    def _watch(self, cluster: Any) -> None:
        """Give up calls that wait for workers of this machine where none comes back.

        A cluster of others may have none for hours: it waits for its own queue.
        """
        seen = time.monotonic()
        while not self._closing.wait(_GLANCE):
            if cluster.scheduler_info["workers"] or not self._running:
                seen = time.monotonic()
            elif time.monotonic() - seen > _NOBODY:
                for future in list(self._running):
                    with suppress(InvalidStateError):
                        future.set_exception(DeadWorkerError("no Dask worker is left"))

    @property
    def width(self) -> int:
        """Local workers have one call each; a shared cluster more, so that it can grow."""
        if self._cluster is not None:
            return self._jobs
        threads = int(sum(self._client.nthreads().values()))
        return max(2 * threads, _FEW)

    def submit(self, calls: Sequence[Call]) -> list[Future[object]]:
        """Hand the calls to the scheduler."""
        return [self._submitted(call) for call in calls]

    def _submitted(self, call: Call) -> Future[object]:
        remote = self._client.submit(call, pure=False, retries=0, resources=self._needs or None)
        future: Future[object] = Future()
        self._running[future] = remote
        future.add_done_callback(self._drop)
        remote.add_done_callback(lambda done: _pass_on(done, future))
        return future

    def _drop(self, future: Future[object]) -> None:
        remote = self._running.pop(future, None)
        if remote is not None and future.cancelled():
            remote.cancel()
        elif remote is not None:
            # Dask makes a call again if the worker that holds the answer dies; we have the answer.
            remote.release()

    def close(self, *, kill: bool) -> None:
        """Disconnect; end the workers that were started here.

        A call that runs on a cluster of others cannot be interrupted; it ends and stores its block.
        """
        self._closing.set()
        with self._stack:
            for future in list(self._running):
                future.cancel()
            if kill and self._cluster is not None:
                self._kill()

    def _kill(self) -> None:
        # Closing waits for the call that a worker is in; a nanny would start the worker again.
        for nanny in list(self._cluster.workers.values()) if self._cluster else []:
            nanny.auto_restart = False
            process = nanny.process and nanny.process.pid
            if process:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def _pass_on(remote: Any, future: Future[object]) -> None:
    try:
        if remote.status == "cancelled":
            future.cancel()
            future.set_running_or_notify_cancel()  # or nobody who waits wakes up
        elif remote.status == "error":
            future.set_exception(remote.exception())
        else:
            future.set_result(remote.result())
    except InvalidStateError:
        return  # cancelled meanwhile
    except Exception as error:
        future.set_exception(error)


class _Silence:
    """No log lines of Dask about deaths that the loop sees and answers; restored at the end."""

    def __enter__(self) -> None:
        names = ("distributed", *(n for n in logging.root.manager.loggerDict if _is_dask(n)))
        self._levels = {name: logging.getLogger(name).level for name in names}
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def __exit__(self, *_: object) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)


def _is_dask(name: str) -> bool:
    return name.startswith(("distributed.", "tornado"))
