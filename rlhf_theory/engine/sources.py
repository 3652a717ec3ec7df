"""The code that numbers come from, where it is a user's: its hash, read from files.

It covers the module that is named and whatever that imports outside of what is installed, however
far that goes. Packages that are installed count by their version, and things of this package by
their ``VERSION``. Data files, and modules whose names are made while the code runs, are not seen.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import SOURCE_SUFFIXES, ModuleSpec
from pathlib import Path
from typing import Protocol

from rlhf_theory.engine.imports import EVERYTHING, Import, Reading, read
from rlhf_theory.engine.modules import (
    OURS,
    Owner,
    folder_of,
    is_namespace,
    owner_of,
    spec_of,
    versions_of,
)
from rlhf_theory.engine.notebooks import in_notebook, notebook_readings
from rlhf_theory.store import canonical

ABSENT = "absent"
"""In the place of a digest: an import that finds nothing, such as one that may fail."""


class Named(Protocol):
    """An entry of the register, as far as its code is concerned."""

    @property
    def name(self) -> str:
        """Its name, or its address."""
        ...

    @property
    def title(self) -> str:
        """What messages call it."""
        ...

    @property
    def home(self) -> str:
        """The module that it comes from."""
        ...


@dataclass(frozen=True)
class Code:
    """The code of something.

    Attributes
    ----------
    root
        The module that is named; in a notebook, which is no module of a file, what is named there.
    parts
        What the code is made of: digests of modules, versions of packages, ``VERSION`` of what
        is named of this package.
    stale
        Modules whose files are no longer those that this process has imported.
    """

    root: str
    parts: Mapping[str, str]
    stale: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What stands for it in specs and keys: the root and sixteen hexadecimal digits."""
        return f"{self.root} {hashlib.sha256(canonical(self.parts).encode()).hexdigest()[:16]}"


class OtherCodeError(ValueError):
    """The code here is not the code that results were to be computed with."""


def entry_code(entry: Named) -> str | None:
    """Return the code of an entry; None for what comes from this package.

    Raises
    ------
    ValueError
        Where it has no source, or its file is no longer what this process has imported.
    """
    return module_code(entry.home, entry.name, entry.title)


def module_code(home: str, name: str, title: str) -> str | None:
    """Return the code of a module; None for one of this package.

    Parameters
    ----------
    home
        The module.
    name
        What is looked for in it; in a notebook just that, and what it uses, is its code.
    title
        What messages call it.

    Raises
    ------
    ValueError
        As `entry_code`.
    """
    root = f"__main__:{name.rpartition(':')[2]}" if home == "__main__" and in_notebook() else home
    if root.partition(".")[0] in OURS:
        return None
    try:
        code = code_of(root)
    except ValueError as error:
        message = f"{title} cannot be used: {error}"
        raise ValueError(message) from error
    if code.stale:
        message = (
            f"{title} cannot be used: {', '.join(code.stale)} has changed since this process "
            "imported it. Start Python anew, or reload it (importlib.reload)."
        )
        raise ValueError(message)
    return code.text


def check_code(wanted: str) -> None:
    """Raise `OtherCodeError` unless the code in this process is the one that a spec says."""
    root = wanted.rpartition(" ")[0]
    try:
        here = code_of(root).text
    except ValueError as error:
        message = f"The code {wanted!r} is not here: {error}"
        raise OtherCodeError(message) from error
    if here != wanted:
        message = (
            f"The code here is {here!r}, and results of {wanted!r} are asked for; those of the two "
            "do not belong together."
        )
        raise OtherCodeError(message)


def code_of(root: str, *, on_disk: bool = False) -> Code:
    """Return the code of a module and of what it imports.

    A module that this process has imported counts as it was when it was first looked at: editing a
    file does not change what runs here.

    Parameters
    ----------
    root
        The module; ``__main__:NAME`` in a notebook.
    on_disk
        Look at the files whatever this process has imported.

    Raises
    ------
    ValueError
        Where it, or a module that it imports, cannot be found or has no source.
    """
    walk = _Walk(on_disk)
    if ":" in root:
        for name, reading in notebook_readings(root.partition(":")[2]).items():
            walk.take(name, reading, near="")
    elif walk.follow(root) is None:
        message = f"There is no module {root}."
        raise ValueError(message)
    return Code(root, dict(sorted(walk.parts.items())), tuple(sorted(walk.stale)))


