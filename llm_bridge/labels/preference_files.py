"""Preference data in files that TRL reads too: JSONL and Parquet.

Rows have ``prompt``, ``chosen`` and ``rejected``, as texts or as messages; the prompt may be left
out where it is the common beginning of both. Rankings have ``prompt``, ``completions`` and
``ranking``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_bridge.labels.preference_data import Preferences
from llm_bridge.labels.preference_rows import (
    FORMAT,
    PREFIX,
    PreferencePair,
    PreferenceRanking,
    pair_of,
    ranking_of,
    row_of,
)
from llm_bridge.storage.jsonl import jsonl_line
from llm_bridge.storage.rows import each_made, numbered_rows
from rlhf_theory.errors import suggestion
from rlhf_theory.store import write_atomic

__all__ = [
    "PreferencePair",
    "PreferenceRanking",
    "Preferences",
    "read_preferences",
    "rows_of",
    "write_preferences",
]

_COLUMNS = ("prompt", "chosen", "rejected", "margin", "completions", "ranking")
_SUFFIXES = (".jsonl", ".parquet")


def read_preferences(path: str | Path) -> Preferences:
    """Read a file of preferences.

    Parameters
    ----------
    path
        A ``.jsonl`` or ``.parquet`` file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        For columns that are missing, and rows that cannot be used: all of them, by number.
    """
    path = Path(path)
    rows, wrong = rows_of(path)
    columns = {name for _, row in rows for name in row}
    ranked = "completions" in columns or "ranking" in columns
    needed = ("prompt", "completions", "ranking") if ranked else ("chosen", "rejected")
    if rows and not set(needed) <= columns:
        raise ValueError(_missing(path, columns, needed))
    items: list[Any] = []
    identical: list[Any] = []
    n_lost = 0
    make: Callable[[Mapping[str, object]], Any] = ranking_of if ranked else pair_of
    for (_, row), item in zip(rows, each_made(path, (rows, wrong), make), strict=True):
        if not item.is_identical:
            items.append(item)
        elif row.get("prompt") is None and isinstance(item.prompt, str):
            n_lost += 1  # equal texts have no end of a common beginning
        else:
            identical.append(item)
    return Preferences(tuple(items), tuple(identical), n_lost=n_lost)


def _check_suffix(path: Path) -> None:
    if path.suffix not in _SUFFIXES:
        message = f"A file of preferences must end in .jsonl or .parquet; got {path}."
        raise ValueError(message)


def rows_of(path: Path) -> tuple[list[tuple[int, dict[str, object]]], list[str]]:
    """Return the rows of a file with their numbers, from 1, and what is wrong with others.

    ``FileNotFoundError`` where there is none; ``ValueError`` for one of another kind, or empty.
    """
    _check_suffix(path)
    if not path.is_file():
        message = f"There is no file {path}."
        raise FileNotFoundError(message)
    rows, wrong = numbered_rows(path)
    if not rows and not wrong:
        message = f"{path} has no rows."
        raise ValueError(message)
    return rows, wrong


def _missing(path: Path, columns: Iterable[str], needed: Sequence[str]) -> str:
    names = sorted(c for c in columns if not c.startswith(PREFIX))
    message = f"{path} must have the columns {', '.join(needed)}; it has {', '.join(names)}."
    if "completion" in names and "label" in names:
        return message + (
            " Single completions with a label are no comparisons; only the loss kto learns from "
            "them."
        )
    for name in needed:
        hint = suggestion(name, [c for c in names if c not in _COLUMNS])
        if name not in names and hint:
            message += hint.replace("Did you mean", "Rename").replace("?", f" to {name!r}.")
    return message


def write_preferences(
    path: str | Path,
    preferences: Preferences | Iterable[PreferencePair | PreferenceRanking],
    *,
    replace: bool = False,
) -> None:
    """Write preferences, atomically; TRL reads the file as it is.

    Parameters
    ----------
    path
        A ``.jsonl`` or ``.parquet`` file.
    preferences
        Pairs or rankings, not both; all prompts texts or all messages; margins for all or none.
        Those of equal responses come last.
    replace
        Whether a file that this function wrote before may be replaced. Other files never are.

    Raises
    ------
    FileExistsError
        If the file exists and may not be replaced. It is unchanged then.
    ValueError
        If there is nothing to write, or the rows have not one form.
    """
    path = Path(path)
    _check_suffix(path)
    if isinstance(preferences, Preferences):
        preferences = [*preferences.items, *preferences.identical]
    items = list(preferences)
    _check_form(items)
    rows = [row_of(item) for item in items]
    _check_rows(rows)
    if path.exists():
        _check_replaceable(path, replace)
    if path.suffix == ".jsonl":
        content = "".join(f"{jsonl_line(row)}\n" for row in rows).encode()
    else:
        # The first row does not tell all columns.
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        content = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def _check_form(items: Sequence[PreferencePair | PreferenceRanking]) -> None:
    if not items:
        message = "There are no preferences to write."
        raise ValueError(message)
    forms = {
        "pairs or rankings, not both": {isinstance(i, PreferenceRanking) for i in items},
        "prompts all as texts or all as messages": {isinstance(i.prompt, str) for i in items},
        "margins for all pairs or for none": {getattr(i, "margin", None) is None for i in items},
    }
    for wanted, found in forms.items():
        if len(found) > 1:
            message = f"A file of preferences must have {wanted}; these are mixed."
            raise ValueError(message)


def _check_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """Raise ``ValueError`` for rows that could not be read back."""
    for number, row in enumerate(rows, start=1):
        try:
            ranking_of(row) if "completions" in row else pair_of(row)
        except ValueError as error:
            message = f"Item {number} cannot be written: {error}."
            raise ValueError(message) from error


def _check_replaceable(path: Path, replace: bool) -> None:
    """Raise ``FileExistsError`` unless the file is ours and may be replaced."""
    rows, wrong = numbered_rows(path) if path.is_file() else ([], ["no file"])
    ours = bool(rows) and not wrong and all(FORMAT in row for _, row in rows)
    if not ours:
        message = (
            f"{path} exists and was not written by this program; nothing was changed. Choose "
            "another name."
        )
        raise FileExistsError(message)
    if not replace:
        message = f"{path} exists; nothing was changed. Pass replace=True, or choose another name."
        raise FileExistsError(message)
