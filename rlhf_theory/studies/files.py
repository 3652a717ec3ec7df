"""Study files: TOML, and changes to it from the command line."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable, Sequence
from datetime import date, time
from pathlib import Path as FilePath
from typing import Any

from rlhf_theory.errors import suggestion
from rlhf_theory.studies import registry
from rlhf_theory.studies.cells import MARKS
from rlhf_theory.studies.entries import find
from rlhf_theory.studies.grids import is_grid
from rlhf_theory.studies.messages import Mistake, Path, StudyError, choices, place_of
from rlhf_theory.studies.signatures import ENVELOPE, Setting, Slot, settings_of

Toml = dict[str, Any]
"""A table as TOML gives it: texts, numbers, lists and tables, whatever somebody wrote."""

Keys = Sequence[str | int]

_PART = re.compile(r"([A-Za-z_][\w-]*)((?:\[\d+\])*)")
_INDEX = re.compile(r"^(\w+)\[([^\[\]]*)\]")
_SHORT = re.compile(r"[-+]?(\d+\.|\.\d+)([eE][-+]?\d+)?")
"""Numbers that TOML does not write so."""

_SEVERAL = re.compile(r"[^\[{\"'\n]*,\s*[A-Za-z_][\w.\[\]-]*\s*=")
_POSITION = re.compile(r"\(at line (\d+), column (\d+)\)|\(at end of document\)")
_LISTS = {"world": "world", "worlds": "world", "learner": "learner", "learners": "learner"}
_PLOTS = ("plot", "plots")
# Unknown names stay where they are, and the study complains about them there.
_QUICK = ("seed", "replicas", "block", "rounds", "pairs", "record")


def load(
    path: FilePath | str, sets: Sequence[str] = (), *, quick: bool = False
) -> tuple[Toml, Callable[[Path], str]]:
    """Return the tables of a study file after changes, and where each value comes from.

    Parameters
    ----------
    path
        The file.
    sets
        Changes, such as ``"learner[0].batch_size=64"``; see `change`.
    quick
        Whether to take the values of the table ``quick``, before the changes.

    Raises
    ------
    StudyError
        If the file cannot be read, is no TOML, or a change names nothing in it.
    """
    file = FilePath(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise StudyError([Mistake("", f"{file} cannot be read: {reason}.")]) from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError([Mistake("", _no_toml(file, text, error))]) from error
    fast = _take_quick(data, file) if quick else set()
    touched: set[Path] = set()
    mistakes: list[Mistake] = []
    inner = _quick_sets(data) if quick else []
    for place, item in [*(("quick.set", i) for i in inner), *(("--set", i) for i in sets)]:
        try:
            (fast if place == "quick.set" else touched).update(change(data, item))
        except ValueError as error:
            mistakes.append(Mistake(f"{place} {item}", str(error)))
    if mistakes:
        raise StudyError(mistakes)

    def origin(place: Path) -> str:
        if any(place[: len(t)] == t for t in touched):
            return "--set"
        return "quick" if any(place[: len(t)] == t for t in fast) else "file"

    return data, origin


def _take_quick(data: Toml, file: FilePath) -> set[Path]:
    """Put the values of the table ``quick`` in place; return the paths that changed."""
    values = data.get("quick")
    if not isinstance(values, dict) or not values:
        text = f"is missing in {file}, so that the study has no quick form."
        raise StudyError([Mistake("quick", text)])
    changed: set[Path] = set()
    for name, value in values.items():
        if name == "record" and isinstance(value, dict):
            data[name] = {**data.get(name, {}), **value}
            changed |= {(name, inner) for inner in value}
        elif name in _QUICK:
            data[name] = value
            changed.add((name,))
    return changed


def _quick_sets(data: Toml) -> list[str]:
    """Return the changes of the table ``quick``; what is none, the study complains about."""
    items = data["quick"].get("set", [])
    return [i for i in items if isinstance(i, str)] if isinstance(items, list) else []


def _no_toml(file: FilePath, text: str, error: tomllib.TOMLDecodeError) -> str:
    message = str(error)
    found = _POSITION.search(message)
    reason = _POSITION.sub("", message).strip()
    if found is None or found[1] is None:
        return f"{file} is no TOML at its end: {reason}."
    line = text.splitlines()[int(found[1]) - 1].strip() if text else ""
    return f"{file}, line {found[1]}, column {found[2]}, is no TOML: {reason}; there is: {line}"


def value_of(text: str) -> Any:
    """Return the value of a change: a TOML value, and bare words as text.

    Examples
    --------
    >>> value_of("[1, 2]"), value_of("1e-3"), value_of("uniform"), value_of("{ grid = [4, 8] }")
    ([1, 2], 0.001, 'uniform', {'grid': [4, 8]})
    """
    try:
        table = tomllib.loads(f"v = {text}")
    except tomllib.TOMLDecodeError as error:
        if _SHORT.fullmatch(text.strip()):
            return float(text)
        if _SEVERAL.match(text):
            message = f"{text!r} is more than one value; repeat --set for every value."
            raise ValueError(message) from error
        if not text.strip() or re.search(r"[\[\]{}\"'=\n]", text):
            message = f"{text!r} is no value in TOML; texts with signs need quotes."
            raise ValueError(message) from error
        return text.strip()
    if set(table) != {"v"}:
        message = f"{text!r} is more than one value."
        raise ValueError(message)
    # Nothing here takes a date or a time; what looks like one is a text, such as a time limit.
    return text.strip() if isinstance(table["v"], date | time) else table["v"]


def assignments(words: Sequence[str], option: str) -> dict[str, Any]:
    """Return ``KEY=VALUE`` words of an option as a table, with values as `value_of` reads them.

    Examples
    --------
    >>> assignments(["beta=.1", "n=3", "divergence=js", "time=01:00:00"], "--set")
    {'beta': 0.1, 'n': 3, 'divergence': 'js', 'time': '01:00:00'}
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            message = f"{option} must look like KEY=VALUE; got {word!r}."
            raise ValueError(message)
        if key in found:
            message = f"{option} {key} is given twice."
            raise ValueError(message)
        found[key] = value_of(text)
    return found


