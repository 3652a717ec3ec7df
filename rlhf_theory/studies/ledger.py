"""Which blocks are there: by what journals say of their files, else by reading them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from rlhf_theory.store import DamagedError
from rlhf_theory.studies.blocks import Task
from rlhf_theory.studies.journals import Held, Journals, Stamp
from rlhf_theory.studies.looks import Files, Look
from rlhf_theory.studies.tables import read_block

_THREADS, _AHEAD = 4, 256

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def in_threads(function: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> Iterator[_Result]:
    """Yield the results of reading many files, in order.

    Reading and unpacking leave Python alone, so threads help; not too far ahead of the caller, who
    may have less memory than there are blocks.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(jobs), _AHEAD):
            yield from pool.map(function, jobs[start : start + _AHEAD])


class Ledger:
    """What is known of the files of a study's blocks.

    Parameters
    ----------
    folder
        Folder of the study.
    """

    def __init__(self, folder: Path) -> None:
        self.journals = Journals(folder)
        self._damaged: dict[tuple[str, Stamp], str] = {}

    def look(self, tasks: list[Task], files: Files) -> Look:
        """Look through blocks; files that no journal knows are read in full, once.

        Parameters
        ----------
        tasks
            Their tasks.
        files
            The files of their cells.
        """
        held: dict[str, Held] = {}
        done: set[str] = set()
        failed: list[str] = []
        damaged: list[str] = []
        for task in tasks:
            name = task.name
            stamp = files.stamps.get(name)
            found = None if stamp is None else self._held(task, name, stamp)
            if isinstance(found, Held):
                held[name] = found
                if found.serves(task.cell):
                    done.add(name)
            elif found:
                damaged.append(found)
            if name in files.failures and name not in done:
                failed.append(name)
        return Look(
            tasks=tasks,
            held=held,
            done=frozenset(done),
            failed=failed,
            damaged=damaged,
            files=files,
        )

    def verify(self, tasks: list[Task], files: Files, *, drop: bool) -> list[str]:
        """Read all blocks; return what is wrong with those that are not what was written.

        They count no more. With ``drop`` their files are called ``r....damaged`` from now on, where
        that can be done, so that others see it too.
        """
        there = [(task, files.stamps[task.name]) for task in tasks if task.name in files.stamps]
        found = []
        for (task, stamp), said in zip(there, in_threads(_read, there), strict=True):
            if isinstance(said, str):
                found.append(said)
                self._damaged[task.name, stamp] = said
                if drop:
                    with suppress(OSError):
                        _set_aside(task, stamp)
            elif said is not None:
                self.journals.put(task.name, stamp, said)
        return found

    def _held(self, task: Task, name: str, stamp: Stamp) -> Held | str | None:
        """Return what the file of a block holds, what is wrong with it, or None: it is gone."""
        known = self._damaged.get((name, stamp)) or self.journals.get(name, stamp)
        if known is not None:
            return known
        found = _read((task, stamp))
        if isinstance(found, str):
            self._damaged[name, stamp] = found
        elif found is not None:
            self.journals.put(name, stamp, found)
        return found


def _read(job: tuple[Task, Stamp]) -> Held | str | None:
    """Return what the file of a block holds, what is wrong with it, or None: it is gone."""
    task, _ = job
    try:
        _, about = read_block(task.path, task.cell)
    except DamagedError as error:
        return str(error)
    except OSError:
        return None
    return Held(seconds=None, rounds=about.rounds, metric=about.metric, digest=about.digest)


def _set_aside(task: Task, stamp: Stamp) -> None:
    """Rename the file of a block, unless somebody has put another one in its place."""
    state = task.path.stat()
    if Stamp(state.st_size, state.st_mtime_ns) == stamp:
        task.path.replace(task.beside(".damaged"))
