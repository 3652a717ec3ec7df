"""Hashes of files and models: what results depend on is what these hold, not where they are."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

_MODEL_FILES = (".safetensors", ".bin", ".pt", ".json", ".model", ".txt", ".jinja")
_PART = 2**24

_KNOWN: dict[tuple[str, int, int, int, int], str] = {}
"""Hashes by path, inode, size and times: in one process no file of gigabytes is hashed twice."""

_SETTLED_SECONDS = 2.0
"""A file that changed just now may change again within the resolution of its times."""


def content_hash(path: Path) -> str:
    """Return a hash of a file, 16 hex digits; ``FileNotFoundError`` where there is none."""
    if not path.is_file():
        message = f"There is no file {path}."
        raise FileNotFoundError(message)
    state = path.stat()
    times = (state.st_mtime_ns, state.st_ctime_ns)
    key = (os.path.realpath(path), state.st_ino, state.st_size, *times)
    if key not in _KNOWN:
        found = _hashed(path)
        if time.time_ns() - max(times) < _SETTLED_SECONDS * 1e9:
            return found
        _KNOWN[key] = found
    return _KNOWN[key]


def _hashed(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as stream:
        while part := stream.read(_PART):
            digest.update(part)
    return digest.hexdigest()


def model_files(folder: Path) -> list[Path]:
    """Return the files that a model in a folder is loaded from, in the order of their names."""
    return [p for p in sorted(folder.iterdir()) if p.suffix in _MODEL_FILES and p.is_file()]


def model_content(name: str, revision: str | None = None) -> str:
    """Return a hash of the files that a model in a folder is loaded from, 16 hex digits.

    A model of a hub is its id and revision; these stand for one content where the revision is a
    commit.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return f"{name}@{revision or 'main'}"
    digest = hashlib.blake2b(digest_size=8)
    for path in model_files(folder):
        digest.update(f"{path.name} {content_hash(path)} ".encode())
    return digest.hexdigest()
