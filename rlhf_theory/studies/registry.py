"""From plain data to worlds and learners, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

import numpy as np

from rlhf_theory.core import World
from rlhf_theory.engine.sources import OtherCodeError, check_code, entry_code
from rlhf_theory.register import Entry
from rlhf_theory.studies.cells import MARKS, Cell, is_spec
from rlhf_theory.studies.entries import find, kind_of, role_of
from rlhf_theory.studies.signatures import Setting, inner_hint, settings_of
from rlhf_theory.worlds.bandit import Bandit
from rlhf_theory.worlds.recipe import WorldRecipe

T = TypeVar("T")

Spec = Mapping[str, Any]
"""A resolved spec: plain data with ``kind``, `cells.MARKS` and every setting."""


def build_world(spec: Spec, replicas: int) -> World | WorldRecipe:
    """Return the world of a resolved spec, or its recipe.

    Parameters
    ----------
    spec
        ``kind``, `cells.MARKS` and settings.
    replicas
        Number of replicas ``R``.

    Raises
    ------
    ValueError
        For an unknown kind, another version or code, and whatever the world itself refuses.
    """
    entry = _entry("world", spec)
    world = entry.target(**(arguments(entry, spec) | {"replicas": replicas}))
    if not isinstance(world, WorldRecipe | World):
        message = f"world {entry.name!r} must return a World; got {type(world).__name__}."
        raise ValueError(message)
    if world.n_replicas != replicas:
        message = (
            f"world {entry.name!r} must have the replicas it is asked for; "
            f"got {world.n_replicas} instead of {replicas}."
        )
        raise ValueError(message)
    return world


def cell_world(
    cell: Cell,
    first: int,
    stop: int,
    folder: Path | None = None,
    stack: ExitStack | None = None,
) -> World:
    """Return some replicas of the world of a cell, with the law of its offline pairs.

    It is made as large as needed and cut: what a replica is does not depend on how many there are.

    Parameters
    ----------
    cell
        The cell.
    first, stop
        Replicas ``first .. stop - 1``.
    folder
        Where a `WorldRecipe` keeps files that has no folder of its own.
    stack
        Takes the context in which a `WorldRecipe` computes; None for no context.

    Raises
    ------
    ValueError
        As `build_world`; for files or models that have changed since the study was resolved.
    """
    world = build_world(cell.world, stop)
    if isinstance(world, WorldRecipe):
        _check_content(world, cell)
        world = world if folder is None else kept_in(world, folder)
        if stack is not None:
            stack.enter_context(world.computing())
    if cell.coverage == 0.0:
        return world.block(first, stop)
    if not isinstance(world, Bandit):
        message = (
            f"coverage is the law of offline pairs in a Bandit, between pi0 and pi*; "
            f"{cell.world_label!r} is a {type(world).__name__}."
        )
        raise ValueError(message)
    return dataclasses.replace(world, behaviour=cell.coverage).block(first, stop)


def _check_content(world: WorldRecipe, cell: Cell) -> None:
    """Raise ``ValueError`` where files or models are not what they were."""
    before: Any = cell.world.get("content", {})
    now = world.content()
    other = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if other:
        message = (
            f"{', '.join(other)} of {cell.world_label!r} changed since the study was read: start "
            "it again, and results of the new content will have cells of their own."
        )
        raise ValueError(message)


def kept_in(part: T, folder: Path) -> T:
    """Return an object whose parts keep files in a folder: those whose ``folder`` is None."""
    if isinstance(part, tuple):
        return cast("T", tuple(kept_in(p, folder) for p in part))
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return part
    known = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.init}
    changed = {name: kept_in(value, folder) for name, value in known.items()}
    if "folder" in known and known["folder"] is None:
        changed["folder"] = folder
    changed = {name: value for name, value in changed.items() if value is not known[name]}
    return dataclasses.replace(part, **changed) if changed else part


def build_learner(spec: Spec) -> Any:
    """Return the learner of a resolved spec, online or offline; raises as `build_world`."""
    return build_component("learner", spec)


def build_component(role: str, spec: Spec) -> Any:
    """Return the learner or part of a resolved spec; raises as `build_world`."""
    entry = _entry(role, spec)
    return entry.target(**arguments(entry, spec))


def is_online(spec: Spec) -> bool:
    """Return whether the learner of a resolved spec plays rounds."""
    return hasattr(build_learner(spec), "step")


def _entry(role: str, spec: Spec) -> Entry:
    if "code" in spec:
        check_code(spec["code"])  # before anything of it is imported
    entry = find(role, spec["kind"])
    wanted = spec.get("version", entry.version)
    if wanted != entry.version:
        message = (
            f"{role} {entry.name!r} is version {entry.version} here, and the study was resolved "
            f"with version {wanted}; results of the two do not belong together."
        )
        raise OtherCodeError(message)
    return entry


def check_codes(spec: Spec) -> None:
    """Raise `OtherCodeError` unless the code of a spec and of its parts is what it says."""
    if "code" in spec:
        check_code(spec["code"])
    for value in (*spec.values(), *spec.get("content", {}).values()):
        for part in value if isinstance(value, list | tuple) else [value]:
            if is_spec(part):
                check_codes(part)


def head_of(entry: Entry) -> dict[str, object]:
    """Return a spec without settings: the kind, the version, and the code of what is not ours."""
    code = entry_code(entry)
    marks = {"version": entry.version} | ({} if code is None else {"code": code})
    return {"kind": entry.name, **marks}


def arguments(entry: Entry, spec: Spec) -> dict[str, object]:
    """Return the settings of a spec as the target takes them: parts built, lists as tuples."""
    known = settings_of(entry)
    return {
        name: _argument(known[name], value)
        for name, value in spec.items()
        if name != "kind" and name not in MARKS
    }


def _argument(setting: Setting, value: Any) -> Any:
    slot = setting.slot
    if slot is None or value is None or isinstance(value, str):
        return _typed(value, setting.hint)
    if slot.many:
        return tuple(build_component(slot.role, part) for part in value)
    return build_component(slot.role, value)


def _typed(value: object, hint: object) -> Any:
    """Return lists as tuples, which a frozen dataclass can hold, unless lists are asked for."""
    if not isinstance(value, list):
        return value
    hints = (inner_hint(hint), *get_args(inner_hint(hint)))
    if any(h is list or get_origin(h) is list for h in hints):
        return value
    return tuple(_typed(v, Any) for v in value)


def plain(value: object) -> Any:
    """Return plain JSON data that equals a value: lists for tuples, Python's numbers for NumPy's.

    Raises
    ------
    ValueError
        For NaN and infinity, arrays, functions and other objects.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            message = f"must be finite; got {value}."
            raise ValueError(message)
        return value + 0.0  # no negative zero: it equals 0 and would be written otherwise
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    message = f"must be plain data (numbers, text, lists, tables); got {type(value).__name__}."
    raise ValueError(message)


