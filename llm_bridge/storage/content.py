"""Hashes of files and models: what results depend on is what these hold, not where they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

_MODEL_FILES = (".safetensors", ".bin", ".pt", ".json", ".model", ".txt", ".jinja")
_PART = 2**24


def content_hash(path: Path) -> str:
    """Return a hash of a file, 16 hex digits; ``FileNotFoundError`` where there is none."""
    if not path.is_file():
        message = f"There is no file {path}."
        raise FileNotFoundError(message)
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def model_content(name: str, revision: str | None = None) -> str:
    """Return a hash of the files that a model in a folder is loaded from, 16 hex digits.

    A model of a hub is its id and revision; these stand for one content where the revision is a
    commit.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return f"{name}@{revision or 'main'}"
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        if path.suffix in _MODEL_FILES and path.is_file():
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            with path.open("rb") as stream:
                while part := stream.read(_PART):
                    digest.update(part)
    return digest.hexdigest()