def change(data: Toml, item: str) -> set[Path]:
    """Change one value of the tables of a study, in place.

    Parameters
    ----------
    data
        The tables.
    item
        ``place=value``: ``rounds=50``, ``record.grid=all``, ``learner[0].batch_size=64``; without
        a number, ``world.dim=8``, all entries that have the setting. Through a grid, all its values
        that have the setting.

    Returns
    -------
    Paths of the values that changed.

    Raises
    ------
    ValueError
        If the place is nowhere in the study; it says what there is.
    """
    place, equals, text = item.partition("=")
    path = _path(place.strip())
    if not equals or not path:
        message = "must be PLACE=VALUE, such as rounds=50 or learner[0].batch_size=64."
        raise ValueError(message + _numbered(data, place))
    value = value_of(text)
    first, *rest = path
    if first in _LISTS and rest:
        return _change_entries(data, str(first), rest, value)
    if first in _PLOTS and rest:
        return _change_plots(data, str(first), rest, value)
    node: Any = data
    for part in path[:-1]:
        node = _step(node, part)
    if not isinstance(node, dict) or isinstance(path[-1], int):
        message = f"{place!r} leads into a value that is no table."
        raise ValueError(message)
    node[path[-1]] = value
    return {tuple(path)}


def _path(place: str) -> list[str | int]:
    path: list[str | int] = []
    for part in place.split("."):
        match = _PART.fullmatch(part)
        if match is None:
            return []
        path.append(match[1])
        path += [int(n) for n in re.findall(r"\d+", match[2])]
    return path


def _numbered(data: Toml, place: str) -> str:
    """Return that an index is a number, where a label or so was given as one; "" elsewhere."""
    found = _INDEX.match(place.strip())
    if found is None or found[2].isdigit() or found[1] not in (*_LISTS, *_PLOTS):
        return ""
    _, entries = _entries(data, found[1])
    labels = [e.get("label", e.get("kind")) if isinstance(e, dict) else e for e in entries]
    near = f"{found[1]}[{labels.index(found[2])}]" if found[2] in labels else ""
    hint = f" Did you mean {near + place.strip()[found.end() :]}?" if near else ""
    return f" The index is a number, counted from 0; got {found[2]!r}.{hint}"


def _step(node: object, part: str | int) -> Any:
    if isinstance(node, dict) and isinstance(part, str):
        return node.setdefault(part, {})
    if isinstance(node, list) and isinstance(part, int) and part < len(node):
        return node[part]
    message = f"there is no {part!r} on the way."
    raise ValueError(message)


def _entries(data: Toml, name: str) -> tuple[str, list[Any]]:
    """Return the list of entries that is meant, under the name that the file has for it."""
    other = name.removesuffix("s") if name.endswith("s") else name + "s"
    found = name if name in data else other
    entries = data.get(found, [])
    if isinstance(entries, dict):
        entries = data[found] = [entries]
    return found, entries


def _chosen(entries: Sequence[object], rest: Keys, name: str) -> tuple[list[int], Keys]:
    if not isinstance(rest[0], int):
        return list(range(len(entries))), rest
    if rest[0] >= len(entries) or len(rest) == 1:
        message = f"{name} must have a number from 0 to {len(entries) - 1}, and then a setting."
        raise ValueError(message)
    return [rest[0]], rest[1:]


