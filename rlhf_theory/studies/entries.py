"""What a study can name: worlds, learners and their parts, built in or from other packages."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rlhf_theory.algorithms import catalogue as algorithms
from rlhf_theory.errors import suggestion
from rlhf_theory.estimators import confidence as radii
from rlhf_theory.planners.argmax import Argmax
from rlhf_theory.planners.best_of_n import BestOfN
from rlhf_theory.planners.chi_squared import ChiSquared
from rlhf_theory.planners.gibbs import Gibbs
from rlhf_theory.planners.matrix_game import UnregularisedNash
from rlhf_theory.planners.nash import Nash
from rlhf_theory.planners.option_one import OptionOne
from rlhf_theory.planners.saddle import PessimisticNash
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.worlds import catalogue as worlds_catalogue

__all__ = [
    "GROUPS",
    "ROLES",
    "Entry",
    "components",
    "find",
    "kind_of",
    "learners",
    "name_in",
    "refresh",
    "worlds",
]

GROUPS = {"learner": "rlhf_theory.learners", "world": "rlhf_theory.worlds"}
"""Role to the entry-point group by which other packages add to it."""

ROLES = ("world", "learner", "enhancer", "radius", "planner", "policy")
"""Roles whose kinds have names; every role also takes ``module:attribute``."""

_ADDRESS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")

_PARTS: dict[str, dict[str, Any]] = {
    "radius": {
        "constant": radii.Constant,
        "scaled": radii.Scaled,
        "r1": radii.R1,
        "r1-prime": radii.R1Prime,
        "r2": radii.R2,
        "r2-prime": radii.R2Prime,
        "r2-ridge": radii.R2Ridge,
        "r3": radii.R3,
        "r4": radii.R4,
        "r5": radii.R5,
    },
    "planner": {
        "gibbs": Gibbs,
        "argmax": Argmax,
        "best-of-n": BestOfN,
        "chi-squared": ChiSquared,
        "option-one": OptionOne,
        "nash": Nash,
        "pessimistic-nash": PessimisticNash,
        "unregularised-nash": UnregularisedNash,
    },
    "policy": {"reference": ReferencePolicy},
}


@dataclass(frozen=True, eq=False)
class Entry:
    """Something that a study can name.

    Attributes
    ----------
    name
        Its kind, as a study file writes it.
    role
        ``"world"``, ``"learner"``, or the role of a part.
    source
        ``"built in"``, the package that brings it, or its address.
    load
        Returns the class or function; other packages are imported only when asked for.
    text
        One line on what it is; None for the first line of its docstring.
    """

    name: str
    role: str
    source: str
    load: Callable[[], Any] = field(repr=False)
    text: str | None = None

    @cached_property
    def target(self) -> Callable[..., Any]:
        """The class or function; ``ValueError`` where it cannot be had."""
        try:
            found = self.load()
        # Whatever the code of another package raises on import, the answer names that package.
        except Exception as error:
            message = f"{self._named} cannot be loaded: {_why(self.name, error)}"
            raise ValueError(message) from error
        if not callable(found):
            message = f"{self._named} must be a class or a function; got {type(found).__name__}."
            raise ValueError(message)
        return found  # type: ignore[no-any-return]

    @property
    def _named(self) -> str:
        """Return role and name, and where it comes from unless the name says so."""
        source = "" if self.source == self.name else f" (from {self.source})"
        return f"{self.role} {self.name!r}{source}"

    @property
    def line(self) -> str:
        """What it is, in one line."""
        if self.text is not None:
            return self.text
        return (inspect.getdoc(self.target) or "").partition("\n")[0]

    @property
    def version(self) -> int:
        """Its ``VERSION``, 1 unless it has one: raised when its results change; part of keys."""
        value = getattr(self.target, "VERSION", 1)
        if not isinstance(value, int) or isinstance(value, bool):
            message = f"VERSION of {self.role} {self.name!r} must be a whole number; got {value!r}."
            raise ValueError(message)
        return value

    @property
    def problem(self) -> str:
        """Why it cannot be loaded; "" where it can."""
        try:
            _ = self.target, self.version
        except ValueError as error:
            return str(error)
        return ""


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _fixed(role: str, source: Mapping[str, tuple[Any, str]]) -> dict[str, Entry]:
    return {
        name: Entry(name, role, "built in", _constant(target), line)
        for name, (target, line) in source.items()
    }


@cache
def components(role: str) -> Mapping[str, Entry]:
    """Return what can fill a role, by name; empty for a role without names.

    Entries of other packages come after the built-in ones. A name that is taken already is left
    out: the first package, or this one, keeps it.
    """
    prefix = f"{role}: "
    if role == "world":
        found = _fixed(role, worlds_catalogue.CATALOGUE)
    elif role == "learner":
        own = {k: v for k, v in algorithms.CATALOGUE.items() if ": " not in k}
        found = _fixed(role, own)
    elif role in _PARTS:
        found = {
            name: Entry(name, role, "built in", _constant(target))
            for name, target in _PARTS[role].items()
        }
    else:
        parts = {
            k.removeprefix(prefix): v
            for k, v in algorithms.CATALOGUE.items()
            if k.startswith(prefix)
        }
        found = _fixed(role, parts)
    for point in sorted(_points(role), key=lambda p: (p.name, p.value)):
        source = point.dist.name if point.dist is not None else point.value
        found.setdefault(point.name, Entry(point.name, role, source, point.load))
    return MappingProxyType(found)


def _points(role: str) -> Iterable[EntryPoint]:
    return entry_points(group=GROUPS[role]) if role in GROUPS else ()


def learners() -> Mapping[str, Entry]:
    """Return the learners by name."""
    return components("learner")


def worlds() -> Mapping[str, Entry]:
    """Return the worlds by name."""
    return components("world")


def refresh() -> None:
    """Forget which packages are installed, so that the next question looks again."""
    components.cache_clear()
    _at.cache_clear()


def find(role: str, kind: str, known: Mapping[str, Entry] | None = None) -> Entry:
    """Return the entry of a kind.

    Parameters
    ----------
    role
        Its role.
    kind
        A name, or ``module:attribute``; modules are looked for in the working directory, too.
    known
        The names that are allowed, if not all of the role.

    Raises
    ------
    ValueError
        For a name that is unknown; it lists the known ones.
    """
    names = components(role) if known is None else known
    if kind in names:
        return names[kind]
    if _ADDRESS.fullmatch(kind):
        return _at(role, kind)
    listed = ", ".join(map(repr, names))
    choose = f"choose from {listed}, or write" if listed else "write"
    near = suggestion(kind, names)
    if _DOTTED.fullmatch(kind):
        module, _, name = kind.rpartition(".")
        near = f" Did you mean {f'{module}:{name}'!r}?"
    message = f"unknown {role} {kind!r}; {choose} 'module:attribute'.{near}"
    raise ValueError(message)


@cache
def _at(role: str, kind: str) -> Entry:
    return Entry(kind, role, kind, lambda: _attribute(kind))


def _attribute(address: str) -> Any:
    module, _, name = address.partition(":")
    try:
        value: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        here = str(Path.cwd())
        top = module.partition(".")[0]
        # The command has no working directory on its path, but a study may lie next to the code
        # that it names. At the end of the path, so that nothing is hidden by it.
        if error.name != top or here in sys.path:
            raise
        sys.path.append(here)
        importlib.invalidate_caches()
        value = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _why(address: str, error: Exception) -> str:
    """Return why something cannot be loaded, and what was perhaps meant."""
    said = f"{type(error).__name__}: {error}"
    module, _, name = address.partition(":")
    if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
        here = [path.stem for path in Path.cwd().glob("*.py")]
        near = difflib.get_close_matches(module, here, n=1)
        meant = f" Did you mean {f'{near[0]}:{name}'!r}?" if near else ""
        return f"{said}; looked in the working directory and in what is installed.{meant}"
    if isinstance(error, AttributeError) and module in sys.modules and name:
        public = [n for n in dir(sys.modules[module]) if not n.startswith("_")]
        near = difflib.get_close_matches(name, public, n=1)
        meant = f" Did you mean {f'{module}:{near[0]}'!r}?" if near else ""
        return f"{said}.{meant}"
    return said


def name_in(role: str, target: Any) -> str | None:
    """Return the name of a class or function in a role, or None where it has none there."""
    for name, entry in components(role).items():
        if entry.source == "built in" and entry.target is target:
            return name
    # Compared by address, so that no other package is imported for it.
    address = f"{getattr(target, '__module__', '')}:{getattr(target, '__qualname__', '')}"
    names = (point.name for point in _points(role) if point.value == address)
    return next((n for n in names if components(role)[n].source != "built in"), None)


def kind_of(target: Any, role: str) -> str:
    """Return the kind of a class or function: its name, or ``module:attribute``.

    Raises
    ------
    ValueError
        Where workers could not import it: made in a function, a script or a notebook.
    """
    if (known := name_in(role, target)) is not None:
        return known
    module, name = getattr(target, "__module__", ""), getattr(target, "__qualname__", "")
    if module == "__main__" and name and "<" not in name:
        message = (
            f"{name} is defined in a notebook or a script: write it into a file such as "
            f"{name.lower()}.py and import it. `rt.run` takes it as it is."
        )
        raise ValueError(message)
    if not module or "<" in name or not name:
        message = (
            f"{name or target!r} cannot be named in a study, because workers could not import it; "
            "move it to the top level of a module (a file of its own) and import it from there."
        )
        raise ValueError(message)
    return f"{module}:{name}"
