"""One run of the loop that gets tasks done: in flight, dead, suspect, done."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from rlhf_theory.engine.attempts import Answer, Attempt, Marks
from rlhf_theory.engine.backends import Backend, BackendError, Pool
from rlhf_theory.engine.exceptions import is_full, no_room
from rlhf_theory.engine.interrupts import Interrupt
from rlhf_theory.engine.tasks import Named, Outcome
from rlhf_theory.engine.workers import Worker

MAX_DEATHS = 3
"""Deaths after which a task is given up: one among others, the others alone."""

_KILLER = f"the worker died {MAX_DEATHS} times (killed, or out of memory or time)"
_LATE = "The time limit is reached."
_GLANCE = 0.1
_PATIENCE = 60.0
# Workers that die before they begin anything are no task's fault, and will not do better.
_IDLE_DEATHS = 5
_BROKEN_CALLS = 3


class Folder(Protocol):
    """What the loop tells the folder that tasks are of.

    Where it learns that a task has ended, it may ask for further ones.
    """

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    def note(self, outcome: Outcome) -> Iterable[Named]:
        """Take up what a worker reported; return further tasks."""
        ...

    def record_failure(self, task: Any, error: str, traceback: str = "") -> Iterable[Named]:
        """Record a failure that no worker could report; return further tasks."""
        ...


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How a run stands.

    Attributes
    ----------
    done, failed, skipped
        Tasks that ended, by outcome; skipped: somebody else had done it meanwhile.
    left
        Tasks that have not ended, those that wait for somebody among them.
    waiting
        What such tasks ask for, a text for each.
    stopped
        Why the run stopped before the end, as a sentence; empty where it did not.
    """

    done: int = 0
    failed: int = 0
    skipped: int = 0
    left: int = 0
    waiting: tuple[str, ...] = ()
    stopped: str = ""


Report = Callable[[Tally, int], object]


