"""What a study can name: by its name in the register, or by ``module:attribute``."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rlhf_theory.engine import modules
from rlhf_theory.errors import suggestion
from rlhf_theory.register import Entry, facts_of, found, points, roles
from rlhf_theory.register import refresh as refresh_register
from rlhf_theory.studies.former import KINDS

_ADDRESS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def refresh() -> None:
    """Forget which packages are installed, so that the next question looks again."""
    refresh_register()
    modules.refresh()
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
    names = found(role) if known is None else known
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
    if (role, kind) in KINDS:
        near = f" It was a name in format 1; write {KINDS[role, kind]!r}."
    message = f"unknown {role} {kind!r}; {choose} 'module:attribute'.{near}"
    raise ValueError(message)


def function(address: str) -> Entry:
    """Return the entry of a function of a user's, ``module:function``, which has no other name.

    It is looked for where learners and worlds are. ``ValueError`` for what is no address.
    """
    if not _ADDRESS.fullmatch(address):
        message = f"A function must be given as 'module:function'; got {address!r}."
        raise ValueError(message)
    return _at("function", address)


@cache
def _at(role: str, kind: str) -> Entry:
    return Entry(kind, role, kind, lambda: _attribute(kind), kind.partition(":")[0])


def _attribute(address: str) -> Any:
    """Return what an address names; what is raised says as a note what was perhaps meant."""
    module, _, name = address.partition(":")
    try:
        value = _module(module)
    except ModuleNotFoundError as error:
        if error.name == module.partition(".")[0]:
            here = [path.stem for path in Path.cwd().glob("*.py")]
            near = difflib.get_close_matches(module, here, n=1)
            meant = f" Did you mean {f'{near[0]}:{name}'!r}?" if near else ""
            said = f"; looked in the working directory and in what is installed.{meant}"
            error.add_note(said)
        raise
    try:
        for part in name.split("."):
            value = getattr(value, part)
    except AttributeError as error:
        public = [n for n in dir(sys.modules[module]) if not n.startswith("_")]
        near = difflib.get_close_matches(name, public, n=1)
        error.add_note(f". Did you mean {f'{module}:{near[0]}'!r}?" if near else ".")
        raise
    return value


def _module(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        here = str(Path.cwd())
        top = module.partition(".")[0]
        # The command has no working directory on its path, but a study may lie next to the code
        # that it names. At the end of the path, so that nothing is hidden by it.
        if error.name != top or here in sys.path:
            raise
        sys.path.append(here)
        importlib.invalidate_caches()
        return importlib.import_module(module)


def name_in(role: str, target: object) -> str | None:
    """Return the name of a class or function in a role, or None where it has none there."""
    facts = facts_of(target)
    if facts is not None and facts.role == role:
        entry = found(role).get(facts.name)
        if entry is not None and entry.thing is target:
            return facts.name
    # Compared by address, so that no other package is imported for it.
    address = f"{getattr(target, '__module__', '')}:{getattr(target, '__qualname__', '')}"
    names = (point.name for point in points(role) if point.value == address)
    return next((n for n in names if found(role)[n].source != "built in"), None)


def role_of(target: object) -> str:
    """Return the role in which a class or function has a name; ``"part"`` where it has none."""
    return next((role for role in roles() if name_in(role, target) is not None), "part")


def kind_of(target: object, role: str) -> str:
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