def _change_plots(data: Toml, name: str, rest: Keys, value: object) -> set[Path]:
    found, entries = _entries(data, name)
    chosen, keys = _chosen(entries, rest, name)
    if len(keys) != 1 or not chosen:
        message = f"{name} must be changed by {name}.SETTING=VALUE, and the study has a {name}."
        raise ValueError(message)
    for index in chosen:
        entries[index][keys[0]] = value
    return {(found, index, keys[0]) for index in chosen}


def _change_entries(data: Toml, name: str, rest: Keys, value: object) -> set[Path]:
    found, entries = _entries(data, name)
    chosen, keys = _chosen(entries, rest, name)
    role = _LISTS[name]
    touched: set[Path] = set()
    for index in chosen:
        if isinstance(entries[index], dict):
            touched |= _assign(entries[index], Slot(role, Any), keys, value, (found, index))
    if not touched:
        have = sorted({s for i in chosen for s in _settings(role, entries[i])})
        setting = place_of(keys)
        message = f"no {role} has a setting {setting!r}; there are {choices(have)}."
        message += suggestion(str(keys[0]), have)
        if keys[0] in have:
            message = (
                f"no {role} has a setting {setting!r}: its {keys[0]} is of a kind without it. "
                f"Change {name}.{keys[0]} as a whole."
            )
            message += _shorter(entries, chosen, role, keys, name)
        raise ValueError(message)
    return touched


def _shorter(
    entries: Sequence[Any], chosen: Sequence[int], role: str, keys: Keys, name: str
) -> str:
    """Return the place without one of its keys, if that is one: settings may have lost a table."""
    for left_out in range(1, len(keys) - 1):
        fewer = [*keys[:left_out], *keys[left_out + 1 :]]
        tried = copy.deepcopy([entries[i] for i in chosen if isinstance(entries[i], dict)])
        if any(_assign(entry, Slot(role, Any), fewer, None, ()) for entry in tried):
            return f" Did you mean {name}.{place_of(fewer)}?"
    return ""


def _settings(role: str, entry: Any) -> list[str]:
    try:
        known = settings_of(find(role, entry["kind"]))
    except (ValueError, TypeError, KeyError):
        return []
    return [*ENVELOPE.get(role, ("kind",)), *known]


def _assign(node: Any, slot: Slot, keys: Keys, value: object, path: Path) -> set[Path]:
    """Put a value into a part where the part has the setting; return the paths that changed."""
    if is_grid(node):
        touched: set[Path] = set()
        for index, one in enumerate(node["grid"]):
            # A bare name becomes a table, to hold the setting.
            part = {"kind": one} if isinstance(one, str) else one
            new = _assign(part, slot, keys, value, (*path, "grid", index))
            if new:
                node["grid"][index] = part
            touched |= new
        return touched
    key, *rest = keys
    if not isinstance(node, dict) or key not in _known(node, slot):
        return set()
    if not rest:
        if key == "kind":
            _drop_foreign(node, slot, value)
        node[key] = value
        return {(*path, key)}
    setting = _known(node, slot)[key]
    inner: Slot | None = None if setting is None else setting.slot
    if inner is None or inner.many:
        return set()
    child = node.get(key)
    if isinstance(child, str):
        child = {"kind": child}
    if child is None:
        # Another kind has other settings: those of the default are not for it.
        child = {} if rest == ["kind"] else _default_part(setting)
    new = _assign(child, inner, rest, value, (*path, str(key)))
    if new:
        node[key] = child
    return new


def _drop_foreign(node: Toml, slot: Slot, kind: Any) -> None:
    """Drop the settings of the present kind that a new one does not have.

    Misspelt settings stay, and so does everything if the new kind is unknown: the study complains.
    """
    try:
        kept = settings_of(find(slot.role, kind))
    except (ValueError, TypeError):
        return
    own = {*ENVELOPE.get(slot.role, ()), "kind"}
    for name in _known(node, slot):
        if name not in kept and name not in own:
            node.pop(name, None)
    for mark in MARKS:
        node.pop(mark, None)  # of the present kind


def _known(node: Toml, slot: Slot) -> dict[str, Setting | None]:
    """Return the keys that a part may have, with the setting of each; empty if it is unknown."""
    kinds: Any = node.get("kind")
    many = kinds["grid"] if is_grid(kinds) else [kinds]
    known: dict[str, Setting | None] = dict.fromkeys(ENVELOPE.get(slot.role, ("kind",)))
    for kind in many:
        try:
            known |= settings_of(find(slot.role, kind))
        except (ValueError, TypeError):
            continue
    return known


def _default_part(setting: Any) -> Toml:
    """Return the default of a setting as a table with all its settings; {} where it has none."""
    try:
        default = registry.plain_setting(setting, setting.make_default())
    except (ValueError, TypeError):
        return {}
    return default if isinstance(default, dict) else {}
