"""From what somebody wrote to resolved specs: every value checked, every default filled in."""

from __future__ import annotations

import collections.abc
import dataclasses
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from rlhf_theory.errors import suggestion
from rlhf_theory.register import Entry
from rlhf_theory.store import canonical
from rlhf_theory.studies import registry
from rlhf_theory.studies.cells import CODE, MARKS, is_spec
from rlhf_theory.studies.entries import find, kind_of
from rlhf_theory.studies.former import SETTINGS
from rlhf_theory.studies.grids import grid_hint
from rlhf_theory.studies.messages import Mistake, Path, StudyError, an, choices, place_of, shown
from rlhf_theory.studies.roles import check_target, is_online_learner
from rlhf_theory.studies.signatures import ENVELOPE, Setting, Slot, inner_hint, settings_of
from rlhf_theory.worlds.recipe import WorldRecipe

Say = Callable[[Path, str], None]
"""Takes a path in the entry and what is wrong there."""

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_MISSING = object()
_NAME = re.compile(r"[A-Za-z_]\w*")
_ADVICE = (
    "Results of the two do not belong together: --keep-old adopts the old ones, --drop-old "
    "removes them."
)


def whole(value: object) -> Any:
    """Return whole floats as integers, so that ``rounds = 1e4`` is what it looks like."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def leaf_type(hint: object) -> Any:
    """Return the type that pydantic checks for the hint of a plain setting."""
    hint = inner_hint(hint)
    origin, args = get_origin(hint), get_args(hint)
    if hint is int:
        return Annotated[int, BeforeValidator(whole)]
    if origin in (Union, types.UnionType):
        # Where a fraction is allowed a whole number is one: 1 and 1.0 must not be two results.
        kept = [a for a in args if not (a is int and float in args)]
        return Union[tuple(map(leaf_type, kept))]  # noqa: UP007
    if origin is tuple and args and args[-1] is not Ellipsis:
        fixed: Any = tuple[tuple(map(leaf_type, args))]  # type: ignore[misc]
        return Annotated[fixed, BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return list[leaf_type(args[0])] if args else list[object]  # type: ignore[misc]
    if hint in (list, tuple):
        return list[object]
    if origin in (dict, collections.abc.Mapping):
        return dict[str, leaf_type(args[1])]  # type: ignore[misc]
    if hint in (dict, collections.abc.Mapping):
        return dict[str, object]
    return hint if hint in (float, bool, str, type(None)) or origin is Literal else Any


@cache
def leaf_adapter(hint: object) -> TypeAdapter[Any]:
    """Return what checks the values of a plain setting."""
    return TypeAdapter(leaf_type(hint), config=_STRICT)


def leaf_words(hint: object) -> str:
    """Return what a plain setting takes, in words: ``a number, or "none"``."""
    hint = inner_hint(hint)
    origin, args = get_origin(hint), get_args(hint)
    simple = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): '"none"',
    }
    if hint in simple:
        return simple[hint]
    if origin is Literal:
        words = [f'"{a}"' if isinstance(a, str) else shown(a) for a in args]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if origin in (Union, types.UnionType):
        kept = [a for a in args if not (a is int and float in args)]
        return ", or ".join(map(leaf_words, kept))
    if origin is tuple and args and args[-1] is not Ellipsis:
        return f"a list of {len(args)}: " + ", ".join(map(leaf_words, args))
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable) and args:
        return f"a list, each entry {leaf_words(args[0])}"
    if origin in (dict, collections.abc.Mapping):
        return f"a table, each value {leaf_words(args[1])}"
    return "plain data"


def _literals(hint: object) -> list[str]:
    hint = inner_hint(hint)
    if get_origin(hint) is Literal:
        return [a for a in get_args(hint) if isinstance(a, str)]
    if get_origin(hint) in (Union, types.UnionType):
        return [word for a in get_args(hint) for word in _literals(a)]
    return []


@dataclass(frozen=True)
class Resolver:
    """Resolves the entries of one study.

    Attributes
    ----------
    say
        Where mistakes go; resolving goes on after each, so that all are found.
    facts
        What building told, by `store.canonical` of a spec: the metrics of a world, and whether a
        learner is online.
    contents
        By the same, hashes of what settings of a `WorldRecipe` name by place.
    """

    say: Say
    facts: dict[str, object] = field(default_factory=dict)
    contents: dict[str, dict[str, object]] = field(default_factory=dict)

    def at(self, say: Say) -> Resolver:
        """Return the same resolver with another place for its mistakes."""
        return Resolver(say, self.facts, self.contents)

    def entry(
        self, role: str, given: Mapping[str, object], path: Path = ()
    ) -> dict[str, Any] | None:
        """Return the resolved spec of a world or learner, or None after a mistake.

        Parameters
        ----------
        role
            ``"world"`` or ``"learner"``.
        given
            Kind and settings, without the other keys of an entry.
        path
            Where it is.
        """
        slot = Slot(role, Any)
        if "kind" not in given:
            text = f"is missing; choose from {choices(slot.known())}."
            self.say((*path, "kind"), text)
            return None
        return self._part(slot, given, path)

    def _find(self, slot: Slot, kind: object, path: Path) -> Entry | None:
        if not isinstance(kind, str):
            text = f"must be text, the name of {an(slot.role)}; got {shown(kind)}."
            self.say(path, text + grid_hint(kind))
            return None
        try:
            entry = find(slot.role, kind, slot.known())
            check_target(entry)
            settings_of(entry)  # finds targets that cannot be loaded or used
            _ = entry.version
        except (ValueError, TypeError) as error:
            self.say(path, str(error))
            return None
        return entry

    def _part(
        self, slot: Slot, given: object, path: Path, default: Mapping[str, object] | None = None
    ) -> dict[str, object] | None:
        """Return the resolved spec of a part; a bare text is its kind."""
        short = isinstance(given, str)
        table = {"kind": given} if short else given
        if not isinstance(table, Mapping):
            known = choices(slot.known())
            self.say(
                path,
                f"must be {an(slot.role)}: a name ({known}) or a table with `kind`; "
                f"got {shown(given)}.{grid_hint(given)}",
            )
            return None
        # Without a kind a table changes settings of the default.
        base = default if default is not None and "kind" not in table else {}
        table = {**base, **table}
        if "kind" not in table:
            only = list(slot.known())
            if not only and dataclasses.is_dataclass(slot.accepts):
                only = [kind_of(slot.accepts, slot.role)]  # nothing else has a name there
            if len(only) != 1:
                self.say((*path, "kind"), f"is missing; choose from {choices(only)}.")
                return None
            table["kind"] = only[0]
        entry = self._find(slot, table["kind"], path if short else (*path, "kind"))
        return None if entry is None else self._settings(entry, table, path)

    def _settings(
        self, entry: Entry, table: Mapping[str, object], path: Path
    ) -> dict[str, object] | None:
        known = settings_of(entry)
        fine = self._check_names(entry, table, known, path)
        try:
            spec = registry.head_of(entry)
        except ValueError as error:
            self.say((*path, "kind"), str(error))
            return None
        for mark in CODE:
            if mark in table and table[mark] != spec.get(mark):
                text = (
                    f"must be {shown(spec.get(mark))}, the {mark} of {entry.name!r} here; got "
                    f"{shown(table[mark])}. {_ADVICE}"
                )
                self.say((*path, mark), text)
                fine = False
        for name, setting in known.items():
            value = self._setting(entry, setting, table.get(name, _MISSING), (*path, name))
            fine = fine and value is not _MISSING
            spec[name] = value
        if not fine or not self._accepted(entry, spec, path):
            return None
        content = self.contents.get(canonical([entry.role, spec]))
        if content is None:
            return spec
        if not _agrees(table.get("content", {}), content):
            text = f"is {shown(content)} now, not {shown(table['content'])}: files were changed."
            if any(map(is_spec, content.values())):
                text += f" {_ADVICE}"
            self.say((*path, "content"), text)
            return None
        return {**spec, "content": content}

    def _check_names(
        self, entry: Entry, table: Mapping[str, object], known: Mapping[str, Setting], path: Path
    ) -> bool:
        fine = True
        more = [k for k in ENVELOPE.get(entry.role, ()) if not path and k != "kind"]
        for name in table:
            if name not in known and name != "kind" and name not in MARKS:
                allowed = [*known, *more]
                text = (
                    f"{entry.role} {entry.name!r} has no such setting; it has {choices(known)}."
                    f"{suggestion(str(name), allowed)}"
                )
                now = SETTINGS.get((entry.role, str(name)))
                if now in allowed:
                    text = f"was a name in format 1; write {now}."
                inner = table[name]
                if isinstance(inner, Mapping) and inner and {*inner} - {"kind"} <= {*known}:
                    flat = ", ".join(f"{k} = {shown(v)}" for k, v in inner.items() if k != "kind")
                    text = f"is no table of {entry.name!r}: write {flat} beside its kind."
                if entry.role == "world" and name in ("replicas", "name"):
                    text = f"{name} of a world is not set here, but once for the whole study."
                self.say((*path, name), text)
                fine = False
        return fine

    def _setting(self, entry: Entry, setting: Setting, given: object, path: Path) -> Any:
        default: Any = _MISSING
        if setting.make_default is not None:
            try:
                default = registry.plain_setting(setting, setting.make_default())
            except ValueError as error:
                default = _MISSING
                if given is _MISSING:
                    self.say(path, f"the default of {entry.name!r} cannot be written down: {error}")
                    return _MISSING
        value = default if given is _MISSING else given
        if value is _MISSING:
            self.say(path, f"is missing; {entry.role} {entry.name!r} needs {self._words(setting)}.")
            return _MISSING
        # TOML has no null. Where none is allowed, no text has to mean "none".
        if setting.optional and (value is None or value == "none"):
            return None
        slot = setting.slot
        if setting.takes_text and isinstance(value, str):
            return value
        if slot is None:
            return self._leaf(setting, value, path)
        if slot.many:
            if not isinstance(value, list | tuple):
                self.say(path, f"must be a list, each entry {an(slot.role)}; got {shown(value)}.")
                return _MISSING
            parts = [self._part(slot, v, (*path, i)) for i, v in enumerate(value)]
            return _MISSING if any(p is None for p in parts) else parts
        part = self._part(slot, value, path, default if isinstance(default, Mapping) else None)
        return _MISSING if part is None else part

    def _words(self, setting: Setting) -> str:
        if setting.slot is None:
            return leaf_words(setting.hint)
        return f"{an(setting.slot.role)}, one of {choices(setting.slot.known())}"

    def _leaf(self, setting: Setting, value: object, path: Path) -> Any:
        try:
            return registry.plain(leaf_adapter(setting.hint).validate_python(registry.plain(value)))
        except ValidationError as error:
            first = error.errors()[0]
            inside = tuple(p for p in first["loc"] if isinstance(p, int))[:1]
            word = suggestion(value, _literals(setting.hint)) if isinstance(value, str) else ""
            # A hint inside of a list would be about one of its entries.
            word += grid_hint(value) if not inside else ""
            text = f"must be {leaf_words(setting.hint)}; got {shown(value)}.{word}"
            self.say((*path, *inside), text)
        except ValueError as error:
            self.say(path, str(error))
        return _MISSING

    def _accepted(self, entry: Entry, spec: Mapping[str, object], path: Path) -> bool:
        """Build the thing once: its own checks are mistakes of the study."""
        name = canonical([entry.role, spec])
        if name in self.facts:
            return True
        try:
            if entry.role == "world":
                # One replica: what is drawn per replica costs little, what is shared costs in full.
                world = registry.build_world(spec, 1)
                self.facts[name] = world.metrics
                if isinstance(world, WorldRecipe):
                    self.contents[name] = dict(world.content())
            else:
                made = registry.build_component(entry.role, spec)
                self.facts[name] = is_online_learner(made) if entry.role == "learner" else None
        # Another package may raise anything; the study names the place.
        except Exception as error:
            text = str(error)
            if not isinstance(error, ValueError):
                text = f"{type(error).__name__}: {error}"
            word = _NAME.match(text)
            inside = (word[0],) if word and word[0] in settings_of(entry) else ()
            self.say((*path, *inside), text)
            return False
        return True

    def fact(self, role: str, spec: Mapping[str, object]) -> Any:
        """Return what building a resolved spec told."""
        own = {name: value for name, value in spec.items() if name != "content"}
        return self.facts[canonical([role, own])]


def _agrees(said: object, now: object) -> bool:
    """Return whether all that a table says is so now; it may leave out code and versions."""
    if isinstance(said, Mapping) and isinstance(now, Mapping):
        return all(_agrees(value, now.get(name)) for name, value in said.items())
    return said == now


def resolved_entry(role: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of a single entry of a study.

    Parameters
    ----------
    role
        ``"world"`` or ``"learner"``.
    entry
        The entry without grids; keys that are no settings, such as its label, say nothing here.

    Raises
    ------
    StudyError
        With its mistakes, their places within the entry.
    """
    mistakes: list[Mistake] = []
    resolver = Resolver(lambda path, text: mistakes.append(Mistake(place_of(path), text)))
    beside = {*ENVELOPE[role]} - {"kind"}
    spec = resolver.entry(role, {k: v for k, v in entry.items() if k not in beside})
    if spec is None:
        raise StudyError(mistakes)
    return spec