class _Walk:
    """From a module to all that it imports."""

    def __init__(self, on_disk: bool) -> None:
        self.on_disk = on_disk
        self.parts: dict[str, str] = {}
        self.stale: list[str] = []

    def follow(self, name: str, near: str = "") -> Owner | None:
        """Take a module with the packages that it lies in; return whose it is, None for nobody's.

        Parameters
        ----------
        name
            Its full name.
        near
            Folder of the file that asks for it.
        """
        parts = name.split(".")
        for k in range(1, len(parts) + 1):
            spec = spec_of(".".join(parts[:k]), (near,) if near else ())
            if spec is None:
                return None
            if is_namespace(spec):
                continue
            owner = owner_of(spec)
            if owner == "installed":
                self.parts |= versions_of(spec.name)
            if owner != "user":
                return owner
            self._module(spec)
        return "user"

    def _module(self, spec: ModuleSpec) -> None:
        if spec.name in self.parts:
            return
        reading, stale = _reading(spec, on_disk=self.on_disk)
        if stale:
            self.stale.append(spec.name)
        self.take(spec.name, reading, folder_of(spec))

    def take(self, name: str, reading: Reading, near: str) -> None:
        """Take a file, and follow what it imports."""
        self.parts[name] = reading.digest
        for ours in reading.ours:
            if (version := _version(ours)) != 1:  # what has none is version 1
                self.parts[ours] = str(version)
        for one in reading.imports:
            owner = self.follow(one.module, near)
            if owner is None:
                self.parts[one.module] = ABSENT
            for inside in _inside(one, near) if owner == "user" else ():
                self.follow(f"{one.module}.{inside}", near)  # or it is no module


def _inside(one: Import, near: str) -> tuple[str, ...]:
    if EVERYTHING not in one.names:
        return one.names
    spec = spec_of(one.module, (near,) if near else ())
    places = () if spec is None else spec.submodule_search_locations or ()
    return tuple(part.name for part in pkgutil.iter_modules(list(places)))


@cache
def _version(dotted: str) -> int:
    """Return the ``VERSION`` of something of this package, 1 unless it has one."""
    first, *rest = dotted.split(".")
    thing = importlib.import_module(first)
    for part in rest:
        try:
            thing = getattr(thing, part)
        except AttributeError:
            inner = f"{getattr(thing, '__name__', '')}.{part}"
            if inner not in sys.modules and not _have_versions(first):
                return 1  # not imported in vain: it may take half a minute
            try:
                thing = importlib.import_module(inner)
            except (ImportError, TypeError, ValueError):
                return 1
    version = getattr(thing, "VERSION", 1)
    return version if isinstance(version, int) else 1


@cache
def _have_versions(package: str) -> bool:
    """Return whether a ``VERSION`` is given anywhere in the files of a package."""
    spec = spec_of(package)
    places = () if spec is None else spec.submodule_search_locations or ()
    files = (path for place in places for path in Path(place).rglob("*.py"))
    return any(re.search(rb"^\s*VERSION\b[^=\n]*=", f.read_bytes(), re.M) for f in files)


# ----------------------------------------------------------------------------- files

_SEEN: dict[str, tuple[ModuleSpec, Reading]] = {}
"""What imported modules were like when they were first looked at; a reload makes a new spec."""

_FILES: dict[str, tuple[tuple[int, ...], Reading]] = {}
"""By path: what tells another content without opening the file, and what was read."""


def _reading(spec: ModuleSpec, *, on_disk: bool) -> tuple[Reading, bool]:
    """Return the reading of a module, and whether its file is another one by now."""
    now = _read(spec)
    if on_disk or getattr(sys.modules.get(spec.name), "__spec__", None) is not spec:
        return now, False
    before, seen = _SEEN.setdefault(spec.name, (spec, now))
    if before is not spec:
        _SEEN[spec.name] = (spec, now)
        return now, False
    return seen, seen.digest != now.digest


def _read(spec: ModuleSpec) -> Reading:
    package, path = spec.submodule_search_locations is not None, spec.origin or ""
    if path.endswith(tuple(SOURCE_SUFFIXES)) and os.path.isfile(path):  # noqa: PTH113 (is hot)
        state = os.stat(path)  # noqa: PTH116 (is hot)
        mark = (state.st_mtime_ns, state.st_size, state.st_ino, state.st_dev)
        known = _FILES.get(path)
        if known is None or known[0] != mark:
            with open(path, "rb") as file:  # noqa: PTH123
                known = (mark, read(file.read(), spec.name, package=package))
            _FILES[path] = known
        return known[1]
    # Archives have the source, if they have it, without having a file.
    ask = getattr(spec.loader, "get_source", None)
    try:
        text = None if ask is None else ask(spec.name)
    except (ImportError, OSError):
        text = None
    if text is None:
        message = (
            f"the module {spec.name} has no source that can be read ({path or 'no file'}), so "
            "results could not be told from those of other code. Give its .py file, or install "
            "it as a package, which counts by its version."
        )
        raise ValueError(message)
    return read(text.encode(), spec.name, package=package)