def spec_of(value: object, role: str | None = None) -> dict[str, object]:
    """Return the spec from which a learner or part could be built again.

    Parameters
    ----------
    value
        An object of a dataclass that workers can import.
    role
        Its role; None for the one in which its class has a name.

    Raises
    ------
    ValueError
        For other objects, and for settings that are no plain data; it says which.

    Examples
    --------
    >>> from rlhf_theory.algorithms.enhancers import Optimistic
    >>> spec_of(Optimistic(form="free"))["form"]
    'free'
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        message = (
            f"must be an object of a dataclass, or a table with `kind`; got {type(value).__name__}."
        )
        raise ValueError(message)
    role = role_of(type(value)) if role is None else role
    entry = find(role, kind_of(type(value), role))
    spec = head_of(entry)
    for name, setting in settings_of(entry).items():
        try:
            spec[name] = plain_setting(setting, getattr(value, name))
        except ValueError as error:
            message = f"{name} of {type(value).__name__}: {error}"
            raise ValueError(message) from error
    return spec


def plain_setting(setting: Setting, value: object) -> object:
    """Return the value of one setting as plain data; raises as `spec_of`."""
    slot = setting.slot
    if slot is None or value is None or (setting.takes_text and isinstance(value, str)):
        return plain(value)
    if slot.many and isinstance(value, list | tuple):
        return [spec_of(part, slot.role) for part in value]
    return spec_of(value, slot.role)
