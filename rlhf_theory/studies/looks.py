"""What is in the folder of a study at one moment: looked through once, asked often."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_theory.studies.blocks import Task
from rlhf_theory.studies.journals import Held, Stamp


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of some cells, by name of the block.

    Attributes
    ----------
    stamps
        Of the files of blocks.
    failures
        Blocks with a record of a failure.
    """

    stamps: Mapping[str, Stamp]
    failures: frozenset[str]

    @classmethod
    def of(cls, folder: Path, keys: Iterable[str] | None = None) -> Files:
        """Return the files of cells by their keys; None for all that are there."""
        cells = folder / "cells"
        if keys is None:
            keys = [path.name for path in cells.iterdir()] if cells.is_dir() else []
        stamps: dict[str, Stamp] = {}
        failures: set[str] = set()
        for key in set(keys):
            try:
                with os.scandir(cells / key) as entries:
                    for entry in entries:
                        block, _, ending = entry.name.partition(".")
                        if ending == "parquet":
                            found = entry.stat()
                            stamps[f"{key}/{block}"] = Stamp(found.st_size, found.st_mtime_ns)
                        elif ending == "failed.json":
                            failures.add(f"{key}/{block}")
            except (FileNotFoundError, NotADirectoryError):
                continue
        return cls(stamps=stamps, failures=frozenset(failures))


@dataclass(frozen=True, kw_only=True)
class Look:
    """The blocks of some cells, done or not.

    Attributes
    ----------
    tasks
        All of them.
    held
        What the blocks with a whole file hold, whatever they lack, by name.
    done
        Names of those that need no computing.
    failed
        Names of those that failed and are not done, in order.
    damaged
        What is wrong with files that are not what was written, a sentence each.
    files
        All files of the cells, also of blocks that are none of theirs any more.
    """

    tasks: list[Task]
    held: Mapping[str, Held]
    done: frozenset[str]
    failed: list[str]
    damaged: list[str]
    files: Files

    @property
    def todo(self) -> list[Task]:
        """The tasks that are not done, failed ones included."""
        todo = [task for task in self.tasks if task.name not in self.done]
        others = self._strangers() if todo else {}
        for number, task in enumerate(todo):
            near = others.get((task.cell.key, task.first), [])
            if shorter := tuple(name for stop, name in near if stop < task.stop):
                todo[number] = replace(task, replaces=shorter)
        return todo

    def _strangers(self) -> dict[tuple[str, int], list[tuple[int, str]]]:
        """Return last replica and name of files that are no block, by cell and first replica.

        They are last blocks of a study with fewer or more replicas.
        """
        found: dict[tuple[str, int], list[tuple[int, str]]] = {}
        there = {*self.files.stamps, *self.files.failures}
        for name in there.difference(task.name for task in self.tasks):
            key, _, block = name.partition("/")
            first, _, stop = block.removeprefix("r").partition("-")
            if first.isdigit() and stop.isdigit():
                found.setdefault((key, int(first)), []).append((int(stop), name))
        return found
