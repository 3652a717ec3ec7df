"""Files of rows, JSONL or Parquet: read with the numbers of their rows, and checked row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from llm_bridge.storage.jsonl import problems_with, read_jsonl

_Made = TypeVar("_Made")
Row = Mapping[str, object]


def numbered_rows(path: Path) -> tuple[list[tuple[int, dict[str, object]]], list[str]]:
    """Return rows with their numbers, counted from 1, and what is wrong with others."""
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        return [], [f"it is no Parquet file, or damaged ({error})"]
    return list(enumerate(rows, start=1)), []


def each_made(
    path: Path,
    found: tuple[Sequence[tuple[int, Row]], Sequence[str]],
    make: Callable[[Row], _Made],
    *,
    word: str | None = None,
) -> list[_Made]:
    """Return what ``make`` makes of every row that `numbered_rows` has found in a file.

    ``ValueError`` for rows that cannot be used, those that ``make`` refuses with one included: all
    of them, by number. ``word`` is what a row is called then; by default a line of a JSONL file.
    """
    word = word or ("line" if path.suffix == ".jsonl" else "row")
    rows, wrong = found[0], list(found[1])
    made: list[_Made] = []
    for number, row in rows:
        try:
            made.append(make(row))
        except ValueError as error:
            wrong.append(f"{word} {number}: {error}")
    if wrong:
        raise ValueError(problems_with(path, wrong, "Nothing was read. Correct the file."))
    return made
