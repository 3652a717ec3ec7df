"""Digests of the columns of a table: whoever reads a few columns can check just these."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf_theory.store import DamagedError

Digests = list[list[str]]
"""Name and digest of every column, in their order; lists, as JSON gives them back."""


class ColumnDigests:
    """Digests over name, type and values of every column, however the rows come in parts.

    Parameters
    ----------
    schema
        Names and types; numbers and truth values, or texts in dictionaries.
    words
        The texts that dictionaries have.
    """

    def __init__(self, schema: pa.Schema, words: Sequence[str] = ()) -> None:
        self._words = pa.array(words, pa.string())
        self._sums = {f.name: hashlib.sha256(f"{f.name}\0{f.type}\0".encode()) for f in schema}

    def add(self, table: pa.Table) -> None:
        """Take up further rows."""
        for name, column in zip(table.column_names, table.columns, strict=True):
            for chunk in column.chunks:
                self._sums[name].update(self._values(chunk))

    def _values(self, chunk: pa.Array) -> memoryview:
        """Return the values; one that is missing counts as NaN or -1, which no other one is."""
        if pa.types.is_dictionary(chunk.type):
            # Which number a text has in the dictionary depends on the cut into parts.
            chunk = pc.index_in(chunk.cast(pa.string()), self._words)
        elif pa.types.is_boolean(chunk.type):
            chunk = chunk.cast(pa.int8())
        if chunk.null_count:
            chunk = chunk.fill_null(np.nan if pa.types.is_floating(chunk.type) else -1)
        return np.ascontiguousarray(chunk.to_numpy(zero_copy_only=False)).data

    def digests(self) -> Digests:
        """Return name and digest of every column."""
        return [[name, found.hexdigest()[:32]] for name, found in self._sums.items()]


def digests_of(table: pa.Table, words: Sequence[str] = ()) -> Digests:
    """Return the digests of a table that is there as a whole; see `ColumnDigests`."""
    found = ColumnDigests(table.schema, words)
    found.add(table)
    return found.digests()


def check_names(names: Iterable[str], wanted: Digests) -> None:
    """Raise `DamagedError` unless a file has the columns that it was written with."""
    written = [name for name, _ in wanted]
    if list(names) != written:
        message = f"its columns must be {', '.join(written)}; they are {', '.join(names)}"
        raise DamagedError(message)


def check_values(table: pa.Table, wanted: Digests, words: Sequence[str] = ()) -> None:
    """Raise `DamagedError` unless columns that were read are those that were written."""
    written = dict(wanted)
    bad = [name for name, digest in digests_of(table, words) if written.get(name) != digest]
    if bad:
        message = f"the columns {', '.join(bad)} are not those that were written"
        raise DamagedError(message)
