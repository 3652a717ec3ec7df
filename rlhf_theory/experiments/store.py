"""Results on disk: files that are never half-written, folders that belong to one study."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["claim_folder", "folder_study", "read_json", "replaced", "write_atomic", "write_json"]

MARKER = "study.json"
"""The file by which a folder is known as ours; it says which study it holds."""


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder to write to, and the file its own name in the end.

    A reader sees the old file or the new one, also when the writer is killed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file as a whole; see `replaced`."""
    with replaced(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain data as JSON, atomically; ``ValueError`` for NaN, which JSON does not know."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the table in a JSON file, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def folder_study(out: Path) -> dict[str, Any] | None:
    """Return what the marker of a folder says, or None where there is no readable marker."""
    return read_json(out / MARKER)


def claim_folder(out: Path, study: Mapping[str, Any]) -> None:
    """Make ``out`` the folder of ``study``, or find that it is already.

    Parameters
    ----------
    out
        Folder; made if it is missing.
    study
        What identifies the study: plain data, compared with the marker of the folder.

    Raises
    ------
    ValueError
        If ``out`` is a file, or holds anything else than this study. Nothing is changed then.
    """
    remedy = "Choose another folder with --out, or remove this one."
    if out.exists() and not out.is_dir():
        message = f"The output {out} must be a folder; it is a file. {remedy}"
        raise ValueError(message)
    if out.is_dir() and any(out.iterdir()):
        _check_marker(out, study, remedy)
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARKER, study)


def _check_marker(out: Path, study: Mapping[str, Any], remedy: str) -> None:
    there = folder_study(out)
    if there is None:
        some = ", ".join(sorted(p.name for p in out.iterdir())[:3])
        message = (
            f"The output folder {out} must be empty or hold this study; "
            f"it holds other files ({some}). {remedy}"
        )
        raise ValueError(message)
    # Through JSON, so that tuples and lists compare equal.
    wanted = json.loads(json.dumps(study))
    differing = [k for k in sorted({*wanted, *there}) if wanted.get(k) != there.get(k)]
    if differing:
        pairs = [f"{k}={wanted.get(k)} (the folder has {there.get(k)})" for k in differing]
        message = (
            f"The output folder {out} must be empty or hold this study; "
            f"it holds another one: this has {', '.join(pairs)}. {remedy}"
        )
        raise ValueError(message)
