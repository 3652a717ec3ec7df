"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsFloat

if TYPE_CHECKING:
    import pandas as pd


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text; the first one is the head."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def frame_text(frame: pd.DataFrame) -> str:
    """Return a table with numbers of four digits as aligned text."""
    rows = [[str(name) for name in frame.columns]]
    rows += [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return aligned(rows)


def _cell(value: object) -> str:
    if isinstance(value, bool | str | int) or not isinstance(value, SupportsFloat):
        return str(value)
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return str(value)
