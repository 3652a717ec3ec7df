"""What is known of finished blocks without opening their files: one journal per process that runs.

A journal is a file of lines in ``journal/``, to which one process appends as blocks come in. A line
counts if its checksum is right, so that torn and damaged ones are ignored. All journals may be
lost: the files of the blocks are the truth.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from rlhf_theory.engine.locks import alone, running
from rlhf_theory.store import write_atomic
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.tables import serves


class Stamp(NamedTuple):
    """By which a file is known without opening it: bytes, and time of change in nanoseconds."""

    size: int
    modified: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What a journal knows of a finished block.

    Attributes
    ----------
    seconds
        How long it took in its worker; None where that is not known.
    rounds, metric, digest
        As in `tables.About`.
    """

    seconds: float | None
    rounds: int | None
    metric: str | None
    digest: str

    def serves(self, cell: Cell) -> bool:
        """Return whether the block needs no further computing for the cell as it is now."""
        return serves(cell, self.rounds, self.metric)


class Journals:
    """All journals of a study, and the one of this process, which is there when something is new.

    Nothing is read before the first question.

    Parameters
    ----------
    folder
        Folder of the study.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "journal"
        # Sorted by name is sorted by time, for people.
        self._own = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}.jsonl"
        self._news: list[bytes] = []

    def get(self, name: str, stamp: Stamp) -> Held | None:
        """Return what is known of a block whose file has this stamp, or None."""
        return self._known.get((name, stamp))

    def put(self, name: str, stamp: Stamp, held: Held) -> None:
        """Take up a block; `write` writes it down."""
        if held.seconds is None and (name, stamp) in self._known:
            return  # what it took is known already
        self._known[name, stamp] = held
        self._news.append(_line(name, stamp, held))

    def write(self) -> None:
        """Append what is new to the journal of this process.

        It is no error if that cannot be done, nor if half a line is written: then files are read.
        """
        if self._news:
            # Whatever an earlier attempt has left ends here.
            lines, self._news = b"\n" + b"".join(self._news), []
            with suppress(OSError):
                self.folder.mkdir(exist_ok=True)
                with (self.folder / self._own).open("ab", buffering=0) as stream:
                    stream.write(lines)

    def running(self) -> AbstractContextManager[None]:
        """Let nobody rewrite journals meanwhile."""
        return running(self.folder / "lock")

    def tidy(self, there: Callable[[], Mapping[str, Stamp]]) -> None:
        """Make one journal of several, of files that are there, if nobody runs.

        Parameters
        ----------
        there
            Returns the files of all blocks; called where there is something to do.
        """
        with alone(self.folder / "lock") as nobody_runs, suppress(OSError):
            files = list(self.folder.glob("*.jsonl"))
            if not nobody_runs or len(files) < 2:
                return
            known = self._read()
            lines = [
                _line(name, stamp, known[name, stamp])
                for name, stamp in there().items()
                if (name, stamp) in known
            ]
            own = self.folder / self._own
            write_atomic(own, b"".join(lines))
            for path in files:
                if path != own:
                    path.unlink(missing_ok=True)

    @cached_property
    def _known(self) -> dict[tuple[str, Stamp], Held]:
        return self._read()

    def _read(self) -> dict[tuple[str, Stamp], Held]:
        known: dict[tuple[str, Stamp], Held] = {}
        for path in self.folder.glob("*.jsonl"):
            with suppress(OSError), path.open("rb") as stream:
                for line in stream:
                    _take_up(line, known)
        return known


def _line(name: str, stamp: Stamp, held: Held) -> bytes:
    said = [name, *stamp, held.seconds, held.rounds, held.metric, held.digest]
    text = json.dumps(said).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _take_up(line: bytes, known: dict[tuple[str, Stamp], Held]) -> None:
    """Add what a line says, if it is whole; what a block took is kept where only one knows it."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return
    name, size, modified, seconds, rounds, metric, digest = json.loads(text)
    entry = (name, Stamp(size, modified))
    if seconds is not None or entry not in known:
        known[entry] = Held(seconds=seconds, rounds=rounds, metric=metric, digest=digest)
