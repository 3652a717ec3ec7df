"""Files of one JSON object per line: read with line numbers, written in one step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from rlhf_theory.store import write_atomic

_SHOWN = 10


def jsonl_line(row: Mapping[str, object]) -> str:
    """Return an object as one line, without its end; ``ValueError`` for NaN."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can write
        return json.dumps(row, allow_nan=False)
    return text


def read_jsonl(path: Path) -> tuple[list[tuple[int, dict[str, object]]], list[str]]:
    """Return the objects of a file with their line numbers, and what is wrong with other lines.

    Blank lines are skipped. A file that is missing has no lines.
    """
    if not path.is_file():
        return [], []
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return [], [f"it is not UTF-8 text ({error.reason} at byte {error.start})"]
    rows: list[tuple[int, dict[str, object]]] = []
    wrong: list[str] = []
    # Not splitlines: a text may hold other characters that count as ends of lines there.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            wrong.append(f"line {number} is no JSON, or half-written ({error})")
            continue
        if isinstance(value, dict):
            rows.append((number, value))
        else:
            wrong.append(f"line {number} must be a JSON object; it is a {type(value).__name__}")
    return rows, wrong


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one object per line, atomically."""
    write_atomic(path, "".join(f"{jsonl_line(row)}\n" for row in rows).encode())


def problems_with(path: Path, wrong: list[str], advice: str) -> str:
    """Return a message that lists what is wrong with a file, at most ten things."""
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return f"{path} cannot be used: {'; '.join(wrong[:_SHOWN])}{more}. {advice}"
