"""Python functions named by strings, and what tells named rewards apart; imports no torch."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_bridge.jobs.variants import variant_of
from llm_bridge.storage.content import content_hash
from rlhf_theory.errors import suggestion


def callable_of(spec: str) -> Callable[..., Any]:
    """Return a Python function named ``module:function``.

    ``ValueError`` if there is no such module or function.
    """
    module, _, name = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # at its end, so that nothing is hidden; as for kinds of study files
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        message = f"The function {spec!r} cannot be imported: {error}."
        raise ValueError(message) from error
    f = getattr(found, name, None)
    if not callable(f):
        names = [n for n in vars(found) if callable(getattr(found, n))]
        message = f"The module {module!r} has no function {name!r}." + suggestion(name, names)
        raise ValueError(message)
    result: Callable[..., Any] = f
    return result


def content_of(spec: str) -> str:
    """Return what tells a reward or a preference apart that `reward_of` takes.

    Equal contents give equal scores: a hash of the files of a folder, with the version that is
    asked for; of the source of the module of a function; a name on a hub stands for itself.
    ``ValueError`` for a function that cannot be imported.
    """
    name, variant = variant_of(spec)
    folder = Path(name).expanduser()
    if folder.is_dir():
        digest = hashlib.blake2b(repr(variant).encode(), digest_size=8)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            digest.update(f"{path.relative_to(folder)} {content_hash(path)} ".encode())
        return digest.hexdigest()
    if ":" not in name:
        return spec
    source = sys.modules[callable_of(name).__module__].__file__
    return f"{name} {content_hash(Path(source))}" if source else name
