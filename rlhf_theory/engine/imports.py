"""What a file of Python imports, read from its syntax tree: nothing of it is run."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import resolve_name

from rlhf_theory.engine.modules import OURS

EVERYTHING = "*"
"""Among the names of an import: whatever lies in the package."""

_CALLS = ("import_module", "__import__")


@dataclass(frozen=True, order=True)
class Import:
    """One import.

    Attributes
    ----------
    module
        The module, by its full name.
    names
        What is asked of it: modules in it, or whatever it defines.
    """

    module: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What is known of a file.

    Attributes
    ----------
    digest
        Of its text; how lines end says nothing, all else counts, comments too. A syntax tree would
        forgive those, and be another one for another Python.
    imports
        What it imports, anywhere in it.
    ours
        What it names of this package: dotted names.
    """

    digest: str
    imports: tuple[Import, ...]
    ours: tuple[str, ...]


@lru_cache(maxsize=4096)
def read(content: bytes, module: str, *, package: bool) -> Reading:
    """Read a file.

    Parameters
    ----------
    content
        The file, in whatever encoding it says.
    module
        Full name of its module, for relative imports.
    package
        Whether it is the ``__init__`` of a package.
    """
    digest = hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()[:16]
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return Reading(digest, (), ())  # nobody can import it either
    return Reading(digest, imports_of(tree, module, package=package), _named(tree))


def imports_of(tree: ast.AST, module: str, *, package: bool) -> tuple[Import, ...]:
    """Return the imports in a tree, also inside of functions; others as in `read`."""
    home = module if package else module.rpartition(".")[0]
    found = {one for node in ast.walk(tree) for one in _imports(node, home)}
    # What such a package gives out on request lies in it, under names that no tree tells.
    if package and any(
        isinstance(n, ast.FunctionDef) and n.name == "__getattr__" for n in _top(tree)
    ):
        found.add(Import(module, (EVERYTHING,)))
    return tuple(sorted(found))


def _top(tree: ast.AST) -> list[ast.stmt]:
    return tree.body if isinstance(tree, ast.Module) else []


def _imports(node: ast.AST, home: str) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        name = _full("." * node.level + (node.module or ""), home)
        if name:
            yield Import(name, tuple(alias.name for alias in node.names))
    elif isinstance(node, ast.Call) and node.args:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else _name(node.func)
        first = node.args[0]
        if called in _CALLS and isinstance(first, ast.Constant) and isinstance(first.value, str):
            name = _full(first.value, home)
            if name:
                yield Import(name)


def _full(name: str, home: str) -> str:
    """Return the full name of what is imported from a package; "" where it points out of it."""
    try:
        return resolve_name(name, home)
    except ImportError:
        return ""


def _name(node: ast.AST) -> str:
    """Return a dotted name as it is written; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _name(node.value)):
        return f"{before}.{node.attr}"
    return ""


def _named(tree: ast.AST) -> tuple[str, ...]:
    """Return what a tree names of this package, by imports and as attributes of what it imports."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                aliases[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    aliases = {k: v for k, v in aliases.items() if v.partition(".")[0] in OURS}
    found = set(aliases.values())
    for name in filter(None, map(_name, ast.walk(tree))):
        first, dot, rest = name.partition(".")
        if dot and first in aliases:
            found.add(f"{aliases[first]}.{rest}")
    return tuple(sorted(found))
