"""Tables of a page: cells as people write them, values to sort by, the same numbers as a file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from rlhf_theory.errors import check_choice
from rlhf_theory.report.words import interval, pretty

Tags = Mapping[str, str | Sequence[str]]
"""What something is about, such as ``{"world": "easy", "learner": ["A", "B"]}``."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes
    ----------
    columns
        Heads of the columns.
    rows
        Cells, one per column; numbers are written as people write them, pairs of numbers as an
        interval, NaN and None as a dash.
    caption
        Says what the numbers are: units, estimators, which interval.
    sortable
        Whether a click on a head sorts the rows.
    tags
        What each row is about, for the filters of the page; empty, or one per row.

    Raises
    ------
    ValueError
        If a row has not one cell per column, or there are tags but not one per row.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    sortable: bool = False
    tags: Sequence[Tags] = ()

    def __post_init__(self) -> None:
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            message = f"Rows must have {len(self.columns)} cells, one per column; got {wrong[0]}."
            raise ValueError(message)
        if self.tags and len(self.tags) != len(self.rows):
            message = f"Tags must be one per row, {len(self.rows)}; got {len(self.tags)}."
            raise ValueError(message)

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, or intervals, only."""
        return [
            all(row[k] is None or _is_number(row[k]) or _is_interval(row[k]) for row in self.rows)
            for k in range(len(self.columns))
        ]

    @property
    def cells(self) -> list[list[str]]:
        """The cells as they are written."""
        return [[_cell(value) for value in row] for row in self.rows]

    @property
    def keys(self) -> list[list[str]]:
        """What the cells sort by: plain decimal numbers; empty where there is none."""
        return [[_key(value) for value in row] for row in self.rows]

    def to_csv(self) -> str:
        """Return the table as a file, with all digits; an interval becomes two columns."""
        pairs = [any(_is_interval(row[k]) for row in self.rows) for k in range(len(self.columns))]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        head: list[str] = []
        for name, pair in zip(self.columns, pairs, strict=True):
            head += [f"{name}, lower", f"{name}, upper"] if pair else [name]
        writer.writerow(head)
        for row in self.rows:
            out: list[object] = []
            for value, pair in zip(row, pairs, strict=True):
                out += (value if _is_interval(value) else ("", "")) if pair else (_blank(value),)
            writer.writerow(out)
        return stream.getvalue()


def table_of(
    frame: pd.DataFrame,
    columns: Mapping[str, str | tuple[str, str]],
    *,
    tags: Mapping[str, str | Sequence[str]] | None = None,
    caption: str = "",
) -> Table:
    """Return a sortable table of a data frame, one row per row.

    Parameters
    ----------
    frame
        The numbers.
    columns
        Head to column, or to the two columns of an interval, such as
        ``{"Mean": "mean", "95 % interval": ("lower", "upper")}``.
    tags
        Kind of tag to the column, or columns, with its values:
        ``{"world": "world", "learner": ["first", "second"]}``.
    caption
        Says what the numbers are.

    Raises
    ------
    ValueError
        If the frame lacks a column.
    """
    wanted = [name for source in (columns, tags or {}) for name in source.values()]
    for name in [part for n in wanted for part in ([n] if isinstance(n, str) else n)]:
        check_choice("column", name, [str(c) for c in frame.columns])
    records = [
        {str(name): _python_value(value) for name, value in record.items()}
        for record in frame.to_dict(orient="records")
    ]
    return Table(
        columns=list(columns),
        rows=[
            [r[c] if isinstance(c, str) else (r[c[0]], r[c[1]]) for c in columns.values()]
            for r in records
        ],
        caption=caption,
        sortable=True,
        tags=[
            {
                kind: [str(r[n]) for n in ([names] if isinstance(names, str) else names)]
                for kind, names in (tags or {}).items()
            }
            for r in records
        ],
    )


def _python_value(value: Any) -> object:
    """Return a value of a data frame as plain Python; every kind of missing as None."""
    if value is None or (np.ndim(value) == 0 and pd.isna(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_interval(value: object) -> TypeGuard[tuple[float, float]]:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(end is None or _is_number(end) for end in value)
    )


def _missing(value: object) -> bool:
    if _is_interval(value):
        return any(_missing(end) for end in value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def _blank(value: object) -> object:
    return "" if _missing(value) else value


def _cell(value: object) -> str:
    if _missing(value):
        return "–"
    return interval(value) if _is_interval(value) else pretty(value)


def _key(value: object) -> str:
    if _missing(value):
        return ""
    first: object = value[0] if _is_interval(value) else value
    if isinstance(first, float) and math.isinf(first):
        # As JavaScript reads it.
        return "Infinity" if first > 0 else "-Infinity"
    return repr(first) if _is_number(first) else str(first)
