"""What pydantic finds in the tables of a study, in words and at the places of the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from rlhf_theory.studies.entries import find
from rlhf_theory.studies.former import file_of_format_1
from rlhf_theory.studies.messages import Mistake, mistakes_of
from rlhf_theory.studies.parts import Quick, Record, RunOptions, Table
from rlhf_theory.studies.plot_specs import PlotSpec
from rlhf_theory.studies.signatures import ENVELOPE, settings_of

_TABLES: dict[str, type[Table]] = {
    "record": Record,
    "run": RunOptions,
    "quick": Quick,
    "plot": PlotSpec,
}
_LARGEST = "cannot be a grid: give the largest; results at smaller numbers are in it."
_LIST = "cannot be a grid: give a list of increasing numbers; there is one point for each."


def complaints(
    error: ValidationError,
    given: Mapping[str, object],
    names: Mapping[str, str],
    keys: Sequence[str],
) -> list[Mistake]:
    """Return the mistakes that pydantic found, with the keys that the user wrote.

    Parameters
    ----------
    error
        What it raised.
    given
        The study as plain data, under ``worlds`` and ``learners``.
    names
        How the study calls its lists of entries.
    keys
        The keys that a study may have at the top.
    """
    found = []
    allowed = {name: list(table.model_fields) for name, table in _TABLES.items()}
    for complaint in error.errors():
        first, *rest = complaint["loc"]
        table = {"plots": "plot", "run_options": "run"}.get(str(first), str(first))
        here = {**complaint, "loc": (names.get(table, table), *rest)}
        several = isinstance(complaint["input"], Mapping | list)
        if first in ("rounds", "replicas") and several:
            here |= {"type": "value_error", "ctx": {"error": _LARGEST}}
        if first == "pairs" and isinstance(complaint["input"], Mapping):
            here |= {"type": "value_error", "ctx": {"error": _LIST}}
        if first == "format" and complaint["input"] == 1:
            here |= {"type": "value_error", "ctx": {"error": file_of_format_1()}}
        deeper = next(_deeper(str(first), given, names), "") if not rest else ""
        if complaint["type"] == "extra_forbidden" and deeper:
            text = f"unknown key; allowed are {', '.join(map(repr, keys))}."
            found.append(Mistake(str(first), f"{text} Did you mean {deeper}?"))
            continue
        found += mistakes_of([here], (), allowed[table] if rest and table in allowed else keys)
    return found


def _deeper(name: str, given: Mapping[str, object], names: Mapping[str, str]) -> Iterator[str]:
    """Yield the places inside of tables and entries that have a key of this name."""
    for role in ("learner", "world"):
        entries = given.get(f"{role}s", ())
        for entry in entries if isinstance(entries, list | tuple) else ():
            if name in ENVELOPE[role] or name in _settings(role, entry):
                yield f"{names[role]}.{name}"
    for table in ("record", "run"):
        if name in _TABLES[table].model_fields:
            yield f"{table}.{name}"


def _settings(role: str, entry: Any) -> Mapping[str, object]:
    try:
        return settings_of(find(role, entry["kind"]))
    except (ValueError, TypeError, KeyError):  # what is wrong with the entry is said elsewhere
        return {}


def order(given: Mapping[str, object], names: Mapping[str, str]) -> Callable[[Mistake], int]:
    """Return a key that sorts mistakes as the study has them."""
    keys = [names.get(k.removesuffix("s"), k) for k in given]

    def key(mistake: Mistake) -> int:
        first = mistake.place.partition(".")[0].partition("[")[0]
        return keys.index(first) if first in keys else -1

    return key
