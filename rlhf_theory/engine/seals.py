"""Tables that are what was written: digests of columns, in the Parquet file of a task.

Whoever reads a few columns can check just these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rlhf_theory.store import DamagedError, Json, seal, unseal

META = b"rlhf_theory"
"""Key of what a file says about itself, in its metadata."""

Digests = list[list[str]]
"""Name and digest of every column, in their order; lists, as JSON gives them back."""


class ColumnDigests:
    """Digests over name, type and values of every column, however the rows come in parts.

    Parameters
    ----------
    schema
        Names and types: numbers, truth values, texts, texts in dictionaries.
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

    def _values(self, chunk: pa.Array) -> memoryview | bytes:
        """Return the values; one that is missing counts as NaN or -1, which no other one is."""
        if pa.types.is_null(chunk.type):
            return bytes(len(chunk))
        if pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
            # Quoted, so that it does not matter where one part of the rows ends.
            return "".join(map(json.dumps, chunk.to_pylist())).encode()
        if pa.types.is_dictionary(chunk.type):
            # Which number a text has in the dictionary depends on the cut into parts.
            missing = chunk.null_count
            chunk = pc.index_in(chunk.cast(pa.string()), self._words)
            if chunk.null_count > missing:
                message = "words must have every text of a dictionary; some texts are not there."
                raise ValueError(message)
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


# ----------------------------------------------------------------------------- files


def describe(table: pa.Table, about: Mapping[str, object]) -> pa.Table:
    """Return a table that says what it is, and what its columns were when they were written."""
    own = {name: value for name, value in about.items() if name != "digest"}
    says = seal({**own, "columns": digests_of(table)})
    content = json.dumps(says, sort_keys=True).encode()
    # Nothing else: what libraries say there of types, no digest would hold.
    return table.replace_schema_metadata({META: content})


def says_of(table: pa.Table, check: Callable[[Json], object] | None = None) -> Json:
    """Return what a table says about itself; `DamagedError` if that is not what was written.

    ``check`` looks at it first: other formats have their own words.
    """
    says: Json = json.loads((table.schema.metadata or {}).get(META, b"{}"))
    if check is not None:
        check(says)
    unseal(says)
    return says


def encode(table: pa.Table, repeated: Sequence[str] = ()) -> bytes:
    """Return the bytes of the Parquet file, with a checksum on every page.

    Dictionaries pay for columns whose values are ``repeated``, and cost time for others.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=[name for name in repeated if name in table.column_names],
        write_page_checksum=True,  # keeps damage away from the decoders
        write_statistics=False,  # nobody asks for them
    )
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def read_table(
    path: Path,
    what: str,
    columns: Sequence[str] | None = None,
    check: Callable[[Json], object] | None = None,
) -> tuple[pa.Table, Json, list[str]]:
    """Read a file and check that it is what was written.

    Parameters
    ----------
    path
        The file.
    what
        What it must be, for messages.
    columns
        Which columns, of those that it has; None for all. The others are not read.
    check
        Raises ``ValueError`` if the file says that it is something else.

    Returns
    -------
    The table, what it says about itself, and the names of all its columns.

    Raises
    ------
    DamagedError
        If the file is none of ours, is cut off, or is not what was written.
    OSError
        If it cannot be opened or read.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            wanted = names if columns is None else [c for c in names if c in columns]
            # One thread: callers read many files at a time.
            table = file.read(columns=wanted, use_threads=False)
        says = says_of(table, check)
        check_names(names, says["columns"])
        check_values(table, says["columns"])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or its rights; what libraries say of contents has no number
        message = f"{path} must be {what}; it cannot be read ({error})."
        raise DamagedError(message) from error
    return table, says, names
