"""Backend on Ray: a cluster that runs already, or one on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rlhf_theory.engine.attempts import DeadWorkerError
from rlhf_theory.engine.backends.pool import BackendError, Call, backend, needed

_FEW = 16
_STORE = 128 * 2**20  # answers are small; by default Ray takes a third of the memory


@backend
@dataclass(frozen=True, kw_only=True)
class Ray:
    """A Ray cluster.

    Attributes
    ----------
    address
        Address of a cluster, ``"auto"`` for the one that this machine is part of. None takes the
        variable ``RAY_ADDRESS``, and without that starts a cluster on this machine.
    parameters
        What a call takes, options of ``ray.remote`` by name: ``num_cpus`` (1 unless given),
        ``num_gpus`` (without it a call sees no GPU), ``memory`` in bytes, ``resources`` ...
    """

    address: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    name: ClassVar[str] = "ray"

    def open(self, jobs: int, folder: Path) -> RayPool:  # noqa: ARG002
        """Connect, or start ``jobs`` workers. In a process that uses Ray already, use that."""
        return RayPool(self.address or os.environ.get("RAY_ADDRESS"), jobs, self.parameters)


class RayPool:
    """The workers of a Ray cluster."""

    breaks = False
    here = False

    def __init__(self, address: str | None, jobs: int, parameters: Mapping[str, object]) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
        self._ray = ray = needed("ray", "ray")
        errors = ray.exceptions
        self.deaths = (
            DeadWorkerError,
            errors.WorkerCrashedError,
            errors.OutOfMemoryError,
            errors.LocalRayletDiedError,
            errors.NodeDiedError,
            errors.RayActorError,
        )
        self._jobs, self._address = jobs, address
        self._ours = not ray.is_initialized()
        with ExitStack() as stack:
            if self._ours:
                stack.enter_context(_silence())
                self._start(address, jobs)
                stack.callback(ray.shutdown)
            try:
                # A death is for our loop to answer: Ray would start the task three times again.
                self._call = ray.remote(**{"num_cpus": 1, **parameters, "max_retries": 0})(_call)
            except (TypeError, ValueError) as error:
                message = f"The options of backend 'ray' must be those of `ray.remote`; {error}."
                raise BackendError(message) from error
            if self._ours and address is None:
                self._check_resources(parameters)
            self._stack = stack.pop_all()
        self._running: dict[Future[object], Any] = {}

    def _start(self, address: str | None, jobs: int) -> None:
        local = {"num_cpus": jobs, "include_dashboard": False, "object_store_memory": _STORE}
        try:
            self._ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **(local if address is None else {}),
            )
        except (OSError, RuntimeError, ValueError) as error:
            where = f"at {address}" if address else "on this machine"
            message = (
                f"No Ray cluster answers {where} ({type(error).__name__}: {error}). "
                "Check the address (RAY_ADDRESS), or unset it for a local cluster."
            )
            raise BackendError(message) from error

    def _check_resources(self, parameters: Mapping[str, object]) -> None:
        """Refuse what this machine lacks: Ray would keep the calls waiting for a node that has it.

        A cluster of others may start such a node when it is asked for.
        """
        kinds = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        there = self._ray.cluster_resources()
        lacking = {
            name: there.get(kind, 0.0)
            for name, kind in kinds.items()
            if isinstance(amount := parameters.get(name), int | float)
            and amount > there.get(kind, 0.0)
        }
        if lacking:
            message = (
                f"Each call needs {dict(parameters)} of the Ray workers of this machine, which "
                f"have {lacking}. Ask for less, start more (--jobs), or name a cluster by address."
            )
            raise BackendError(message)

    @property
    def width(self) -> int:
        """Local workers have one call each; a shared cluster more, so that it can grow."""
        if self._address is None and self._ours:
            return self._jobs
        return max(2 * int(self._ray.cluster_resources().get("CPU", 0)), _FEW)

    def submit(self, calls: Sequence[Call]) -> list[Future[object]]:
        """Hand the calls to Ray."""
        return [self._submitted(call) for call in calls]

    def _submitted(self, call: Call) -> Future[object]:
        reference = self._call.remote(call)
        future: Future[object] = reference.future()
        self._running[future] = reference
        future.add_done_callback(self._drop)
        return future

    def _drop(self, future: Future[object]) -> None:
        reference = self._running.pop(future, None)
        if future.cancelled() and reference is not None:
            self._ray.cancel(reference, force=True)

    def close(self, *, kill: bool) -> None:
        """Disconnect; end what was started here."""
        with self._stack:
            if kill:
                for reference in list(self._running.values()):
                    self._ray.cancel(reference, force=True)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what Ray says about dead workers off ``stdout``: the loop sees and answers deaths."""
    worker = needed("ray._private.worker", "ray")
    log = logging.getLogger("ray")
    level, name = log.level, "print_to_stdstream"
    # `log_to_driver` does not reach these lines; there is no public switch.
    printer = getattr(worker, name, None)
    if printer is not None:
        setattr(worker, name, lambda *_args, **_kwargs: None)
    try:
        yield
    finally:
        log.setLevel(level)
        if printer is not None:
            setattr(worker, name, printer)


def _call(call: Call) -> object:
    return call()
