"""Backend on SLURM: a job for each group of calls, through submitit."""

from __future__ import annotations

import logging
import pickle
import shutil
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rlhf_theory.engine.attempts import DeadWorkerError
from rlhf_theory.engine.backends.pool import BackendError, Call, backend, needed
from rlhf_theory.store import write_atomic

_GENERIC = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "name")
_HOUR = 60
_PATIENCE = 10.0
_COMMANDS = ("sbatch", "sacct", "scancel")
_ON_SLURM, _HERE = (2.0, 15.0), (0.05, 0.2)
_BAD_MINUTES = 300.0
"""How long nobody may be able to look after a job; file servers come back."""


@backend
@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Jobs of SLURM; needs no service, only ``sbatch`` on this machine and a shared folder.

    Attributes
    ----------
    group
        Calls per job, made one after the other. More for short blocks: a job has its price.
    cluster
        ``"slurm"``, or ``"local"``, which runs the jobs as processes of this machine.
    parameters
        Options of ``sbatch`` by name (``partition``, ``time``, ``account`` ...), and those of
        submitit: ``timeout_min``, ``mem_gb``, ``cpus_per_task``, ``gpus_per_node``, ``name``.
        The time limit is one hour unless given.
    """

    group: int = 1
    cluster: str = "slurm"
    parameters: Mapping[str, object] = field(default_factory=dict)
    name: ClassVar[str] = "slurm"

    def __post_init__(self) -> None:
        if self.group < 1:
            message = f"group must be at least 1; got {self.group}."
            raise ValueError(message)
        if self.cluster not in ("slurm", "local"):
            message = f"cluster must be 'slurm' or 'local'; got {self.cluster!r}."
            raise ValueError(message)

    def open(self, jobs: int, folder: Path) -> SlurmPool:
        """Prepare up to ``jobs`` jobs at a time; their logs go to ``folder/slurm``."""
        return SlurmPool(self, jobs, folder)


class JobEndedError(DeadWorkerError):
    """A job ended without an answer."""


@dataclass(eq=False)
class _Job:
    """A job, and where the answers of its calls appear."""

    job: Any
    answers: dict[Path, Future[object]]
    ended: float | None = None
    troubled: float | None = None
    cancelled: bool = False


class SlurmPool:
    """Jobs in the queue and running, watched by a thread.

    Each call leaves its answer in a file of its own, so answers come one by one, and a job that
    dies loses none that was there.
    """

    breaks = False
    here = False
    deaths = (DeadWorkerError,)

    def __init__(self, backend: Slurm, jobs: int, folder: Path) -> None:
        submitit = needed("submitit", "slurm")
        on_slurm = backend.cluster == "slurm"
        # Without sacct nobody would hear of a job that dies.
        missing = [name for name in _COMMANDS if on_slurm and shutil.which(name) is None]
        if missing:
            message = (
                f"The backend 'slurm' needs the commands {', '.join(_COMMANDS)}; not found here: "
                f"{', '.join(missing)}. Run it where jobs are submitted."
            )
            raise BackendError(message)
        logging.getLogger("submitit").setLevel(logging.ERROR)
        self.width = jobs * backend.group
        self._group = backend.group
        # Of this run alone: another one may use the folder of the study at the same time.
        self._folder = folder / "slurm" / uuid.uuid4().hex[:8]
        self._dead: set[str] = set()
        self._executor = submitit.AutoExecutor(self._folder / "%j", cluster=backend.cluster)
        given = dict(backend.parameters)
        if "time" not in given:
            given.setdefault("timeout_min", _HOUR)
        try:
            self._executor.update_parameters(
                **{key if key in _GENERIC else f"slurm_{key}": v for key, v in given.items()}
            )
        except (NameError, AssertionError) as error:
            self._leave()
            message = f"An option of the backend 'slurm' is not known: {error}"
            raise BackendError(message) from error
        self._answers = self._folder / "answers"
        self._answers.mkdir(parents=True)
        # A file that another machine has written may take a while to be seen here.
        self._are_children = not on_slurm
        self._glance, self._grace = _ON_SLURM if on_slurm else _HERE
        self._jobs: list[_Job] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def submit(self, calls: Sequence[Call]) -> list[Future[object]]:
        """Submit jobs of ``group`` calls; many jobs go as one array."""
        groups = [calls[i : i + self._group] for i in range(0, len(calls), self._group)]
        places = [[self._answers / uuid.uuid4().hex for _ in group] for group in groups]
        try:
            with self._executor.batch():
                jobs = [
                    self._executor.submit(_make, list(group), [str(p) for p in place])
                    for group, place in zip(groups, places, strict=True)
                ]
        except Exception as error:
            message = f"SLURM does not take the jobs: {error}"
            raise BackendError(message) from error
        futures = [[Future[object]() for _ in group] for group in groups]
        with self._lock:
            for job, place, some in zip(jobs, places, futures, strict=True):
                self._jobs.append(_Job(job, dict(zip(place, some, strict=True))))
        return [future for some in futures for future in some]

    def close(self, *, kill: bool) -> None:
        """Cancel what is left, if ``kill``; remove the files of jobs that ended well."""
        self._closing.set()
        self._watch.join()
        for job in self._jobs:
            if kill or any(not future.done() for future in job.answers.values()):
                with suppress(OSError):
                    job.job.cancel(check=False)
        # Local jobs are children of this process, which have to be waited for.
        until = time.monotonic() + (_PATIENCE if self._are_children else 0.0)
        with suppress(OSError):
            while time.monotonic() < until and not all(job.job.done() for job in self._jobs):
                time.sleep(self._glance)
        with suppress(OSError):
            self._leave()

    def _leave(self) -> None:
        """Remove what the run has left, except the logs of jobs that died."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.is_dir() and path.name not in self._dead:
                shutil.rmtree(path, ignore_errors=True)
            elif not path.is_dir():
                path.unlink(missing_ok=True)
        for empty in (self._folder, self._folder.parent):
            with suppress(OSError):
                empty.rmdir()

    def _look(self) -> None:
        while not self._closing.wait(self._glance):
            with self._lock:
                jobs = list(self._jobs)
            for job in jobs:
                if self._is_over(job):
                    with self._lock:
                        self._jobs.remove(job)

    def _is_over(self, job: _Job) -> bool:
        """Look after a job. A look that fails is repeated; in the end, that is an error.

        Nothing may come out of here: without the thread that looks, the run would wait for ever.
        """
        try:
            over = self._has_ended(job)
        except Exception as error:
            now = time.monotonic()
            job.troubled = now if job.troubled is None else job.troubled
            if now - job.troubled >= _BAD_MINUTES:
                message = (
                    f"Nobody can look after job {job.job.job_id}, for {_BAD_MINUTES:.0f} s now "
                    f"({type(error).__name__}: {error}). See whether {self._folder} can be read "
                    "and SLURM answers, then run it again."
                )
                for future in job.answers.values():
                    _settle(future, error=BackendError(message))
            return False  # it stays among those that are cancelled at the end
        job.troubled = None
        return over

    def _has_ended(self, job: _Job) -> bool:
        """Pass on the answers that have come; return whether nothing is left to wait for."""
        ended = job.job.done()  # before the look at the answers, which come before the end
        for path, future in job.answers.items():
            if not future.done() and path.exists():
                _pass_on(path, future)
        open_ = [future for future in job.answers.values() if not future.done()]
        if not ended:
            if not open_ and not job.cancelled and any(f.cancelled() for f in job.answers.values()):
                job.cancelled = True
                job.job.cancel(check=False)
            return False
        if job.ended is None:
            job.ended = time.monotonic()
        if open_ and time.monotonic() - job.ended < self._grace:
            return False
        for future in open_:
            _settle(future, error=JobEndedError(self._why(job.job)))
        if open_:
            self._dead.add(str(job.job.job_id))
        return True

    def _why(self, job: Any) -> str:
        return (
            f"Job {job.job_id} ended without an answer (state {job.state}): killed, out of memory, "
            f"or at its time limit. Its logs are in {self._folder / str(job.job_id)}."
        )


def _make(calls: Sequence[Call], places: Sequence[str]) -> None:
    """Make calls in a job; leave each answer in its place."""
    for call, place in zip(calls, places, strict=True):
        write_atomic(Path(place), pickle.dumps(call()))


def _pass_on(path: Path, future: Future[object]) -> None:
    _settle(future, pickle.loads(path.read_bytes()))
    path.unlink(missing_ok=True)


def _settle(
    future: Future[object], value: object = None, error: BaseException | None = None
) -> None:
    try:
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
    except InvalidStateError:
        return  # cancelled meanwhile
