"""Many blocks as one table: read from their files, or from the one file that holds them all."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_theory.engine.seals import META, ColumnDigests, check_names, check_values
from rlhf_theory.store import DamagedError, DamageWarning, replaced, seal, unseal
from rlhf_theory.studies.cells import Cell
from rlhf_theory.studies.ledger import in_threads
from rlhf_theory.studies.places import PLACES
from rlhf_theory.studies.tables import read_block

NAME = "curves.parquet"
_FORMAT = 3
_PLACE = ("cell", "replica", *PLACES)
_FIRST = ("labels", "regret")
_ROWS = 1_000_000
"""About how many rows are in memory at once while the file of all blocks is written."""


@dataclass(frozen=True)
class Contents:
    """The blocks of one cell, in order of replicas: name, and what changes with the content."""

    cell: Cell
    blocks: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> str:
        """Text that changes when a block is added, replaced by another one, or cut."""
        said = json.dumps([self.blocks, self.cell.rounds])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def read(folder: Path, contents: Sequence[Contents], columns: Sequence[str] | None) -> pd.DataFrame:
    """Return the table of some cells; see `StudyFolder.read`."""
    parts: list[pa.Table] = []
    try:
        keys = _kept(folder, contents)
        if keys:
            parts = [_from_one(folder / NAME, keys, columns)]
    except (OSError, MemoryError):
        keys = set()
    except DamagedError as error:
        keys = set()
        _drop(folder)
        message = f"{error} The blocks are read instead; the next run makes it anew."
        warnings.warn(message, DamageWarning, stacklevel=5)
    rest = [c for c in contents if c.blocks and c.cell.key not in keys]
    parts += list(_from_blocks(folder, rest, columns))
    table = pa.concat_tables(parts, promote_options="default") if parts else _empty()
    absent = [n for n in columns or () if n not in (*_FIRST, *table.column_names)]
    if absent and parts:
        known = ", ".join(n for n in _schema(folder, contents).names if n not in _PLACE)
        message = f"columns must be among those recorded ({known}); got {', '.join(absent)}."
        raise ValueError(message)
    return _frame(table, [c.cell.key for c in contents], columns)


def _empty() -> pa.Table:
    text = pa.dictionary(pa.int32(), pa.string())
    types = [("cell", text), ("replica", pa.int32()), *((name, pa.int64()) for name in PLACES)]
    return pa.schema(types).empty_table()


def _frame(table: pa.Table, keys: list[str], columns: Sequence[str] | None) -> pd.DataFrame:
    wanted = _FIRST if columns is None else tuple(columns)
    missing = [name for name in (*PLACES, *wanted) if name not in table.column_names]
    # Dictionaries of many parts are joined here; in pandas each part would be converted.
    frame = table.unify_dictionaries().to_pandas()
    for name in missing:
        frame[name] = np.full(len(frame), np.nan)
    frame["cell"] = frame["cell"].cat.set_categories(keys)
    rest = [n for n in frame.columns if n not in (*_PLACE, *_FIRST)]
    frame = pd.DataFrame(frame[[*_PLACE, *wanted, *(rest if columns is None else ())]])
    codes = frame["cell"].cat.codes.to_numpy()
    if np.any(np.diff(codes) < 0):
        frame = frame.iloc[np.argsort(codes, kind="stable")].reset_index(drop=True)
    return frame


# ----------------------------------------------------------------------------- from the blocks


def _from_blocks(
    folder: Path, contents: Sequence[Contents], columns: Sequence[str] | None
) -> Iterator[pa.Table]:
    """Yield the tables of the blocks, in order."""
    wanted = None if columns is None else ["replica", *PLACES, *columns]
    jobs = [(c.cell, name) for c in contents for name, _ in c.blocks]

    def load(job: tuple[Cell, str]) -> pa.Table:
        cell, name = job
        table, about = read_block(folder / "cells" / f"{name}.parquet", cell, wanted)
        if cell.rounds is not None and about.rounds is not None and about.rounds > cell.rounds:
            table = table.filter(pa.compute.field("round") <= cell.rounds)
        return _placed(table, cell.key)

    yield from in_threads(load, jobs)


def _placed(table: pa.Table, key: str) -> pa.Table:
    """Return the table of a block with ``cell`` in front."""
    cell = pa.DictionaryArray.from_arrays(np.zeros(table.num_rows, dtype=np.int32), [key])
    return pa.table({"cell": cell} | {name: table[name] for name in table.column_names})


# ----------------------------------------------------------------------------- from one file


def _kept(folder: Path, contents: Sequence[Contents]) -> set[str]:
    """Return the keys of the cells whose blocks the file of all blocks has, as they are now."""
    path = folder / NAME
    if not path.exists():
        return set()
    with _opened(path) as (_, says):
        together = says["cells"]
    return {c.cell.key for c in contents if c.blocks and together.get(c.cell.key) == c.digest}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pq.ParquetFile, dict[str, Any]]]:
    """Open the file of all blocks; give what it says of itself. `DamagedError` if that is wrong."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            says = unseal(json.loads((file.metadata.metadata or {})[META]))
            check_names(file.schema_arrow.names, says["columns"])
            yield file, says
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        message = f"{path} must hold the blocks of a study; it cannot be read ({error})."
        raise DamagedError(message) from error


