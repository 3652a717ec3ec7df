"""Exceptions in words: in one line, at which line, in characters that every file takes."""

from __future__ import annotations

import errno
import shutil
import sysconfig
import traceback
from pathlib import Path

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

_NO_ROOM = 64 * 1024

_OURS = Path(__file__).parents[1]
_INSTALLED = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]


def is_full(number: int | None) -> bool:
    """Return whether the number of an `OSError` means a full disk or quota."""
    return number in _FULL


def fills_disk(error: BaseException, folder: Path) -> bool:
    """Return whether an exception means a full disk or quota.

    Libraries that write in other languages say so in words, or not at all: then no room where the
    file was to lie counts.
    """
    said: BaseException | None = error
    while said is not None:
        if isinstance(said, OSError) and is_full(said.errno):
            return True
        if f"os error {errno.ENOSPC}" in in_one_line(said):  # Rust's words
            return True
        said = said.__cause__ or said.__context__
    return folder.exists() and no_room(folder)


def no_room(folder: Path) -> bool:
    """Return whether a disk is so full that not even a small file can be written."""
    return shutil.disk_usage(folder).free < _NO_ROOM


def writable(text: str) -> str:
    r"""Return text that every file takes: half characters become what Python writes for them.

    File names and words of the command line that are no UTF-8 come as such halves (lone
    surrogates).

    Examples
    --------
    >>> print(writable("no such file: caf\udce9"))
    no such file: caf\udce9
    """
    return text.encode("utf-8", "backslashreplace").decode()


def in_one_line(error: BaseException) -> str:
    """Return an exception in one line; also one that cannot say what it is."""
    try:
        said = str(error)
    except Exception:
        said = "(its text cannot be had)"
    return writable(f"{type(error).__name__}: {said}")


def line_of(error: BaseException) -> str:
    """Return the innermost line of the user's own code, as ``FILE, line N``; empty for none."""
    # The methods that a dataclass writes for itself are in no file.
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
    others = [f for f in frames if not Path(f.filename).is_relative_to(_OURS)]
    own = [
        f for f in others if not any(Path(f.filename).is_relative_to(path) for path in _INSTALLED)
    ]
    # Nothing of the user's where settings of something built in were at fault.
    for found in (own, others, frames):
        if found:
            return f"{Path(found[-1].filename).name}, line {found[-1].lineno}"
    return ""
