"""The source of what a notebook defines: of functions and classes, and of what they use there."""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import sys
from collections.abc import Mapping
from textwrap import dedent
from types import FunctionType, ModuleType

from rlhf_theory.engine.imports import Import, Reading, read

_PLAIN = (int, float, complex, str, bytes, bool, tuple, frozenset, type(None))


def in_notebook() -> bool:
    """Return whether ``__main__`` has no file: a notebook, or a prompt."""
    return getattr(sys.modules["__main__"], "__file__", None) is None


def notebook_readings(name: str) -> Mapping[str, Reading]:
    """Return what is known of something in ``__main__``, and of what it uses of ``__main__``.

    Functions and classes count by their source, numbers and text by their value; modules that they
    use are imports of theirs. Other objects are not looked at.

    Raises
    ------
    ValueError
        If there is no such thing, or no source of it.
    """
    known: dict[str, object] = vars(sys.modules["__main__"])
    found: dict[str, Reading] = {}
    todo = [name.partition(".")[0]]
    if todo[0] not in known:
        message = f"nothing is called {todo[0]} in the notebook."
        raise ValueError(message)
    while todo:
        name = todo.pop()
        place, thing = f"__main__:{name}", known[name]
        if place in found:
            continue
        reading, used = _looked_at(name, thing)
        if reading is not None:
            found[place] = reading
        todo += [other for other in sorted(used) if other in known]
    return found


def _looked_at(name: str, thing: object) -> tuple[Reading | None, set[str]]:
    """Return what is known of one thing, and the names that its source has."""
    if isinstance(thing, ModuleType):
        return Reading("", (Import(thing.__name__),), ()), set()
    if isinstance(thing, _PLAIN):
        return Reading(hashlib.sha256(repr(thing).encode()).hexdigest()[:16], (), ()), set()
    if not isinstance(thing, type | FunctionType):
        return None, set()
    if thing.__module__ != "__main__":
        return Reading("", (Import(thing.__module__),), ()), set()
    text = dedent(_source(name, thing))
    used = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
    return read(text.encode(), "__main__", package=False), used - {name}


def _source(name: str, thing: type | FunctionType) -> str:
    try:
        if isinstance(thing, FunctionType):
            return inspect.getsource(thing)
        # Python looks for a class in the file of its module, which a notebook has not; its
        # functions know the cell.
        cells = [f.__code__.co_filename for f in vars(thing).values() if inspect.isfunction(f)]
        for cell in cells:
            text = "".join(linecache.getlines(cell))
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef) and node.name == thing.__name__:
                    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    except (OSError, SyntaxError, TypeError):
        pass
    message = (
        f"there is no source of {name}, which is no module's: write it into a file such as "
        f"{name.lower()}.py, and name it there."
    )
    raise ValueError(message)
