"""A backend whose workers die, stall and answer as a script says: no process, no clock."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_theory.engine.attempts import Attempt, DeadWorkerError
from tests.helpers.toy_tasks import ToyTask


@dataclass
class Scripted:
    """A backend without workers: calls are made one at a time, whenever the loop waits.

    ``fate`` says what happens to a call instead, by the name of its task: a list of ``"dies"``
    (in the middle), ``"dies idle"`` (before it starts), ``"cancelled"``, or an exception. A pool
    that ``breaks`` takes all that is in flight with it; the first ``beside`` of these have started.
    """

    tasks: Sequence[ToyTask]
    fate: dict[str, list[Any]] = field(default_factory=dict)
    breaks: bool = False
    beside: int = 1
    width: int = 2
    here: bool = False
    name: str = "scripted"
    deaths: tuple[type[BaseException], ...] = (DeadWorkerError,)
    flying: deque[tuple[Attempt, Future[Any]]] = field(default_factory=deque)
    opened: list[int] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    together: list[list[str]] = field(default_factory=list)
    on_submit: Callable[[list[str]], None] | None = None
    on_close: Callable[[], None] | None = None

    def open(self, jobs: int, folder: Path) -> Scripted:
        self.opened.append(jobs)
        return self

    def name_of(self, call: Attempt) -> str:
        task: ToyTask = pickle.loads(call.payload)[1]
        return task.name

    def submit(self, calls: Sequence[Attempt]) -> list[Future[Any]]:
        futures: list[Future[Any]] = [Future() for _ in calls]
        self.flying.extend(zip(calls, futures, strict=True))
        self.together.append([self.name_of(call) for call, _ in self.flying])
        if self.on_submit is not None:
            self.on_submit(self.together[-1])
        return futures

    def go_on(self) -> None:
        """Let the call that waits longest come to its end."""
        if not self.flying:
            return
        call, future = self.flying.popleft()
        if future.cancelled():
            return
        fate = self.fate.get(self.name_of(call), [])
        match fate.pop(0) if fate else None:
            case None:
                future.set_result(call())
            case "cancelled":
                future.cancel()
                future.set_running_or_notify_cancel()
            case "dies" | "dies idle" as how:
                if how == "dies":
                    Path(call.mark).touch()
                future.set_exception(DeadWorkerError("killed"))
                if self.breaks:
                    for k, (other, lost) in enumerate(self.flying):
                        if k < self.beside:
                            Path(other.mark).touch()
                        lost.set_exception(DeadWorkerError("the pool broke"))
                    self.flying.clear()
            case error:
                future.set_exception(error)

    def close(self, *, kill: bool) -> None:
        self.closed.append(kill)
        if self.on_close is not None:
            self.on_close()
