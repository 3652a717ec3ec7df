"""The folder of a study: what is done in it, what has failed, and reading it.

::

    study.json               whose folder it is
    study.toml               the study as it was written, where it came from a file
    resolved.json            the study with every setting
    journal/                 what is known of finished blocks
    cells/KEY/cell.json                      what the key is a hash of; see `identities`
    cells/KEY/r000000-000064.parquet         a block
    cells/KEY/r000000-000064.files/          what its world has left: weights, answers
    cells/KEY/r000000-000064.failed.json     why there is none
    cells/KEY/r000000-000064.damaged         what was one, and is not what was written any more
    curves.parquet           all blocks in one table, once the study is finished
    provenance/              one file per run

The files of the blocks are the truth. Journals only save opening them, so they may be lost.
"""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd

from rlhf_theory.engine.tasks import Outcome, record_failure
from rlhf_theory.store import (
    MARKER,
    DamagedError,
    DamageWarning,
    claim_folder,
    folder_study,
    read_json,
    seal,
    unclaimed,
    unseal,
    write_atomic,
    write_json,
)
from rlhf_theory.studies import curves
from rlhf_theory.studies.blocks import Task
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.former import former_results
from rlhf_theory.studies.journals import Held, Stamp
from rlhf_theory.studies.ledger import Ledger
from rlhf_theory.studies.looks import Files, Look
from rlhf_theory.studies.tables import About

FORMAT = 3
"""Of the folder; another one is refused."""

MADE_BY = "rlhf-theory run"

_Result = TypeVar("_Result")

_HOUR, _DAY = 3600.0, 86_400.0


