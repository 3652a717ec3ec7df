"""Groups of parts, each with a last task that is for when all of its parts have ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from rlhf_theory.engine.tasks import Outcome, Task, record_failure
from rlhf_theory.theorems.tasks import PartTask


class Gathering(ABC):
    """The folder of many groups of parts: asks for the last task of each when its parts have ended.

    Parameters
    ----------
    path
        The folder.
    groups
        From the name of a group to its parts. A part may be in several groups.
    """

    def __init__(self, path: Path, groups: Mapping[str, tuple[PartTask, ...]]) -> None:
        self.path, self.groups = path, groups
        self._open = {name: {part.name for part in parts} for name, parts in groups.items()}
        self._of: dict[str, list[str]] = {}
        self._errors: dict[str, str] = {}
        for name, parts in groups.items():
            for part in parts:
                self._of.setdefault(part.name, []).append(name)

    @abstractmethod
    def last(self, group: str, error: str) -> Task:
        """Return the last task of a group; ``error`` is what one of its parts has raised, if any.

        Its name is that of the group and ``": verdict"``.
        """

    @abstractmethod
    def take(self, group: str, about: object) -> None:
        """Take up what the last task of a group has found."""

    @abstractmethod
    def give_up(self, group: str, error: str) -> None:
        """Take up that the last task of a group has found nothing."""

    def note(self, outcome: Outcome) -> list[Task]:
        """Take up what a worker reported."""
        error = outcome.traceback or outcome.error
        if outcome.name in self._of:
            return self._ended(outcome.name, error)
        self._close(outcome.name, outcome.about, error)
        return []

    def record_failure(self, task: Task, error: str, traceback: str = "") -> list[Task]:
        """Record what no worker could report."""
        record_failure(task, error, traceback)
        if task.name in self._of:
            return self._ended(task.name, traceback or error)
        self._close(task.name, None, traceback or error)
        return []

    def _close(self, task: str, about: object, error: str) -> None:
        group = task.removesuffix(": verdict")
        if about is None:
            self.give_up(group, error)
        else:
            self.take(group, about)

    def _ended(self, part: str, error: str) -> list[Task]:
        ready = []
        for group in self._of[part]:
            self._open[group].discard(part)
            if error:
                self._errors.setdefault(group, f"{part}: {error}")
            if not self._open[group]:
                ready.append(self.last(group, self._errors.get(group, "")))
        return ready
