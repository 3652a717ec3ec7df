"""The settings of worlds, learners and parts, read from signatures and type hints."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rlhf_theory.core import Planner
from rlhf_theory.register import Entry, facts_of, found, role_asked_by
from rlhf_theory.studies.cells import MARKS
from rlhf_theory.worlds.recipe import WorldRecipe

ENVELOPE = {
    "world": ("kind", "label", "family", "metric"),
    "learner": ("kind", "label", "offline_pairs", "coverage", "worlds"),
}
"""Keys of an entry of a study that are no settings of its world or learner."""

_TAKEN = dict.fromkeys(("world", "learner"), (*MARKS, "grid", "online"))
"""Further keys that mean something in every entry; resolved studies say ``online``, ``content``."""

RUN_SETTINGS = ("replicas", "at_once")
"""Settings of a `WorldRecipe` about how its blocks run, on which no number depends."""

_OURS = {"world": ("replicas", "name")}
"""Arguments that the study gives, not its author, unless a `WorldRecipe` says its replicas."""

_PLAIN = (int, float, bool, str, type(None), Any, object)
_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)
_TABLES = (dict, collections.abc.Mapping)


@dataclass(frozen=True)
class Slot:
    """A place for a part.

    Attributes
    ----------
    role
        What it must be; a role without names takes ``module:attribute`` only.
    accepts
        The type hint.
    many
        Whether it takes a list of parts.
    """

    role: str
    accepts: Any
    many: bool = False

    def known(self) -> dict[str, Entry]:
        """Return the named parts that fit."""
        return {k: e for k, e in found(self.role).items() if self._fits(e)}

    def _fits(self, entry: Entry) -> bool:
        if get_origin(self.accepts) is Planner:
            # A planner of rewards cannot plan for a preference: its type says which it takes.
            wanted, taken = get_args(self.accepts)[0], _model_of(entry.target)
            return wanted is Any or taken is Any or taken is wanted
        if self.accepts is Any or role_asked_by(self.accepts) is not None:
            return True
        if not inspect.isclass(self.accepts) or entry.problem:
            return True
        return _is_a(entry.target, self.accepts)


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes
    ----------
    name
        Its name.
    hint
        Its type.
    slot
        What part it takes; None for plain data.
    make_default
        Returns the default; None where the setting must be given.
    """

    name: str
    hint: object
    slot: Slot | None
    make_default: Callable[[], object] | None

    @property
    def optional(self) -> bool:
        """Whether None is allowed."""
        return _is_union(self.hint) and type(None) in get_args(self.hint)

    @property
    def takes_text(self) -> bool:
        """Whether it takes a text, beside a part: a name that it gives a meaning of its own."""
        return self.slot is not None and _is_union(self.hint) and str in get_args(self.hint)


def inner_hint(hint: object) -> Any:
    """Return the hint without ``Annotated``."""
    return inner_hint(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def _is_union(hint: object) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _model_of(target: Callable[..., Any]) -> Any:
    """Return the type of model that a planner takes."""
    call = getattr(target, "__call__", None)  # noqa: B004
    try:
        return get_type_hints(call).get("model", Any)
    except (NameError, TypeError):
        return Any


def _slot(hint: object) -> Slot | None:
    hint, origin = inner_hint(hint), get_origin(inner_hint(hint))
    if hint in _PLAIN or origin is Literal:
        return None
    if _is_union(hint):
        found = [s for s in map(_slot, get_args(hint)) if s is not None]
        return found[0] if found else None
    if origin in _SEQUENCES or hint in _SEQUENCES:
        inner = next((s for s in map(_slot, get_args(hint)) if s is not None), None)
        return None if inner is None else dataclasses.replace(inner, many=True)
    if origin in _TABLES or hint in _TABLES:
        return None
    role = role_asked_by(origin or hint)
    if role is None and inspect.isclass(hint):
        facts = facts_of(hint)
        role = hint.__name__ if facts is None else facts.role
    return None if role is None else Slot(role, hint)


def _is_a(target: object, hint: type) -> bool:
    try:
        return inspect.isclass(target) and issubclass(target, hint)
    except TypeError:  # a protocol that has more than methods answers for objects only
        return False


@cache
def settings_of(entry: Entry) -> Mapping[str, Setting]:
    """Return the settings of an entry by name.

    Raises
    ------
    ValueError
        Where its signature does not suit a study: no ``replicas`` in a world, a setting with the
        name of a key that means something in every entry.
    """
    target, role = entry.target, entry.role
    described = f"{role} {entry.name!r}"
    found = _fields(target) if dataclasses.is_dataclass(target) else _parameters(target)
    for name in _OURS.get(role, ()):
        if name == "replicas" and name not in found:
            message = f"{described} must take `replicas`, the number of replicas to make."
            raise ValueError(message)
        if name != "replicas" or not _is_a(target, WorldRecipe):
            found.pop(name, None)
    for name in (*ENVELOPE.get(role, ("kind",)), *_TAKEN.get(role, (*MARKS, "grid"))):
        if name in found:
            message = (
                f"{described} has a setting {name!r}, a word that studies keep for themselves; "
                "rename the setting."
            )
            raise ValueError(message)
    return types.MappingProxyType(found)


def _hints(target: object) -> dict[str, object]:
    function = target
    if inspect.isclass(target) and not dataclasses.is_dataclass(target):
        function = target.__init__
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # names that are imported for type checkers only
        return {}


def _fields(target: Any) -> dict[str, Setting]:
    hints, found = _hints(target), {}
    for f in dataclasses.fields(target):
        if not f.init:
            continue
        make: Callable[[], object] | None = None
        if f.default_factory is not dataclasses.MISSING:
            make = f.default_factory
        elif f.default is not dataclasses.MISSING:
            make = _constant(f.default)
        hint = hints.get(f.name, Any)
        found[f.name] = Setting(f.name, hint, _slot(hint), make)
    return found


def _parameters(target: Any) -> dict[str, Setting]:
    hints, found = _hints(target), {}
    for p in inspect.signature(target).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        make = None if p.default is p.empty else _constant(p.default)
        hint = hints.get(p.name, Any)
        found[p.name] = Setting(p.name, hint, _slot(hint), make)
    return found


def _constant(value: object) -> Callable[[], object]:
    return lambda: value
