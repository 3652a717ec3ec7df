"""Things with a name: each carries its facts, and is found where it is defined.

A loss, a world, a learner or a figure is decorated with `register`, and that is all there is to
do: `found` searches the modules of its role's home for what carries facts, when it is first asked.
Other packages add single things by entry points (one group per role, ``rlhf_theory.losses`` and so
on), or homes of their own to search, by the group ``rlhf_theory.homes``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

from rlhf_theory.errors import check_choice

T = TypeVar("T")

Example = Mapping[str, object]
"""Settings, as a study file has them: plain data, and parts by name."""


@dataclass(frozen=True)
class Role:
    """A role that things can have.

    Attributes
    ----------
    plural
        As ``rlhf-theory list`` has it; ``rlhf_theory.PLURAL`` is its group of entry points.
    home
        The package or module in which this package keeps things of the role.
    """

    plural: str
    home: str | None = None

    @property
    def group(self) -> str:
        """Its group of entry points."""
        return f"rlhf_theory.{self.plural.replace('-', '_')}"


ROLES: Mapping[str, Role] = {
    "theorem": Role("theorems", "rlhf_theory.theorems"),
    "learner": Role("learners", "rlhf_theory.algorithms"),
    "enhancer": Role("enhancers", "rlhf_theory.algorithms"),
    "planner": Role("planners", "rlhf_theory.planners"),
    "radius": Role("radii", "rlhf_theory.estimators"),
    "policy": Role("policies", "rlhf_theory.policies"),
    "world": Role("worlds", "rlhf_theory.worlds"),
    "loss": Role("losses", "rlhf_theory.losses"),
    "plot": Role("plots", "rlhf_theory.plots.studies"),
    "backend": Role("backends", "rlhf_theory.engine.backends"),
}
"""What can have a name, and where it lives; the only table of its kind."""

HOMES = "rlhf_theory.homes"
"""The entry-point group of other packages' homes: a role, or a new one, and a package to search."""

_ASKED: dict[str, str] = {}
"""Type hints, as ``module:name``, that ask for a thing of a role."""

_ATTRIBUTE = re.compile(r"^(\w[\w, ]*)\n((?:(?: {4}.*)?(?:\n|$))+)", re.MULTILINE)
_SOURCE = re.compile(r"^Source: (.*?)(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"\[\d{4}\.\d{5}\]")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a thing says about itself, besides its docstring and its signature.

    Attributes
    ----------
    role, name
        What it is called, and as what.
    examples
        Settings of small ones, for the tests.
    order
        Its place in lists; by name where places are equal.
    text
        What its docstring says, for an object, which has none.
    more
        What only things of its role have, such as how a loss plans.
    """

    role: str
    name: str
    examples: tuple[Example, ...] = ({},)
    order: int = 0
    text: str = ""
    more: Any = None


def register(
    role: str, name: str, *examples: Example, order: int = 0, text: str = "", more: Any = None
) -> Callable[[T], T]:
    """Return a decorator that puts facts on a class, a function or an object.

    Parameters
    ----------
    role, name, order, text, more
        See `Facts`.
    *examples
        See `Facts`; none for the thing with its defaults.
    """
    facts = Facts(
        role=role, name=name, examples=examples or ({},), order=order, text=text, more=more
    )

    def decorate(target: T) -> T:
        # Objects may be frozen; what they carry is none of their settings.
        put = type.__setattr__ if isinstance(target, type) else object.__setattr__
        put(target, "__facts__", facts)
        return target

    return decorate


def asked_by(role: str) -> Callable[[T], T]:
    """Return a decorator for a type hint by which settings ask for a thing of a role."""

    def decorate(hint: T) -> T:
        # Beside the protocol and not on it, where it would be one more thing to have.
        _ASKED[f"{hint.__module__}:{hint.__qualname__}"] = role  # type: ignore[attr-defined]
        return hint

    return decorate


def role_asked_by(hint: object) -> str | None:
    """Return the role that a type hint asks for; None where it asks for none."""
    return _ASKED.get(f"{getattr(hint, '__module__', '')}:{getattr(hint, '__qualname__', '')}")


def facts_of(target: object) -> Facts | None:
    """Return the facts of a thing itself, not of what it inherits from; None where it has none."""
    facts = getattr(target, "__dict__", {}).get("__facts__")
    return facts if isinstance(facts, Facts) else None


@dataclass(frozen=True, eq=False)
class Entry:
    """Something that can be named.

    Attributes
    ----------
    name
        Its name, or its address.
    role
        Its role.
    source
        ``"built in"``, the package that brings it, or its address.
    load
        Returns the class, function or object; single things of other packages are imported only
        when asked for.
    home
        The module that it comes from.
    """

    name: str
    role: str
    source: str
    load: Callable[[], Any] = field(repr=False)
    home: str = ""

    @cached_property
    def thing(self) -> Any:
        """What is named; ``ValueError`` where it cannot be had."""
        try:
            return self.load()
        # Whatever the code of another package raises on import, the answer names that package.
        except Exception as error:
            notes = "".join(getattr(error, "__notes__", ()))
            message = f"{self.title} cannot be loaded: {type(error).__name__}: {error}{notes}"
            raise ValueError(message) from error

    @property
    def target(self) -> Callable[..., Any]:
        """The class or function; ``ValueError`` where it cannot be had."""
        thing = self.thing
        if not callable(thing):
            message = f"{self.title} must be a class or a function; got {type(thing).__name__}."
            raise ValueError(message)
        return thing  # type: ignore[no-any-return]

    @property
    def title(self) -> str:
        """Return role and name, and where it comes from unless the name says so."""
        source = "" if self.source == self.name else f" (from {self.source})"
        return f"{self.role} {self.name!r}{source}"

    @property
    def facts(self) -> Facts:
        """Its facts; those that follow from its name where it has none."""
        return facts_of(self.thing) or Facts(role=self.role, name=self.name)

    @property
    def text(self) -> str:
        """What it is, at length: its docstring, with the attributes of the bases of a class."""
        own = inspect.getdoc(self.thing) or ""
        if self.facts.text or not isinstance(self.thing, type):
            return self.facts.text or own
        inherited: dict[str, str] = {}
        for base in reversed(self.thing.__mro__[1:]):
            inherited |= attributes(inspect.getdoc(base) or "")
        known = {name for names in attributes(own) for name in names.split(", ")}
        further = [f"{name}\n{text}" for name, text in inherited.items() if name not in known]
        title = "Attributes of its bases"
        head = ["", "", title, "-" * len(title)] if further else []
        return "\n".join([own, *head, *further]).rstrip()

    @property
    def line(self) -> str:
        """What it is, in one line: the first one of its docstring, and the key of its paper."""
        first = self.text.partition("\n")[0].removeprefix("Return ").removesuffix(".")
        first = (first[:1].upper() + first[1:]).replace("``", "`")
        key = _KEY.search(self.paper)
        return first if key is None or key[0] in first else f"{first} {key[0]}"

    @property
    def paper(self) -> str:
        """Where it comes from, as its docstring says; "" where that says nothing."""
        said = _SOURCE.search(self.text)
        return "" if said is None else " ".join(said[1].split())

    @property
    def version(self) -> int:
        """Its ``VERSION``, 1 unless it has one: raised when its results change; part of keys."""
        value = getattr(self.thing, "VERSION", 1)
        if not isinstance(value, int) or isinstance(value, bool):
            message = f"VERSION of {self.role} {self.name!r} must be a whole number; got {value!r}."
            raise ValueError(message)
        return value

    @property
    def problem(self) -> str:
        """Why it cannot be loaded; "" where it can."""
        try:
            _ = self.thing, self.version
        except ValueError as error:
            return str(error)
        return ""


def roles() -> tuple[str, ...]:
    """Return all roles: those of this package, and those that others bring."""
    return tuple(dict.fromkeys([*ROLES, *(p.name for p in _points(HOMES))]))


def role_named(name: str) -> Role:
    """Return a role by its name."""
    return ROLES.get(name, Role(f"{name}s"))


@cache
def found(role: str) -> Mapping[str, Entry]:
    """Return what has a name in a role; empty for a role without names.

    Things of other packages come after those of this one. A name that is taken already is left to
    whoever has it.

    Raises
    ------
    ValueError
        If two things of one home have the same name.
    """
    entries = _searched(role)
    for point in points(role):
        source = point.dist.name if point.dist is not None else point.value
        entries.setdefault(point.name, Entry(point.name, role, source, point.load, point.module))
    return MappingProxyType(entries)


def points(role: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of other packages for single things of a role."""
    return _points(role_named(role).group)


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=group), key=lambda p: (p.name, p.value)))


