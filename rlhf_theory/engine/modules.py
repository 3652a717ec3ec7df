"""Where modules of Python lie and whose they are, found without importing them."""

from __future__ import annotations

import pkgutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Literal

OURS = ("rlhf_theory", "llm_bridge")
"""Packages whose things say by ``VERSION`` when their results change."""

Owner = Literal["python", "ours", "installed", "user"]

_INSTALLED = {"site-packages", "dist-packages"}


def spec_of(name: str, near: Iterable[str] = ()) -> ModuleSpec | None:
    """Return the spec of a module; None where there is none.

    Parameters
    ----------
    name
        Its full name.
    near
        Folders to look in last, before the working directory: people put the folder of a file on
        the path while the file is imported.
    """
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, ModuleSpec):
        return loaded  # what runs, even if the path has changed since
    if name == "__main__":
        return _script()
    if name in sys.modules:
        return ModuleSpec(name, None)  # made by hand, from no file
    if parent := name.rpartition(".")[0]:
        above = spec_of(parent, near)
        places = None if above is None else above.submodule_search_locations
        return None if places is None else _in(name, places)
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = None if find is None else find(name, None)
        if isinstance(spec, ModuleSpec):
            return spec
    return _in(name, [*near, str(Path.cwd())])


@cache
def _script() -> ModuleSpec | None:
    """Return a spec of the script that runs, which has none of its own; None for a notebook."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return None if file is None else spec_from_file_location("__main__", file)


def _in(name: str, places: Iterable[str]) -> ModuleSpec | None:
    """Return the spec of a module in some folders or archives, as Python's own finder would.

    That one asks the parent of a namespace package for its path, which has to be imported then.
    """
    portions: list[str] = []
    for place in places:
        finder = pkgutil.get_importer(place)
        spec = None if finder is None else finder.find_spec(name)
        if spec is not None and spec.loader is not None:
            return spec
        portions += [] if spec is None else spec.submodule_search_locations or []
    if not portions:
        return None
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def is_namespace(spec: ModuleSpec) -> bool:
    """Return whether it is a package of many folders, without a file of its own."""
    return spec.origin is None and spec.submodule_search_locations is not None


def folder_of(spec: ModuleSpec) -> str:
    """Return the folder (or archive) in which a module lies; "" where it lies in none."""
    return "" if not spec.has_location or spec.origin is None else str(Path(spec.origin).parent)


def owner_of(spec: ModuleSpec) -> Owner:
    """Return whose a module is; the user's is what is neither installed nor Python's."""
    if spec.name.partition(".")[0] in OURS:
        return "ours"
    if spec.origin in ("built-in", "frozen"):
        return "python"
    if not spec.has_location or spec.origin is None:
        return "user"
    return _owner(spec.name, spec.origin, spec.submodule_search_locations is not None)


@cache
def _owner(name: str, origin: str, package: bool) -> Owner:
    # A package that is only linked to from where packages lie is somebody's checkout. The files in
    # one say nothing: some installers link each to what they have unpacked elsewhere.
    place = Path(origin).parent.resolve() if package else Path(origin).resolve()
    if _INSTALLED & set(place.parts):
        return "installed" if versions_of(name) else "user"
    return "python" if any(place.is_relative_to(p) for p in _of_python()) else "user"


@cache
def _of_python() -> tuple[Path, ...]:
    return tuple({Path(sysconfig.get_path(p)).resolve() for p in ("stdlib", "platstdlib")})


def versions_of(name: str) -> Mapping[str, str]:
    """Return the versions of the packages that bring a module, by name of the package."""
    return _versions(name.partition(".")[0])


@cache
def _versions(top: str) -> Mapping[str, str]:
    try:
        return {top: version(top)}
    except PackageNotFoundError:  # as of ``sklearn``, which scikit-learn brings
        return {p: version(p) for p in sorted(set(_packages().get(top, ())))}


@cache
def _packages() -> Mapping[str, list[str]]:
    return packages_distributions()  # reads the lists of files of all that is installed


def refresh() -> None:
    """Forget which packages are installed."""
    for remembers in (_owner, _versions, _packages):
        remembers.cache_clear()
