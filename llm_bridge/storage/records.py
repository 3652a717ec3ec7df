"""Records beside files: plain data with digests of the files, written last and checked on reading.

A file that is not what was written is set aside under another name, so that nothing of it is lost,
and made again by the run that makes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from llm_bridge.storage.content import content_hash
from rlhf_theory.store import DamagedError, DamageWarning, Json, read_json, seal, unseal, write_json

FORMAT = 2
"""Of records; those of format 1 had no digests."""

DAMAGED = ".damaged"
"""Ends the names of what was set aside."""


class FormerRecordError(ValueError):
    """A record is of a former format."""


def write_record(path: Path, content: Mapping[str, object], files: Iterable[str] = ()) -> None:
    """Write plain data with their digest and those of files that lie beside or below.

    Parameters
    ----------
    path
        Where to.
    content
        The data; no entries ``format``, ``files`` and ``digest``.
    files
        Names of files, or of folders with all that they hold, as seen from the record's folder.
        They are complete.
    """
    here, named = path.parent, [path.parent / name for name in files]
    below = [f for n in named if n.is_dir() for f in n.rglob("*") if f.is_file()]
    every = sorted({*below, *(n for n in named if not n.is_dir())})
    digests = {f.relative_to(here).as_posix(): content_hash(f) for f in every}
    write_json(path, seal({**content, "format": FORMAT, "files": digests}))


def read_record(path: Path) -> Json:
    """Return the data of a record, once it and all its files are known to be what was written.

    Raises
    ------
    FileNotFoundError
        If there is no record.
    DamagedError
        If it, or a file that it names, is damaged or missing; says which.
    FormerRecordError
        If it is of format 1; says what to do.
    """
    if not path.is_file():
        message = f"There is no file {path}."
        raise FileNotFoundError(message)
    there = read_json(path)
    if there is not None and "digest" not in there and there.get("format", 1) == 1:
        message = (
            f"{path} must be of format {FORMAT}, which tells damage; it is of format 1. Make it "
            "anew in another folder, or remove this one."
        )
        raise FormerRecordError(message)
    try:
        content = unseal(there or {})
        files = content.pop("files")
    except (DamagedError, KeyError) as error:
        message = f"{path} is damaged: it is not what was written"
        raise DamagedError(message) from error
    for name, digest in files.items():
        file = path.parent / name
        if not file.is_file():
            message = f"{file} is missing, which {path.name} names"
            raise DamagedError(message)
        if content_hash(file) != digest:
            message = f"{file} is damaged: it is not what was written"
            raise DamagedError(message)
    return content


def found_whole(path: Path, *beside: Path) -> Json | None:
    """Return the data of a record; None where there is none, or what is there is set aside.

    Parameters
    ----------
    path
        The record.
    beside
        What is set aside with it where it is damaged; the folder that it lies in, for all of that.

    Raises
    ------
    FormerRecordError
        See `read_record`.
    """
    try:
        return read_record(path)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        set_aside(str(error), *beside, path)
        return None


def clear(path: Path, *beside: Path) -> None:
    """Remove a record whose files are about to be written anew; see `found_whole` for damage."""
    with suppress(FormerRecordError):
        found_whole(path, *beside)
    path.unlink(missing_ok=True)


def set_aside(why: str, *paths: Path) -> None:
    """Give files and folders names that nobody reads, with a `DamageWarning` that says so."""
    names = []
    for path in filter(Path.exists, paths):
        free = path.with_name(path.name + DAMAGED)
        k = 1
        while free.exists():
            k += 1
            free = path.with_name(f"{path.name}.{k}{DAMAGED}")
        path.rename(free)
        names.append(free.name)
    message = f"{why}. It was set aside as {', '.join(names)} and is made anew."
    warnings.warn(message, DamageWarning, stacklevel=3)
