"""What Python hands to a study, as plain data: objects of learners and parts become specs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from rlhf_theory.core import World
from rlhf_theory.studies import registry
from rlhf_theory.studies.entries import kind_of, role_of
from rlhf_theory.studies.messages import Path
from rlhf_theory.studies.resolve import Say


def written(value: object, path: Path, say: Say, role: str | None = None) -> Any:
    """Return a value as a study file would have it; what cannot be written is a mistake.

    Parameters
    ----------
    value
        Plain data, NumPy's numbers, objects, classes and functions that workers can import; also
        inside of lists and tables.
    path
        Where it is.
    say
        Where mistakes go.
    role
        What it is for, if that is known.
    """
    try:
        if isinstance(value, World):
            message = (
                "a World cannot be written down; give the kind and the settings it was made with, "
                'such as {"kind": "linear", "dim": 8}.'
            )
            raise ValueError(message)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return registry.spec_of(value, role)
        if inspect.isclass(value) or inspect.isfunction(value):
            return kind_of(value, role or role_of(value))
        if isinstance(value, Mapping):
            return {
                str(k): written(v, (*path, str(k)), say, role if k == "kind" else None)
                for k, v in value.items()
            }
        if isinstance(value, list | tuple):
            return [written(v, (*path, i), say) for i, v in enumerate(value)]
        return registry.plain(value)
    except ValueError as error:
        say(path, str(error))
        return None


def entries_of(value: object, key: str, say: Say) -> list[object]:
    """Return worlds or learners as tables.

    Parameters
    ----------
    value
        A list of tables, names and objects; or a table from label to those; or one entry.
    key
        Its name in the study.
    say
        Where mistakes go.
    """
    role = key.removesuffix("s")
    if isinstance(value, Mapping):
        labelled = "kind" not in value and all(not isinstance(v, str | int) for v in value.values())
        entries = [_labelled(label, v) for label, v in value.items()] if labelled else [value]
    elif isinstance(value, list | tuple):
        entries = list(value)
    else:
        entries = [value]
    return [_entry(entry, role, (key, i), say) for i, entry in enumerate(entries)]


def _labelled(label: str, entry: object) -> object:
    return (
        {"label": label, **entry} if isinstance(entry, Mapping) else {"label": label, "kind": entry}
    )


def _entry(entry: object, role: str, path: Path, say: Say) -> object:
    if not isinstance(entry, Mapping):
        entry = {"kind": entry}
    made = written(entry, path, say, role)
    # `kind` may be an object, and then it brings settings with it.
    inner = made.get("kind") if isinstance(made, dict) else None
    if isinstance(inner, dict) and "grid" not in inner:
        made = {**inner, **{k: v for k, v in made.items() if k != "kind"}}
    return made
