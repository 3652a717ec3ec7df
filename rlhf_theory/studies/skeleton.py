"""Study files to start from, and the JSON schema by which editors complete and check them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rlhf_theory.register import Entry, found
from rlhf_theory.studies import registry
from rlhf_theory.studies.cells import MARKS
from rlhf_theory.studies.entries import find
from rlhf_theory.studies.fields import StudyFields
from rlhf_theory.studies.messages import NAME_RULE, Mistake, StudyError, shown
from rlhf_theory.studies.resolve import leaf_adapter, leaf_words
from rlhf_theory.studies.signatures import Setting, Slot, settings_of

_TEXT = """\
# A study: learners in worlds. Change what you like, then
#
#   rlhf-theory run {name}.toml --dry-run     # what would run, and how long it takes
#   rlhf-theory run {name}.toml               # runs, or goes on where it was stopped
#
# `rlhf-theory list worlds` and `rlhf-theory list learners` say what there is. Any setting can be
# a grid, such as dim = {{ grid = [4, 8] }}, which makes one entry per value.

format = 2
name = "{name}"
title = "What this study shows, in one line"
seed = 0               # of data and learners; comparisons are paired
replicas = 64          # can be raised later, what exists is kept
block = 64             # replicas that advance together; part of the results
rounds = 50            # of online learners; can be raised later
pairs = [100, 1000]    # of offline learners: nested data, one point per number

# What `--quick` changes.
[quick]
replicas = 8
block = 8
rounds = 10
pairs = [100]

[record]
# metrics = ["gap", "kl"]    # all, unless named
grid = "log"           # rounds that are kept: "log", "linear" or "all"
points = 20            # per decade

# ------------------------------------------------------------------------------------- worlds

{world}
# ------------------------------------------------------------------------------------- learners
# Learners of your own: kind = "module:attribute", or an entry point of a package.

{learners}
# ------------------------------------------------------------------------------------- figures

[[plot]]
kind = "suboptimality"

[[plot]]
kind = "pairs"

