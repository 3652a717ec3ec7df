"""The folder of a study: what is done in it, what has failed, and reading it.

::

    study.json               whose folder it is
    study.toml               the study as it was written, where it came from a file
    resolved.json            the study with every setting
    manifest.json            size and seconds of every finished block
    cells/KEY/cell.json                      what the key is a hash of; see `identities`
    cells/KEY/r000000-000064.parquet         a block
    cells/KEY/r000000-000064.failed.json     why there is none
    curves.parquet           all blocks in one table, once the study is finished
    provenance/              one file per run

The files of the blocks are the truth. The manifest only saves opening them, so it may be lost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from rlhf_theory.store import (
    MARKER,
    claim_folder,
    folder_study,
    read_json,
    write_atomic,
    write_json,
)
from rlhf_theory.studies import curves
from rlhf_theory.studies.blocks import Outcome, Task, record_failure
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.former import results_of_format_1
from rlhf_theory.studies.manifest import Held, Manifest
from rlhf_theory.studies.tables import read_block

FORMAT = 2
"""Of the folder; another one is refused."""

MADE_BY = "rlhf-theory run"

_HOUR = 3600.0
_TRIES, _PAUSE = 20, 0.05
"""How long to wait for another process that is just claiming the folder."""


class Study(Protocol):
    """What the folder needs to know of a study."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def resolved(self) -> Mapping[str, object]:
        """Return it as plain data."""
        ...


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
        if self.path.exists() and not _unclaimed(self.path):
            _check_ours(self.path)
        self._manifest = Manifest(self.path)

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
            _claim(self.path, identity)
            (self.path / "cells").mkdir(exist_ok=True)
            write_json(self.path / "resolved.json", study.resolved())
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
        """Return the resolved study as it is stored; ``ValueError`` where there is none."""
        content = read_json(self.path / "resolved.json")
        if not content:
            message = (
                f"{self.path} must be the folder of a study, with the resolved.json that "
                "`rlhf-theory run` writes; it has none."
            )
            raise ValueError(message)
        return content

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

    def done(self, cells: Iterable[Cell]) -> set[str]:
        """Return the names of the blocks that need no computing.

        A file of the size that the manifest says is not opened. Another one is read in full, once:
        it counts if it is whole.
        """
        return {task.name for task, held in self._blocks(cells) if held.serves(task.cell)}

    def todo(self, cells: Iterable[Cell]) -> list[Task]:
        """Return the tasks that are not done, failed ones included."""
        cells = list(cells)
        done = self.done(cells)
        return [task for task in self.tasks(cells) if task.name not in done]

    def failed(self, cells: Iterable[Cell]) -> dict[str, dict[str, Any]]:
        """Return the records of blocks that failed and are not done, by name.

        Each has ``error``, ``traceback``, ``attempts``, ``when`` and ``host``.
        """
        cells = list(cells)
        done = self.done(cells)
        sizes = self._scan(cells, ".failed.json")
        names = [t.name for t in self.tasks(cells) if t.name in sizes and t.name not in done]
        places = {name: self.path / "cells" / f"{name}.failed.json" for name in names}
        return {name: read_json(place) or {} for name, place in places.items()}

    def seconds(self, cells: Iterable[Cell]) -> dict[str, float]:
        """Return how long finished blocks took in their worker, by name, where it is known."""
        found = self._blocks(cells)
        return {task.name: held.seconds for task, held in found if held.seconds is not None}

    def _blocks(self, cells: Iterable[Cell]) -> Iterator[tuple[Task, Held]]:
        """Yield the blocks that have a whole file, whatever it lacks, with what it holds."""
        cells = list(cells)
        sizes = self._scan(cells, ".parquet")
        self._manifest.keep({cell.key for cell in cells}, sizes)
        for task in self.tasks(cells):
            size = sizes.get(task.name)
            if size is None:
                continue
            held = self._manifest.get(task.name, size) or self._verify(task, size)
            if held is not None:
                yield task, held

    def _scan(self, cells: Iterable[Cell], ending: str) -> dict[str, int]:
        """Return the sizes of the blocks' files with an ending, by name of the block."""
        sizes = {}
        for key in {cell.key for cell in cells}:
            try:
                with os.scandir(self.path / "cells" / key) as entries:
                    for entry in entries:
                        if entry.name.endswith(ending) and not entry.name.startswith("."):
                            name = f"{key}/{entry.name.removesuffix(ending)}"
                            sizes[name] = entry.stat().st_size
            except FileNotFoundError:
                continue
        return sizes

    def _verify(self, task: Task, size: int) -> Held | None:
        try:
            _, about = read_block(task.path)
        except (OSError, ValueError):
            return None
        held = Held.of(about, size)
        self._manifest.put(task.name, held)
        return held

    # ----------------------------------------------------------------------------- during a run

    def note(self, outcome: Outcome) -> None:
        """Take up what a worker reported: a block that is there joins the manifest."""
        if outcome.about is not None:
            seconds = outcome.seconds if outcome.state == "done" else None
            self._manifest.put(outcome.name, Held.of(outcome.about, outcome.size, seconds))
            self._manifest.flush(at_once=False)

    def close(self) -> None:
        """Write what is not written yet."""
        self._manifest.flush()

    def record_failure(self, task: Task, error: str, traceback: str = "") -> Outcome:
        """Write the record of a failure that no worker could write; return its outcome."""
        return record_failure(task, error, traceback)

    def _remove_stale(self) -> None:
        """Remove temporary files of killed processes; a living one needs seconds for a file."""
        before = time.time() - _HOUR
        for place in (self.path, self.path / "provenance", *(self.path / "cells").iterdir()):
            for temporary in place.glob(".*.tmp"):
                try:
                    if temporary.stat().st_mtime < before:
                        temporary.unlink()
                except OSError:
                    continue  # somebody else has removed it

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
        return curves.read(self.path, self._contents(cells), columns)

    def compact(self, cells: Iterable[Cell]) -> Path:
        """Write all blocks of some cells into ``curves.parquet``; return its path.

        `read` uses it for the cells whose blocks have not changed since.
        """
        return curves.compact(self.path, self._contents(cells))

    def _contents(self, cells: Iterable[Cell]) -> list[curves.Contents]:
        cells = list({cell.key: cell for cell in cells}.values())
        blocks: dict[str, list[tuple[str, str]]] = {cell.key: [] for cell in cells}
        for task, held in self._blocks(cells):
            mark = f"{held.size} {held.rounds} {held.metric}"  # `curves` knows this form
            blocks[task.cell.key].append((task.name, mark))
        return [curves.Contents(cell, tuple(blocks[cell.key])) for cell in cells]


