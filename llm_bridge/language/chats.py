"""What people give to a language model to read: rows with texts or chats, checked in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

_SHOWN = 80


class Message(BaseModel):
    """One message of a chat; further keys are left to chat templates that read them.

    Attributes
    ----------
    role
        Who speaks: ``"user"``, ``"assistant"``, or what else a template knows.
    content
        What is said.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    role: str
    content: str


_CHAT = TypeAdapter(Annotated[list[Message], Field(min_length=1)])


def chat_of(name: str, value: object) -> list[Message]:
    """Return the messages of a chat; ``ValueError`` says which of them is none.

    Parameters
    ----------
    name
        What to call the value in the error.
    value
        A sequence of mappings with ``role`` and ``content``.
    """
    given = value
    if isinstance(value, Sequence) and not isinstance(value, str):
        given = [dict(m) if isinstance(m, Mapping) else m for m in value]
    try:
        return _CHAT.validate_python(given)
    except ValidationError as error:
        place = error.errors()[0]["loc"]
    wanted = f"{name} must be text, or messages"
    if place:
        i = int(place[0])
        rows: Sequence[object] = value if isinstance(value, Sequence) else ()
        wrong = f"each must have role and content, both text; message {i} is {_shown(rows[i])}"
        message = f"{wanted}: {wrong}"
    elif isinstance(given, list):
        message = f"{wanted}, at least one message; got an empty list"
    else:
        message = f"{wanted} {{'role': ..., 'content': ...}}; got {_shown(value)}"
    raise ValueError(message)


def _spoken(value: object, info: ValidationInfo) -> str | list[Message]:
    if not isinstance(value, str):
        return chat_of(str(info.field_name), value)
    if not value:
        message = f"{info.field_name} is empty"
        raise ValueError(message)
    return value


Spoken = Annotated[str | list[Message], BeforeValidator(_spoken)]
"""Text that is not empty, or the messages of a chat."""


class Row(BaseModel):
    """A row with a prompt. Columns that it does not know are left out.

    The description of a column says what it must be, in the words of the error.

    Attributes
    ----------
    prompt
        Text, or the messages of a chat.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    prompt: Spoken

    @classmethod
    def read(cls, row: Mapping[str, object]) -> Self:
        """Return a row whose columns are what they must be; ``ValueError`` says what is wrong.

        A column without a value is one that is missing: tables fill them so.
        """
        try:
            return cls.model_validate({k: v for k, v in row.items() if v is not None})
        except ValidationError as error:
            wrong = [cls._said(e) for e in error.errors()]
        raise ValueError(", ".join(dict.fromkeys(wrong)))

    @classmethod
    def _said(cls, error: Mapping[str, Any]) -> str:
        """Return one complaint of pydantic in our words."""
        if error["type"] == "value_error":
            return str(error["ctx"]["error"])
        name, *inside = error["loc"]
        if error["type"] == "missing" and not inside:
            return f"{name} is missing"
        expected = {f.alias or n: f.description for n, f in cls.model_fields.items()}[name]
        return f"{name} {expected}" + ("" if inside else f"; got {_shown(error['input'])}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
