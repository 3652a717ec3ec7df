"""What is wrong with a study: one line per mistake, all of them at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_theory.errors import suggestion

Path = tuple[str | int, ...]
"""Where in a study: names of keys and numbers of entries, from the outside in."""


@dataclass(frozen=True)
class Mistake:
    """One thing to change.

    Attributes
    ----------
    place
        Where, as the user wrote it, such as ``learner[1].radius.multiplier``; "" for the whole.
    text
        What is allowed, what came, and what was perhaps meant.
    """

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text


class StudyError(ValueError):
    """A study that cannot run as it stands; its text has one line per mistake.

    Attributes
    ----------
    mistakes
        All mistakes that were found, in the order of the study.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        # A mistake outside a grid shows up in every entry that the grid makes: say it once.
        self.mistakes: tuple[Mistake, ...] = tuple(dict.fromkeys(mistakes))
        super().__init__(self.mistakes)

    def __str__(self) -> str:
        return "\n".join(map(str, self.mistakes))


def place_of(path: Sequence[str | int]) -> str:
    """Return a path as text.

    Examples
    --------
    >>> place_of(("world", 1, "dim", "grid", 0))
    'world[1].dim.grid[0]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """Return a value as a study file has it, shortened: ``true``, ``"text"``, ``{ n = 1 }``."""
    if isinstance(value, Mapping):
        text = "{ " + ", ".join(f"{k} = {shown(v)}" for k, v in value.items()) + " }"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(shown, value)) + "]"
    elif value is None or isinstance(value, bool | int | str):
        text = json.dumps(value, ensure_ascii=False) if value is not None else "none"
    else:
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def choices(words: Iterable[str]) -> str:
    """Return words as a list for people; "none" where there are none."""
    return ", ".join(map(repr, words)) or "none"


def an(word: str) -> str:
    """Return a word with its article.

    Examples
    --------
    >>> an("enhancer"), an("planner")
    ('an enhancer', 'a planner')
    """
    return f"an {word}" if word[:1].lower() in tuple("aeiou") else f"a {word}"


def not_here(word: str, known: Sequence[str]) -> str:
    """Return that a word is none of those that exist, and which was perhaps meant."""
    return f"{shown(word)} is not here; known are {choices(known)}.{suggestion(word, known)}"


NAME_RULE = "must have letters, digits, '-', '_' and '.' only, and begin with a letter or a digit"
"""What the name of a study may be; it is the one text of a study with a pattern."""

_EXPECTED = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "finite_number": "must be finite",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "mapping_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "none_required": "must be none",
    "string_pattern_mismatch": NAME_RULE,
}
_LIMITS = {
    "greater_than_equal": ("ge", "must be at least {}"),
    "greater_than": ("gt", "must be more than {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "less_than": ("lt", "must be less than {}"),
    "too_short": ("min_length", "must have at least {} entries"),
    "too_long": ("max_length", "must have at most {} entries"),
    "string_too_short": ("min_length", "must have at least {} characters"),
}


def mistakes_of(
    errors: Iterable[Mapping[str, Any]], root: Path, allowed: Iterable[str]
) -> list[Mistake]:
    """Return pydantic's complaints about one table as mistakes.

    Parameters
    ----------
    errors
        From ``ValidationError.errors()``.
    root
        Where the table is.
    allowed
        The keys that the table may have, to suggest one for a misspelt key.
    """
    known = list(allowed)
    return [Mistake(place_of((*root, *e["loc"])), _text(e, known)) for e in errors]


def _text(error: Mapping[str, Any], known: Sequence[str]) -> str:
    kind, context, got = error["type"], error.get("ctx", {}), error.get("input")
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        return f"unknown key; allowed are {choices(known)}.{suggestion(name, known)}"
    if kind == "missing":
        return "is missing."
    if kind == "literal_error":
        word = suggestion(got, _words(context["expected"])) if isinstance(got, str) else ""
        return f"must be {context['expected']}; got {shown(got)}.{word}"
    if kind in _LIMITS:
        name, text = _LIMITS[kind]
        return f"{text.format(context[name])}; got {shown(got)}."
    if kind in {"value_error", "assertion_error"}:
        return str(context.get("error", error["msg"]))
    expected = _EXPECTED.get(kind)
    if expected is None:
        message = str(error["msg"])
        expected = message[0].lower() + message[1:]
    return f"{expected}; got {shown(got)}."


def _words(expected: str) -> list[str]:
    """Return the words in pydantic's list of literals, ``'a', 'b' or 'c'``."""
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]