def _from_one(path: Path, keys: set[str], columns: Sequence[str] | None) -> pa.Table:
    table, held = _checked(path, columns)
    if len(keys) < held:
        table = table.filter(pa.compute.field("cell").isin(sorted(keys)))
    return table.replace_schema_metadata(None)


def _checked(path: Path, columns: Sequence[str] | None) -> tuple[pa.Table, int]:
    """Return the columns of the file of all blocks, checked, and the number of its cells."""
    with _opened(path) as (file, says):
        names = file.schema_arrow.names
        wanted = names if columns is None else [n for n in names if n in (*_PLACE, *columns)]
        table = file.read(columns=wanted)
        check_values(table, says["columns"], sorted(says["cells"]))
        return table, len(says["cells"])


def verify(folder: Path, *, drop: bool) -> list[str]:
    """Read the file of all blocks, where there is one; return what is wrong with it, if anything.

    Parameters
    ----------
    folder
        Folder of the study.
    drop
        Remove a damaged one; it is made of the blocks.
    """
    path = folder / NAME
    try:
        if path.exists():
            _checked(path, None)
    except DamagedError as error:
        if drop:
            _drop(folder)
        return [str(error)]
    return []


def _drop(folder: Path) -> None:
    with suppress(OSError):
        (folder / NAME).unlink()


def compact(folder: Path, contents: Sequence[Contents]) -> Path:
    """Write the table of some cells into one file; see `StudyFolder.compact`."""
    path = folder / NAME
    contents = [c for c in contents if c.blocks]
    with suppress(DamagedError):
        if len(_kept(folder, contents)) == len(contents):
            return path
    schema = _schema(folder, contents)
    sums = ColumnDigests(schema, sorted(c.cell.key for c in contents))
    with (
        # Too large to be made in memory first.
        replaced(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            use_dictionary=list(_PLACE),
            write_page_checksum=True,
        ) as writer,
    ):
        for part in _chunks(folder, contents, schema):
            writer.write_table(part)
            sums.add(part)
        about = {"format": _FORMAT, "cells": {c.cell.key: c.digest for c in contents}}
        says = json.dumps(seal({**about, "columns": sums.digests()}))
        writer.add_key_value_metadata({META.decode(): says})
    return path


def _schema(folder: Path, contents: Sequence[Contents]) -> pa.Schema:
    """Return the columns of all cells.

    Blocks of one cell have the same, if they have the same rounds and primary metric.
    """
    firsts = [Contents(c.cell, _kinds(c.blocks)) for c in contents]
    found = [table.schema for table in _from_blocks(folder, firsts, None)]
    schema = pa.unify_schemas([_empty().schema, *found])
    names = [n for n in schema.names if n not in (*_PLACE, *_FIRST)]
    first = [n for n in _FIRST if n in schema.names]
    return pa.schema([schema.field(n) for n in (*_PLACE, *first, *names)])


def _kinds(blocks: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return one block of each kind of content; a digest, which comes first, makes no kind."""
    return tuple({mark.partition(" ")[2]: (name, mark) for name, mark in blocks}.values())


def _chunks(folder: Path, contents: Sequence[Contents], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield tables of about a million rows with one schema."""
    parts: list[pa.Table] = []
    rows = 0
    for table in _from_blocks(folder, contents, None):
        absent = [f for f in schema if f.name not in table.column_names]
        columns = dict(zip(table.column_names, table.columns, strict=True))
        columns |= {f.name: pa.nulls(table.num_rows, f.type) for f in absent}
        parts.append(pa.table({name: columns[name] for name in schema.names}))
        rows += table.num_rows
        if rows >= _ROWS:
            yield pa.concat_tables(parts).unify_dictionaries()
            parts, rows = [], 0
    if parts:
        yield pa.concat_tables(parts).unify_dictionaries()
