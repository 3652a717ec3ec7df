"""Tasks that do on cue what real ones do by accident: die, raise, hang, fill the disk."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_theory.engine.sources import OtherCodeError
from rlhf_theory.engine.tasks import Outcome


@dataclass(frozen=True, kw_only=True)
class ToyTask:
    """A task whose block is a file with its own name in it.

    ``deaths``: how many workers it kills (a file counts them); ``gate``: it goes on when this file
    is there.
    """

    name: str
    folder: str
    acts: str = "ends"
    deaths: int = 0
    gate: str = ""
    seconds: float = 0.0
    cargo: Any = None
    at_once: tuple[str, int] | None = None

    @property
    def path(self) -> Path:
        return Path(self.folder) / "blocks" / f"{self.name}.txt"

    @property
    def starts(self) -> Path:
        return Path(self.folder) / "starts" / f"{self.name}.txt"

    def n_starts(self) -> int:
        return self.starts.stat().st_size if self.starts.exists() else 0


@dataclass
class ToyFolder:
    """Keeps what the loop says; ``further`` has what the end of some tasks makes it ask for."""

    path: Path
    notes: list[Outcome] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    further: dict[str, list[ToyTask]] = field(default_factory=dict)

    def note(self, outcome: Outcome) -> list[ToyTask]:
        self.notes.append(outcome)
        return self.further.get(outcome.name, [])

    def record_failure(self, task: ToyTask, error: str, traceback: str = "") -> list[ToyTask]:
        self.failures.append((task.name, error, traceback))
        return self.further.get(task.name, [])

    def states(self) -> dict[str, str]:
        return {outcome.name: outcome.state for outcome in self.notes}


def toys(folder: Path, n: int, **special: dict[str, Any]) -> list[ToyTask]:
    """Return tasks ``t0`` .. ``t<n-1>``; ``special`` has the settings of some, by name."""
    for name in ("blocks", "starts"):
        (folder / name).mkdir(exist_ok=True)
    return [ToyTask(name=f"t{i}", folder=str(folder), **special.get(f"t{i}", {})) for i in range(n)]


def compute_toy(task: ToyTask) -> Outcome:
    """Do what the task says; leave its file."""
    with task.starts.open("ab") as stream:
        stream.write(b".")
    if task.path.exists():
        return Outcome(name=task.name, state="skipped", seconds=0.0)
    while task.gate and not Path(task.gate).exists():
        time.sleep(0.01)
    time.sleep(task.seconds)
    if task.n_starts() <= task.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    if task.acts == "raises":
        message = "around the task"
        raise RuntimeError(message)
    if task.acts == "other code":
        raise OtherCodeError("of another one.")
    if task.acts == "fails":
        return Outcome(name=task.name, state="failed", seconds=0.0, error="ValueError: on cue")
    if task.acts == "asks":
        question = f"{task.name} has a question"
        return Outcome(name=task.name, state="waiting", seconds=0.0, error=question)
    if task.acts == "full":
        return Outcome(name=task.name, state="failed", seconds=0.0, error="no room", disk=True)
    if task.acts == "full around":
        raise OSError(errno.ENOSPC, "no room")
    if task.acts == "unpicklable":
        return Outcome(name=task.name, state="done", seconds=0.0, error=threading.Lock())  # type: ignore[arg-type]
    task.path.write_text(task.name)
    return Outcome(name=task.name, state="done", seconds=task.seconds, size=len(task.name))
