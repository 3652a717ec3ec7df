"""Responses that are called good or bad one by one, in files that TRL reads too.

Rows have ``prompt``, ``completion`` and ``label`` (true or false), as texts or as messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from llm_bridge.labels.preference_files import rows_of
from llm_bridge.labels.preference_rows import Weight, answer_of, plain_prompt
from llm_bridge.language.chats import Row
from llm_bridge.language.models import Text
from llm_bridge.storage.rows import each_made

_COLUMNS = frozenset({"prompt", "completion", "label"})


@dataclass(frozen=True)
class LabelledResponse:
    """A response to a prompt, and whether it is desirable.

    Attributes
    ----------
    prompt
        Text, or the messages of a chat.
    completion
        Text of the response; of a chat, what the assistant says.
    label
        Whether it is desirable.
    weight
        How often it counts.
    """

    prompt: Text
    completion: str
    label: bool
    weight: float = 1.0


class _LabelledRow(Row):
    """The columns of a labelled response."""

    completion: Any
    label: bool = Field(None, validate_default=True, description="must be true or false")
    weight: Weight = 1.0

    def item(self) -> LabelledResponse:
        """Return the response; ``ValueError`` for one that is none to its prompt."""
        text = answer_of("completion", self.completion, self.prompt)
        return LabelledResponse(plain_prompt(self.prompt), text, self.label, self.weight)


def are_labelled_responses(path: str | Path) -> bool:
    """Return whether a file has their columns, and not those of comparisons.

    Raises as `read_labelled_responses` for a file that is missing or of another kind.
    """
    rows, _ = rows_of(Path(path))
    columns = {name for _, row in rows for name in row}
    return columns >= _COLUMNS and not {"chosen", "rejected"} & columns


def read_labelled_responses(path: str | Path) -> tuple[LabelledResponse, ...]:
    """Read labelled responses.

    Parameters
    ----------
    path
        A ``.jsonl`` or ``.parquet`` file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        For rows that cannot be used: all of them, by number.
    """
    path = Path(path)
    return tuple(each_made(path, rows_of(path), lambda row: _LabelledRow.read(row).item()))
