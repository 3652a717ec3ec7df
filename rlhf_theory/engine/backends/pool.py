"""What a backend and its pool of workers promise, and the error of one that does not work."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from rlhf_theory.register import register

Call = Callable[[], Any]

ONE_THREAD = dict.fromkeys(
    [
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ],
    "1",
)
"""Environment of a worker: the workers share the cores, so each has one thread."""


class BackendError(RuntimeError):
    """The workers cannot be started, reached or used; no fault of any task."""


class Pool(Protocol):
    """Workers that are up.

    A future that is cancelled before its call has started must not start it, if that can be had.
    """

    @property
    def deaths(self) -> tuple[type[BaseException], ...]:
        """Exceptions of futures that mean: the worker died."""
        ...

    @property
    def breaks(self) -> bool:
        """Whether one dead worker ends the pool, and all its futures with it."""
        ...

    @property
    def here(self) -> bool:
        """Whether ``submit`` makes the calls itself, in this process."""
        ...

    @property
    def width(self) -> int:
        """How many calls to keep in flight, now."""
        ...

    def submit(self, calls: Sequence[Call]) -> list[Future[object]]:
        """Hand out calls; return their futures in the same order."""
        ...

    def close(self, *, kill: bool) -> None:
        """End what was started: workers that are idle, or, with ``kill``, whatever they do."""
        ...


class Backend(Protocol):
    """A way to have workers; ``name`` is what it is called on the command line."""

    name: ClassVar[str]

    def open(self, jobs: int, folder: Path) -> Pool:
        """Start workers.

        Parameters
        ----------
        jobs
            Number of workers to start; where a running cluster is used, its size counts.
        folder
            Folder of the study, which the workers can reach, for what the backend has to leave.

        Raises
        ------
        BackendError
            If the package is missing or nobody answers.
        """
        ...


B = TypeVar("B", bound=type[Backend])


def backend(kind: B) -> B:
    """Make a class a backend with a name, its own ``name``."""
    return register("backend", kind.name)(kind)


def needed(module: str, backend: str) -> Any:
    """Import a package that comes with an extra; raise ``BackendError`` where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = (
            f"The backend {backend!r} needs the package {module.partition('.')[0]}, which cannot "
            f"be imported ({error}). Install it with: pip install 'rlhf-theory[{backend}]'"
        )
        raise BackendError(message) from error