# How to run; results do not depend on it.
[run]
backend = "local"      # {backends}
# jobs = 2             # one per core, unless set
"""

_NAME = re.compile(r'^(\s*name\s*=\s*)("[^"]*"|\'[^\']*\')', re.MULTILINE)


def skeleton(name: str) -> str:
    """Return the text of a commented study file that runs as it is.

    Raises
    ------
    StudyError
        For a name that a study cannot have.
    """
    _check_name(name)
    world = _entry_text(
        "world", "linear", {"label": "easy", "contexts": 20, "actions": 10, "dim": 8, "eta": 0.1}
    )
    learners = [
        _entry_text("learner", "online-iterative", {"label": "optimistic", "batch_size": 32}),
        _entry_text("learner", "offline-greedy", {"label": "greedy"}),
    ]
    others = ", ".join(f'"{kind}"' for kind in found("backend") if kind != "local")
    text = {"world": world, "learners": "\n".join(learners), "backends": others}
    return _TEXT.format(name=name, **text)


def copied(text: str, name: str) -> str:
    """Return the text of a study file with another name; comments and order stay.

    Raises
    ------
    StudyError
        For a name that a study cannot have, and a text that has none.
    """
    _check_name(name)
    # The name stands before the first table; a `name` further down is something else.
    head = re.split(r"^\s*\[", text, maxsplit=1, flags=re.MULTILINE)[0]
    new, count = _NAME.subn(lambda m: f'{m[1]}"{name}"', head, count=1)
    result = new + text[len(head) :]
    if count == 0 or tomllib.loads(result).get("name") != name:
        raise StudyError([Mistake("name", "must stand at the top of the study that is copied.")])
    return result


def _check_name(name: str) -> None:
    pattern = StudyFields.model_fields["name"].metadata[0].pattern
    if not re.fullmatch(pattern, name):
        raise StudyError([Mistake("name", f"{NAME_RULE}; got {shown(name)}.")])


def _entry_text(role: str, kind: str, given: Mapping[str, object]) -> str:
    """Return an entry of a study, with the settings that were not chosen as comments."""
    entry = find(role, kind)
    lines = [f"# {entry.line}", f"[[{role}]]", f'kind = "{kind}"']
    lines += [f"{name} = {shown(value)}" for name, value in given.items()]
    for name, setting in settings_of(entry).items():
        if name in given or setting.make_default is None:
            continue
        value = registry.plain_setting(setting, setting.make_default())
        lines.append(f"# {name} = {_toml(value)}{_choice(setting)}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    """Return a value as TOML: a part by kind and settings, None by its word."""
    if value is None:
        return '"none"'
    if isinstance(value, Mapping):
        inner = ", ".join(f"{k} = {_toml(v)}" for k, v in value.items() if k not in MARKS)
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return shown(value)


def _choice(setting: Setting) -> str:
    """Return a comment with what else there is, where words have to be chosen."""
    if setting.slot is not None:
        return f"    # {', '.join(setting.slot.known())}"
    words = leaf_words(setting.hint)
    return f"    # {words}" if '"' in words else ""


def json_schema(study: type[StudyFields]) -> dict[str, object]:
    """Return the JSON schema of study files: kinds, settings, defaults; grids wherever allowed.

    Parameters
    ----------
    study
        The class that has title and description.
    """
    table = study.model_json_schema(by_alias=True)
    properties = table["properties"]
    definitions = table.setdefault("$defs", {})
    left = ["learner", "world"]
    while left:
        role, names = left.pop(), []
        for name, entry in found(role).items():
            # What another package brings and cannot be used has no schema; studies say why.
            with suppress(ValueError):
                definitions[f"{role}-{name}"] = _part_schema(entry)
                names.append(f"{role}-{name}")
                slots = (s.slot for s in settings_of(entry).values() if s.slot is not None)
                # What settings ask for has to be described, too, once.
                left += [s.role for s in slots if found(s.role) and s.role not in definitions]
        definitions[role] = _one_of(role, names)
    for role in ("world", "learner"):
        entries = {"type": "array", "minItems": 1, "items": {"$ref": f"#/$defs/{role}"}}
        properties[role] = {**entries, "description": f"One table [[{role}]] each."}
    plot = {"type": "array", "items": {"$ref": "#/$defs/PlotSpec"}}
    properties["plot"] = {**plot, "description": "One table [[plot]] each."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **table}


def _one_of(role: str, names: list[str]) -> dict[str, object]:
    kinds = [{"$ref": f"#/$defs/{name}"} for name in names]
    address = {
        "type": "object",
        "properties": {"kind": _grid_of({"type": "string", "pattern": ":"})},
        "required": ["kind"],
    }
    whole = [*kinds, address]
    if role in ("world", "learner"):
        return {"anyOf": whole}
    words = [name.removeprefix(f"{role}-") for name in names]
    # Any text may follow: `module:attribute` is a kind, too.
    # A table without kind changes settings of the default.
    more = {"type": "object", "not": {"required": ["kind"]}}
    return {"anyOf": [{"enum": words}, {"type": "string", "pattern": ":"}, *whole, more]}


def _grid_of(schema: Mapping[str, object]) -> dict[str, object]:
    grid = {"type": "array", "items": schema, "minItems": 1}
    table = {"type": "object", "properties": {"grid": grid}, "required": ["grid"]}
    return {"anyOf": [schema, {**table, "additionalProperties": False}]}


def _part_schema(entry: Entry) -> dict[str, object]:
    properties: dict[str, object] = {"kind": {"const": entry.name}}
    required = ["kind"]
    if entry.role in ("world", "learner"):
        properties |= _ENVELOPE[entry.role]
    for name, setting in settings_of(entry).items():
        schema: dict[str, object] = _grid_of(_setting_schema(setting))
        if setting.make_default is None:
            required.append(name)
        else:
            default = registry.plain_setting(setting, setting.make_default())
            schema["default"] = "none" if default is None else default
        properties[name] = schema
    return {
        "type": "object",
        "description": entry.line,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _setting_schema(setting: Setting) -> dict[str, object]:
    slot = setting.slot
    if slot is None:
        schema = leaf_adapter(setting.hint).json_schema()
        none = [{"const": "none"}] if setting.optional else []
    else:
        schema = _slot_schema(slot)
        schema = {"type": "array", "items": schema} if slot.many else schema
        none = [{"const": "none"}] if setting.optional else []
    return {"anyOf": [schema, *none]} if none else schema


def _slot_schema(slot: Slot) -> dict[str, Any]:
    if not found(slot.role):
        return {"type": ["string", "object"]}
    return {"$ref": f"#/$defs/{slot.role}"}


_LABEL = {"type": "string", "minLength": 1}
_ENVELOPE: dict[str, dict[str, object]] = {
    "world": {"label": _LABEL, "family": _LABEL, "metric": _grid_of(_LABEL)},
    "learner": {
        "label": _LABEL,
        "offline_pairs": _grid_of({"type": "integer", "minimum": 0}),
        "coverage": _grid_of({"type": "number", "minimum": 0, "maximum": 1}),
        "worlds": {"type": ["array", "string"], "items": {"type": "string"}},
    },
}