class Study(Protocol):
    """What the folder needs to know of a study."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def resolved(self) -> Mapping[str, object]:
        """Return it as plain data."""
        ...


def _remove_temporary(place: Path, age: float) -> None:
    """Remove what is older than ``age`` seconds and has the name of a temporary file or folder."""
    before = time.time() - age
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                with suppress(OSError):  # somebody else has removed it
                    if entry.stat().st_mtime < before and entry.is_dir():
                        shutil.rmtree(entry.path)
                    elif entry.stat().st_mtime < before:
                        Path(entry.path).unlink()


class StudyFolder:
    """The folder of a study. Only `claim` and what workers report write to it.

    Parameters
    ----------
    path
        The folder; it need not exist before it is claimed, and nothing is done in it then.

    Raises
    ------
    ValueError
        If it holds anything else than a study.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if self.path.exists() and not unclaimed(self.path):
            _check_ours(self.path)
        self._ledger = Ledger(self.path)

    def claim(self, study: Study, toml: str | None = None) -> None:
        """Make it the folder of a study, or find that it is already; store the study in it.

        Temporary files that killed processes have left an hour ago or earlier are removed.

        Parameters
        ----------
        study
            The study; its name is what makes the folder its own.
        toml
            The study as somebody wrote it, where it comes from a file.

        Raises
        ------
        ValueError
            If the folder holds another study or other files, or cannot be written to.
        """
        identity = {"made_by": MADE_BY, "name": study.name, "format": FORMAT}
        try:
            claim_folder(self.path, identity)
            (self.path / "cells").mkdir(exist_ok=True)
            write_json(self.path / "resolved.json", seal(study.resolved()))
            if toml is not None:
                write_atomic(self.path / "study.toml", toml.encode())
        except OSError as error:
            message = (
                f"The output folder {self.path} must be writable; writing to it failed ({error}). "
                "Choose another folder with --out."
            )
            raise ValueError(message) from error
        self._remove_stale()

    def __repr__(self) -> str:
        return f"StudyFolder({str(self.path)!r})"

    def resolved(self) -> dict[str, object]:
        """Return the resolved study as it is stored.

        Raises
        ------
        ValueError
            Where there is none; a `DamagedError` where it is not what was written.
        """
        path = self.path / "resolved.json"
        if not path.is_file():
            message = (
                f"{self.path} must be the folder of a study, with the resolved.json that "
                "`rlhf-theory run` writes; it has none."
            )
            raise ValueError(message)
        try:
            return unseal(read_json(path) or {})
        except DamagedError as error:
            message = (
                f"{path} must be what `rlhf-theory run` has written; {error}. Run the study again "
                f"with --out {self.path}: that writes the file anew and computes nothing twice."
            )
            raise DamagedError(message) from error

    # ----------------------------------------------------------------------------- what is done

    def tasks(self, cells: Iterable[Cell]) -> list[Task]:
        """Return the tasks of all blocks of some cells, each block once."""
        unique = {cell.key: cell for cell in cells}
        folder = str(self.path.absolute())  # once, not per task
        return [
            Task(folder=folder, cell=cell, first=first, stop=stop)
            for cell in unique.values()
            for first, stop in cell.blocks()
        ]

    def look(self, cells: Iterable[Cell]) -> Look:
        """Look through the blocks of some cells.

        A file of the size and the time of change that a journal says is not opened. Another one is
        read in full, once: it counts if it is what was written.
        """
        return self._ledger.look(*self._there(cells))

    def _there(self, cells: Iterable[Cell]) -> tuple[list[Task], Files]:
        tasks = self.tasks(cells)
        return tasks, Files.of(self.path, {task.cell.key for task in tasks})

    def done(self, cells: Iterable[Cell]) -> frozenset[str]:
        """Return the names of the blocks that need no computing."""
        return self.look(cells).done

    def todo(self, cells: Iterable[Cell]) -> list[Task]:
        """Return the tasks that are not done, failed ones included."""
        return self.look(cells).todo

    def failed(self, cells: Iterable[Cell]) -> dict[str, dict[str, Any]]:
        """Return the records of blocks that failed and are not done, by name.

        Each has ``error``, ``traceback``, ``attempts``, ``when`` and ``host``.
        """
        return self.records(self.look(cells))

    def records(self, look: Look) -> dict[str, dict[str, Any]]:
        """Return what `failed` does, of the blocks of a look."""
        places = {name: self.path / "cells" / f"{name}.failed.json" for name in look.failed}
        return {name: read_json(place) or {} for name, place in places.items()}

    def verify(self, cells: Iterable[Cell], *, drop: bool = True) -> list[str]:
        """Read everything; return what is wrong with what is not what was written.

        Parameters
        ----------
        cells
            Whose blocks are read, beside ``resolved.json`` and ``curves.parquet``.
        drop
            Take away what is damaged, so that the next run makes it anew: a block is called
            ``r....damaged`` until then. In any case this object does not count it any more.
        """
        found = []
        try:
            self.resolved()
        except DamagedError as error:
            found.append(str(error))
        except ValueError:
            pass  # there is none
        found += curves.verify(self.path, drop=drop)
        return found + self._ledger.verify(*self._there(cells), drop=drop)

    # ----------------------------------------------------------------------------- during a run

    def running(self) -> AbstractContextManager[None]:
        """Let nobody tidy up in the folder meanwhile."""
        return self._ledger.journals.running()

    def note(self, outcome: Outcome) -> tuple[()]:
        """Take up what a worker reported: a block that is there goes into the journal."""
        about = outcome.about
        if isinstance(about, About):
            held = Held(
                seconds=outcome.seconds if outcome.state == "done" else None,
                rounds=about.rounds,
                metric=about.metric,
                digest=about.digest,
            )
            stamp = Stamp(outcome.size, outcome.modified)
            self._ledger.journals.put(outcome.name, stamp, held)
            self._ledger.journals.write()
        return ()

    def close(self) -> None:
        """Write what is not written yet; make one journal of several, if nobody runs."""
        self._ledger.journals.write()
        self._ledger.journals.tidy(lambda: Files.of(self.path).stamps)

    def record_failure(self, task: Task, error: str, traceback: str = "") -> tuple[()]:
        """Write the record of a failure that no worker could write."""
        record_failure(task, error, traceback)
        return ()

    def _remove_stale(self) -> None:
        """Remove temporary files of killed processes.

        A living one needs seconds for a file of results; for the weights of a model it may be long.
        """
        own = (self.path / name for name in ("provenance", "journal"))
        for place in (self.path, *own, *(self.path / "cells").iterdir()):
            _remove_temporary(place, _HOUR)
        for kept, _, _ in os.walk(self.path / "kept"):
            _remove_temporary(Path(kept), _DAY)

    # ----------------------------------------------------------------------------- the results

    def read(self, cells: Iterable[Cell], columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return everything that is recorded of some cells, as one tidy table.

        Parameters
        ----------
        cells
            Which cells; blocks that are missing are left out. Rounds beyond those of a cell are cut
            off; a block that waits for its extension gives the rounds that it has.
        columns
            Names of metrics, or ``labels``, ``regret``; None for all.

        Returns
        -------
        Columns ``cell`` (categorical), ``replica``, ``round`` and ``pairs`` (each row has one of
        the two), then ``labels``, ``regret`` and the metrics; NaN where a cell has not recorded
        one. In the order of the cells, replicas and rounds.

        Raises
        ------
        ValueError
            If a file that was whole can no longer be read.
        """
        cells = list(cells)
        return self._from_whole(cells, lambda found: curves.read(self.path, found, columns))

    def compact(self, cells: Iterable[Cell]) -> Path:
        """Write all blocks of some cells into ``curves.parquet``, unless it has them; return it.

        `read` uses it for the cells whose blocks have not changed since.
        """
        return self._from_whole(list(cells), lambda found: curves.compact(self.path, found))

    def _from_whole(
        self, cells: list[Cell], use: Callable[[list[curves.Contents]], _Result]
    ) -> _Result:
        """Return what blocks give; those that turn out to be damaged are named and left out."""
        try:
            return use(self._contents(cells))
        except DamagedError:
            for said in self.verify(cells):
                message = f"{said} It is left out; the next run makes it anew."
                warnings.warn(message, DamageWarning, stacklevel=4)
            return use(self._contents(cells))

    def _contents(self, cells: list[Cell]) -> list[curves.Contents]:
        cells = list({cell.key: cell for cell in cells}.values())
        blocks: dict[str, list[tuple[str, str]]] = {cell.key: [] for cell in cells}
        for name, held in self.look(cells).held.items():
            mark = f"{held.digest} {held.rounds} {held.metric}"  # `curves` knows this form
            blocks[name.partition("/")[0]].append((name, mark))
        return [curves.Contents(cell, tuple(blocks[cell.key])) for cell in cells]


def _check_ours(path: Path) -> None:
    """Raise ``ValueError`` unless there is the marker of a study of this format."""
    marker = folder_study(path) if path.is_dir() else None
    ours = marker is not None and marker.get("made_by") == MADE_BY
    written_in = (marker or {}).get("format")
    if ours and written_in == FORMAT:
        return
    former = former_results(f"The study in {path}", written_in)
    if ours and former:
        message = f"{former} Choose one with --out."
        raise ValueError(message)
    says = "it is none" if marker is None else f"its {MARKER} says {marker}"
    message = (
        f"{path} must be the folder of a study (format {FORMAT}) or a new one; {says}. "
        "Choose another folder with --out, or remove this one."
    )
    raise ValueError(message)
