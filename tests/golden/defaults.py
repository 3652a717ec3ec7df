"""Defaults of everything public: published numbers change with them, so none changes by accident.

python -m tests.golden.defaults > tests/golden/defaults.json
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import sys
from dataclasses import MISSING, fields, is_dataclass
from types import FunctionType

import rlhf_theory


def defaults() -> dict[str, dict[str, str]]:
    """Return the defaults of public functions and classes of `rlhf_theory`, by module and name."""
    found: dict[str, dict[str, str]] = {}
    for module in pkgutil.walk_packages(rlhf_theory.__path__, "rlhf_theory."):
        if module.name.endswith("__main__"):
            continue
        home = importlib.import_module(module.name)
        for name, thing in vars(home).items():
            own = getattr(thing, "__module__", "") == module.name
            if name.startswith("_") or not own or not isinstance(thing, (type, FunctionType)):
                continue
            given = _defaults(thing)
            if given:
                found[f"{module.name}:{name}"] = given
    return dict(sorted(found.items()))


def _defaults(thing: object) -> dict[str, str]:
    try:
        parameters = inspect.signature(thing).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return {}
    made = {
        f.name: f.default_factory()
        for f in (fields(thing) if is_dataclass(thing) else ())
        if f.default_factory is not MISSING
    }
    shown = {
        name: re.sub(r" at 0x[0-9a-f]+", "", repr(made.get(name, p.default)))
        for name, p in parameters.items()
        if p.default is not inspect.Parameter.empty
    }
    # What is no plain value, such as a command's option, is pinned where it is used.
    plain = re.compile(r"[-\w.'\"()\[\]{}, :=<>/+]*$")
    return {name: text for name, text in shown.items() if len(text) < 400 and plain.match(text)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(defaults(), indent=1, ensure_ascii=False, sort_keys=True) + "\n")
