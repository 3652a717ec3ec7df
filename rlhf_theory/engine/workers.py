"""Who computes, and with which versions: workers that have others than the run are refused."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from rlhf_theory.engine.exceptions import writable

_ALWAYS = ("python", "rlhf-theory", "numpy", "scipy", "array-api-compat")
_WHERE_LOADED = {
    "llm_bridge": "llm-bridge",
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "peft": "peft",
}
"""By module, what decides numbers only in runs that have it: elsewhere a worker may lack it."""

_MISSING = "missing"


@dataclass(frozen=True)
class Worker:
    """A process that computes.

    Attributes
    ----------
    host, process
        Its machine, and its number there.
    versions
        What decides numbers in it, by name.
    """

    host: str
    process: int
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"process {self.process} on {self.host}"


def this_worker(wanted: Iterable[str]) -> Worker:
    """Return the worker that this process is, with the versions of what is asked for."""
    found = {name: _version(name) for name in wanted}
    return Worker(writable(platform.node()), os.getpid(), found)


def deciding_versions() -> dict[str, str]:
    """Return the versions that decide numbers in this process.

    Python's without its last part, which mends mistakes; of this package a digest of its source
    too, since two checkouts can have one version; of the packages of language models those that
    this process has imported.
    """
    loaded = [name for module, name in _WHERE_LOADED.items() if module in sys.modules]
    return {name: _version(name) for name in (*_ALWAYS, *loaded)}


def difference(wanted: Mapping[str, str], worker: Worker) -> str:
    """Return what a worker has otherwise than the run, as a sentence; "" for nothing."""
    parts = [
        f"{name} {worker.versions.get(name, _MISSING)} where this run has {said}"
        for name, said in wanted.items()
        if worker.versions.get(name, _MISSING) != said
    ]
    if not parts:
        return ""
    return (
        f"The worker {worker.name} is refused, since its numbers could be others: it has "
        f"{', and '.join(parts)}. Give all workers the versions of this process, and start them "
        "anew; what is done is kept."
    )


@cache
def _version(name: str) -> str:
    if name == "python":
        return ".".join(platform.python_version_tuple()[:2])
    module = name.replace("-", "_")
    if module in ("rlhf_theory", "llm_bridge"):
        return f"{_installed('rlhf-theory')} (source {_digest(module)})"
    return _installed(name)


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _MISSING


def _digest(package: str) -> str:
    """Return a digest of the source of a package: names and texts of its files."""
    found = find_spec(package)
    content = hashlib.sha256()
    for place in () if found is None else found.submodule_search_locations or ():
        for path in sorted(Path(place).rglob("*.py")):
            content.update(f"{path.relative_to(place).as_posix()}\n".encode())
            content.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return content.hexdigest()[:12]
