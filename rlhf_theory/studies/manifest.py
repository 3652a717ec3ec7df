"""What is known of finished blocks without opening their files."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from rlhf_theory.store import read_json, write_json
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.tables import About

_FORMAT = 1
_BETWEEN_WRITES = 5.0
"""Seconds between two writes while blocks come in."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the manifest knows of a finished block.

    Attributes
    ----------
    size
        Bytes of its file; another size means another content.
    seconds
        How long it took in its worker; None where that is not known.
    rounds, metric
        As in `tables.About`.
    """

    size: int
    seconds: float | None
    rounds: int | None
    metric: str | None

    @classmethod
    def of(cls, about: About, size: int, seconds: float | None = None) -> Self:
        """Return the entry of a file."""
        return cls(size=size, seconds=seconds, rounds=about.rounds, metric=about.metric)

    def same_content(self, other: Held) -> bool:
        """Return whether both are entries of one content, by all that is known of it."""
        ours, theirs = ((h.size, h.rounds, h.metric) for h in (self, other))
        return ours == theirs

    def serves(self, cell: Cell) -> bool:
        """Return whether the block needs no further computing for the cell as it is now."""
        about = About(key=cell.key, first=0, stop=0, rounds=self.rounds, metric=self.metric)
        return about.serves(cell)


class Manifest:
    """The file ``manifest.json`` of a study: a memory that may be lost, for the files are there.

    Nothing is read before the first question. What cannot be read counts as empty.

    Parameters
    ----------
    folder
        Folder of the study.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._dirty = False
        self._written = time.monotonic()

    def get(self, name: str, size: int) -> Held | None:
        """Return what is known of a block whose file has this size, or None."""
        held = self._entries.get(name)
        return held if held is not None and held.size == size else None

    def put(self, name: str, held: Held) -> None:
        """Take up a block; what it took is kept where only the new entry does not know it."""
        old = self._entries.get(name)
        if held.seconds is None and old is not None and old.same_content(held):
            return
        self._entries[name] = held
        self._dirty = True

    def keep(self, keys: Iterable[str], names: Iterable[str]) -> None:
        """Forget the blocks of some cells that are not among the names: their files are gone."""
        there, cells = set(names), set(keys)
        for name in [n for n in self._entries if n not in there and n.partition("/")[0] in cells]:
            del self._entries[name]
            self._dirty = True

    def flush(self, *, at_once: bool = True) -> None:
        """Write the file if something is new, joined with what other processes have written.

        What two processes write at the very same time may lose entries; then those files are read.
        For the same reason it is no error if it cannot be written.

        Parameters
        ----------
        at_once
            False waits until some seconds have passed since the last time.
        """
        if not self._dirty or not (at_once or time.monotonic() - self._written > _BETWEEN_WRITES):
            return
        self._written = time.monotonic()
        for name, held in self._stored().items():
            ours = self._entries.get(name)
            # What is gone stays gone: a shorter last block goes when the longer one is there.
            theirs = ours is None and (self._folder / "cells" / f"{name}.parquet").exists()
            longer_known = ours is not None and ours.seconds is None and ours.same_content(held)
            if theirs or longer_known:
                self._entries[name] = held
        blocks = {name: asdict(self._entries[name]) for name in sorted(self._entries)}
        with suppress(OSError):
            write_json(self._folder / "manifest.json", {"format": _FORMAT, "blocks": blocks})
            self._dirty = False

    @cached_property
    def _entries(self) -> dict[str, Held]:
        return self._stored()

    def _stored(self) -> dict[str, Held]:
        content = read_json(self._folder / "manifest.json") or {}
        if content.get("format") != _FORMAT:
            return {}
        try:
            return {name: Held(**entry) for name, entry in content["blocks"].items()}
        except (KeyError, TypeError, AttributeError):
            return {}  # not as we write it
