"""Names of a package that are loaded when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Parameters
    ----------
    package
        Its name.
    homes
        Public names by the module that has them; a name may also be a module inside its home.
    """
    home = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> Any:
        """Load a public name; ``AttributeError`` for others."""
        if name not in home:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message)
        found = vars(importlib.import_module(home[name])).get(name)
        return importlib.import_module(f"{home[name]}.{name}") if found is None else found

    names = sorted(home)
    return load, lambda: list(names), names
