"""Results on disk: files that are never half-written, folders that belong to one study."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
"""A table as JSON gives it back."""

MARKER = "study.json"
"""The file by which a folder is known as ours; it says which study it holds."""

_TRIES, _PAUSE = 20, 0.05
"""How long to wait for another process that is just claiming the folder."""


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


def write_atomic(path: Path, content: bytes) -> os.stat_result:
    """Write a file as a whole, see `replaced`; return the state of the very file that was written.

    Whoever looks at the path afterwards may meet the file of somebody else.
    """
    with replaced(path) as temporary:
        temporary.write_bytes(content)
        return temporary.stat()


def canonical(value: object) -> str:
    """Return plain data as text that equal data share; ``ValueError`` for NaN and infinity."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write plain data as JSON, atomically; ``ValueError`` for NaN, which JSON does not know."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Json | None:
    """Return the table in a JSON file, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


class DamagedError(ValueError):
    """What is stored is not what was written."""


class DamageWarning(UserWarning):
    """Something that is stored is not what was written, and is made anew."""


def seal(content: Mapping[str, object]) -> Json:
    """Return plain data with a ``digest`` of all of it, which `unseal` checks.

    Examples
    --------
    >>> unseal(seal({"a": [1, 2.5]}))
    {'a': [1, 2.5]}
    """
    return {**content, "digest": _digest(content)}


def unseal(content: Mapping[str, object]) -> Json:
    """Return what was sealed; `DamagedError` where it has changed, or was not sealed."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    if content.get("digest") != _digest(rest):
        message = f"its digest must be {_digest(rest)}; it says {content.get('digest')}"
        raise DamagedError(message)
    return rest


def _digest(content: Mapping[str, object]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # Damage may leave what no encoding knows.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def folder_study(out: Path) -> Json | None:
    """Return what the marker of a folder says, or None where there is no readable marker."""
    return read_json(out / MARKER)


@dataclass(frozen=True)
class Claim:
    """The words in which a folder is refused that holds something else.

    Attributes
    ----------
    what
        What the folder is.
    content
        What it must be or hold.
    same
        What it must be or hold where it is one of ours, and what it is instead.
    remedy
        What to do.
    """

    what: str = "output"
    content: str = "be empty or hold this study"
    same: str = "be empty or hold this study; it holds another one"
    remedy: str = "Choose another folder with --out, or remove this one."


def claim_folder(
    out: Path, study: Mapping[str, object], words: Claim | None = None, *, shared: bool = False
) -> None:
    """Make ``out`` the folder of ``study``, or find that it is already.

    Parameters
    ----------
    out
        Folder; made if it is missing.
    study
        What identifies the study: plain data, compared with the marker of the folder.
    words
        For refusals; None for the output of a study.
    shared
        Several processes may claim it at once: it is made in one step, never seen without its
        marker. An empty folder is replaced then, so it must not be the current one.

    Raises
    ------
    ValueError
        If ``out`` is a file, or holds anything else than this study. Nothing is changed then.
    """
    words = Claim() if words is None else words
    if out.exists() and not out.is_dir():
        message = f"The {words.what} {out} must be a folder; it is a file. {words.remedy}"
        raise ValueError(message)
    if out.is_dir() and not shared:
        _wait_for_claim(out)
    if not out.is_dir() or not any(out.iterdir()):
        if not shared:
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / MARKER, study)
            return
        _make_in_one_step(out, study)
    _check_marker(out, study, words)


def unclaimed(folder: Path) -> bool:
    """Return whether a folder is empty, or another process has just begun to claim it."""
    return folder.is_dir() and all(p.name.startswith(f".{MARKER}.") for p in folder.iterdir())


def _wait_for_claim(folder: Path) -> None:
    """Let another process end its claim, or remove what one that was killed at it has left."""
    for _ in range(_TRIES):
        if not (unclaimed(folder) and any(folder.iterdir())):
            return
        time.sleep(_PAUSE)
    for temporary in folder.glob(f".{MARKER}.*"):
        temporary.unlink(missing_ok=True)


def _make_in_one_step(folder: Path, marker: Mapping[str, object]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp")
    temporary.mkdir()
    try:
        write_json(temporary / MARKER, marker)
        # Takes the place of an empty folder; fails where another process was faster.
        with suppress(OSError):
            temporary.rename(folder)
    finally:
        if temporary.is_dir():
            (temporary / MARKER).unlink(missing_ok=True)
            temporary.rmdir()


def _check_marker(out: Path, study: Mapping[str, object], words: Claim) -> None:
    there = folder_study(out)
    if there is None:
        some = ", ".join(sorted(p.name for p in out.iterdir())[:3])
        message = (
            f"The {words.what} folder {out} must {words.content}; it holds other files ({some}). "
            f"{words.remedy}"
        )
        raise ValueError(message)
    # Through JSON, so that tuples and lists compare equal.
    wanted = json.loads(json.dumps(study))
    differing = [k for k in sorted({*wanted, *there}) if wanted.get(k) != there.get(k)]
    if differing:
        pairs = [f"{k}={wanted.get(k)} (the folder has {there.get(k)})" for k in differing]
        message = (
            f"The {words.what} folder {out} must {words.same}: this has {', '.join(pairs)}. "
            f"{words.remedy}"
        )
        raise ValueError(message)