def _unclaimed(path: Path) -> bool:
    """Return whether a folder is empty, or another process has just begun to claim it."""
    return path.is_dir() and all(p.name.startswith(f".{MARKER}.") for p in path.iterdir())


def _claim(path: Path, identity: Mapping[str, object]) -> None:
    """Claim a folder, also if two processes do it at once or one was killed at it."""
    for _ in range(_TRIES):
        try:
            claim_folder(path, identity)
        except ValueError:
            if not _unclaimed(path) and folder_study(path) != identity:
                raise
            time.sleep(_PAUSE)
        else:
            return
    for temporary in path.glob(f".{MARKER}.*"):
        temporary.unlink(missing_ok=True)
    claim_folder(path, identity)


def _check_ours(path: Path) -> None:
    """Raise ``ValueError`` unless there is the marker of a study of this format."""
    marker = folder_study(path) if path.is_dir() else None
    if marker is not None and marker.get("made_by") == MADE_BY and marker.get("format") == FORMAT:
        return
    if marker is not None and (marker.get("made_by"), marker.get("format")) == (MADE_BY, 1):
        message = f"{results_of_format_1(f'The study in {path}')} Choose one with --out."
        raise ValueError(message)
    says = "it is none" if marker is None else f"its {MARKER} says {marker}"
    message = (
        f"{path} must be the folder of a study (format {FORMAT}) or a new one; {says}. "
        "Choose another folder with --out, or remove this one."
    )
    raise ValueError(message)