class Loop:
    """One run: what waits, what is in flight, who has died."""

    def __init__(
        self,
        tasks: Sequence[Named],
        backend: Backend,
        jobs: int,
        folder: Folder,
        compute: Callable[[Any], Outcome],
        interrupt: Interrupt,
        marks: Marks,
    ) -> None:
        self.tasks, self.backend, self.jobs = list(tasks), backend, jobs
        self.folder, self.compute, self.interrupt, self.marks = folder, compute, interrupt, marks
        self.progress: Report | None = None
        self.hired: Callable[[Worker], object] | None = None
        self.fail_fast = False
        self.deadline: float | None = None
        # Tasks go by their number: names need not be file names.
        self.waiting = deque(range(len(tasks)))
        self.held: dict[str, deque[int]] = {}
        self.suspects: deque[int] = deque()
        self.flying: dict[Future[object], int] = {}
        self.deaths: Counter[int] = Counter()
        self.again: set[int] = set()
        self.counts: Counter[str] = Counter()
        self.requests: list[str] = []
        self.stopped = ""
        self.pool: Pool | None = None
        self.idle_deaths = 0
        self.broken_calls = 0
        self.last_report = 0.0

    def run(self) -> Tally:
        """Work until nothing is left, or the run is stopped."""
        try:
            while True:
                self.interrupt.check()
                self._look_at_the_clock()
                if not self.stopped:
                    self._hand_out()
                if not self.flying:
                    break
                self._take_in()
                self._tell()
            self._close(kill=False)
        except BaseException as error:
            # The handler of `interrupt` is in force still: another Ctrl-C changes nothing here.
            self._close(kill=True)
            if self.interrupt.pressed and isinstance(error, Exception):
                # Programs that the backend calls hear of Ctrl-C too, and fail for it.
                raise KeyboardInterrupt from error
            raise
        self._tell(now=True)
        return self.tally

    @property
    def tally(self) -> Tally:
        """How it stands."""
        ended = self.counts["done"] + self.counts["failed"] + self.counts["skipped"]
        left, stopped = len(self.tasks) - ended, self.stopped
        if stopped == _LATE:
            # Said anew every time: what is in flight then still ends.
            total = len(self.tasks)
            stopped += f" {left} of {total} are left; the same command goes on."
        return Tally(**self.counts, left=left, waiting=tuple(self.requests), stopped=stopped)

    # ---- handing out

    def _hand_out(self) -> None:
        if self.waiting:
            pool = self._open()
            room = min(pool.width - len(self.flying), len(self.waiting))
            self._submit(pool, self._next(room))
        elif self.suspects and not self.flying:
            # Alone: nobody else can be killed by it, and it has all the memory.
            self._submit(self._open(), [self.suspects.popleft()])

    def _next(self, room: int) -> list[int]:
        """Return tasks to hand out, and hold back those whose group is in flight enough."""
        chosen: list[int] = []
        groups = Counter(self._group(number) for number in self.flying.values())
        while self.waiting and len(chosen) < room:
            number = self.waiting.popleft()
            limit = self.tasks[number].at_once
            if limit is not None and groups[limit[0]] >= limit[1]:
                self.held.setdefault(limit[0], deque()).append(number)
                continue
            groups[self._group(number)] += 1
            chosen.append(number)
        return chosen

    def _group(self, number: int) -> str:
        limit = self.tasks[number].at_once
        return "" if limit is None else limit[0]

    def _landed(self, number: int) -> None:
        """Let the next task of the same group wait with the others."""
        held = self.held.get(self._group(number))
        if held:
            self.waiting.appendleft(held.popleft())

    def _open(self) -> Pool:
        if self.pool is None:
            jobs = min(self.jobs, max(len(self.waiting), 1))
            # Interrupted in the middle, a start may leave processes behind; a service that does not
            # answer must not hold anybody, though. So the second Ctrl-C ends it.
            with self.interrupt.allowed(presses=2):
                self.pool = self.backend.open(jobs, self.folder.path)
        return self.pool

    def _submit(self, pool: Pool, numbers: list[int]) -> None:
        if not numbers:
            return
        calls = []
        for number in numbers:
            self.marks.clear(number)
            calls.append(Attempt.of(self.compute, self.tasks[number], self.marks.path(number)))
        if pool.here:
            with self.interrupt.allowed():
                futures = pool.submit(calls)
        else:
            futures = pool.submit(calls)
        self.flying.update(zip(futures, numbers, strict=True))

    # ---- taking in

    def _take_in(self) -> None:
        ended, _ = wait(self.flying, timeout=_GLANCE, return_when=FIRST_COMPLETED)
        if not ended:
            return
        died = self._settle(ended)
        if died and self.pool is not None and self.pool.breaks:
            # All that was in flight fails with the pool, if not at once.
            ended, _ = wait(self.flying, timeout=_PATIENCE)
            died += self._settle(ended)
            self._close(kill=True)
            for number in self.flying.values():
                self._landed(number)
                died.append(number)
            self.flying.clear()
        if died:
            self._answer(died)

    def _settle(self, ended: set[Future[object]]) -> list[int]:
        """Take up answers; return the tasks whose workers died."""
        died = []
        for future in ended:
            number = self.flying.pop(future)
            self._landed(number)
            try:
                answer = cast("Answer", future.result())
            except self._deaths():
                died.append(number)
                continue
            except CancelledError as error:
                message = (
                    f"The backend {self.backend.name!r} has dropped its tasks: connection lost?"
                )
                raise BackendError(message) from error
            except BackendError:
                raise  # no fault of the task
            except Exception as error:
                answer = Answer.of(error)
            if answer.worker is not None and self.hired is not None:
                self.hired(answer.worker)
            if answer.died:
                died.append(number)
            elif answer.refused:
                self._stop(answer.refused)
            elif answer.error:
                self._call_failed(number, answer)
            else:
                self._ended(number, answer.value)
        return died

    def _deaths(self) -> tuple[type[BaseException], ...]:
        return () if self.pool is None else self.pool.deaths

    def _ended(self, number: int, outcome: Outcome) -> None:
        self.idle_deaths = 0
        if outcome.disk:
            self._stop_full(outcome.error)
            return
        if outcome.state == "waiting":
            self.requests.append(outcome.error)
            return
        try:
            self._add(self.folder.note(outcome))
        except OSError as error:
            self._disk_or_raise(error)
            return
        # Found finished at a second attempt: the first had written it, and its answer was lost.
        ours = outcome.state == "skipped" and number in self.again
        self.counts["done" if ours else outcome.state] += 1
        if outcome.state == "failed" and self.fail_fast:
            self._stop(f"{outcome.name} failed: {outcome.error}")

    def _add(self, tasks: Iterable[Named]) -> None:
        # First: who asks can end something with them.
        for task in tasks:
            self.waiting.appendleft(len(self.tasks))
            self.tasks.append(task)

    def _answer(self, died: list[int]) -> None:
        """Tell the tasks that a dead worker was in from those that only lost their place."""
        self.again.update(died)
        in_it = [number for number in sorted(died) if self.marks.is_set(number)]
        for number in sorted(set(died) - set(in_it), reverse=True):
            self.waiting.appendleft(number)
        for number in in_it:
            self.marks.clear(number)
            self.deaths[number] += 1
            if self.deaths[number] < MAX_DEATHS:
                self.suspects.append(number)
            elif no_room(self.folder.path):
                self._stop_full()
            else:
                self._failed(number, _KILLER)
        self.idle_deaths = 0 if in_it else self.idle_deaths + 1
        if self.idle_deaths >= _IDLE_DEATHS:
            message = (
                f"The workers of the backend {self.backend.name!r} die before they begin a task, "
                f"{_IDLE_DEATHS} times in a row. Try --backend serial to see what is wrong."
            )
            raise BackendError(message)

    def _call_failed(self, number: int, answer: Answer) -> None:
        """Take up an exception that came from around the task: pickling, imports, a lost answer."""
        if is_full(answer.errno):
            self._stop_full(answer.error)
            return
        self.broken_calls += 1
        if self.broken_calls >= _BROKEN_CALLS and not self.counts["done"]:
            message = (
                f"No call works on the backend {self.backend.name!r}: {answer.error}. "
                f"Try --backend serial to see what is wrong.\n{answer.traceback}"
            )
            raise BackendError(message)
        self._failed(number, f"the call failed: {answer.error}", answer.traceback)

    def _failed(self, number: int, reason: str, trace: str = "") -> None:
        task = self.tasks[number]
        try:
            self._add(self.folder.record_failure(task, reason, trace))
        except OSError as error:
            self._disk_or_raise(error)
            return
        self.counts["failed"] += 1
        if self.fail_fast:
            self._stop(f"{task.name} failed: {reason}")

    # ---- stopping

    def _look_at_the_clock(self) -> None:
        if self.deadline is not None and time.monotonic() >= self.deadline:
            if self.waiting or self.suspects or any(self.held.values()):
                self._stop(_LATE)
            self.deadline = None

    def _disk_or_raise(self, error: OSError) -> None:
        if not is_full(error.errno):
            raise error
        self._stop_full(str(error))

    def _stop_full(self, reason: str = "") -> None:
        said = f" ({reason})" if reason else ""
        self._stop(f"The disk is full{said}. Make room, then run it again.")

    def _stop(self, why: str) -> None:
        """Start nothing more; take back what is in flight and has not started."""
        self.stopped = self.stopped or why
        for future, number in list(self.flying.items()):
            if not self.marks.is_set(number) and future.cancel():
                del self.flying[future]

    def _close(self, *, kill: bool) -> None:
        if self.pool is not None:
            pool, self.pool = self.pool, None
            pool.close(kill=kill)

    def _tell(self, *, now: bool = False) -> None:
        if self.progress is not None and (now or time.monotonic() - self.last_report >= _GLANCE):
            self.last_report = time.monotonic()
            self.progress(self.tally, len(self.flying))