def refresh() -> None:
    """Forget which packages are installed, so that the next question looks again."""
    _points.cache_clear()
    found.cache_clear()


def _searched(role: str) -> dict[str, Entry]:
    known: dict[str, Entry] = {}
    own = ROLES[role].home if role in ROLES else None
    homes = [(own, "built in")] if own is not None else []
    for point in _points(HOMES):
        if point.name == role:
            homes.append((point.value, point.dist.name if point.dist is not None else point.value))
    for home, source in homes:
        here: dict[str, Entry] = {}
        try:
            modules = list(_modules(home))
        # Whatever the code of another package raises, it is listed with that.
        except Exception as error:
            if home == own:
                raise
            known.setdefault(home, Entry(home, role, source, _raising(error), home))
            continue
        for module in modules:
            for thing in vars(module).values():
                facts = facts_of(thing)
                if facts is None or facts.role != role:
                    continue
                # A class or function that a package passes on is defined elsewhere.
                at = thing.__module__ if hasattr(thing, "__qualname__") else module.__name__
                entry = Entry(facts.name, role, source, same(thing), at)
                entry = here.setdefault(facts.name, entry)
                if entry.thing is not thing:
                    message = f"The {role} {facts.name!r} is there twice in {home}."
                    raise ValueError(message)
        for entry in sorted(here.values(), key=lambda e: (e.facts.order, e.name)):
            known.setdefault(entry.name, entry)
    return known


def _modules(home: str) -> Iterator[ModuleType]:
    """Yield a home and its modules; packages inside of it hold what things are made of."""
    package = importlib.import_module(home)
    yield package
    for part in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{home}."):
        yield importlib.import_module(part.name)


def _raising(error: Exception) -> Callable[[], object]:
    def load() -> object:
        raise error

    return load


def same(value: T) -> Callable[[], T]:
    """Return a function that returns a value."""
    return lambda: value


def named(role: str, name: str) -> Any:
    """Return what has a name in a role.

    Raises
    ------
    ValueError
        For an unknown name; the message has the known ones and the nearest.
    """
    check_choice(role, name, found(role))
    return found(role)[name].thing


def attributes(text: str) -> dict[str, str]:
    """Return what a docstring says of its attributes, indented, by the names in it."""
    section = text.partition("\nAttributes\n----------\n")[2]
    return {m[1]: m[2].rstrip() for m in _ATTRIBUTE.finditer(section)}
