"""The lock of a study's folder: runs share it, and who tidies up has it alone.

It says whether anybody runs, no more: nothing waits long for it, and nothing goes wrong without it,
where a file system or an operating system has no such locks. The system frees it when its holder
dies.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_TRIES, _PAUSE = 100, 0.05
"""How long a run waits for somebody who tidies up; that takes a second or two."""


@contextmanager
def running(lock: Path) -> Iterator[None]:
    """Let others know that somebody runs."""
    with ExitStack() as stack:
        with suppress(OSError):
            lock.parent.mkdir(exist_ok=True)
            stream = stack.enter_context(lock.open("ab"))
            for _ in range(_TRIES):
                if _take(stream, alone=False):
                    break
                time.sleep(_PAUSE)
        yield


@contextmanager
def alone(lock: Path) -> Iterator[bool]:
    """Keep others from starting, for a moment; False where somebody runs, or it cannot be known."""
    with ExitStack() as stack:
        mine = False
        with suppress(OSError):
            mine = _take(stack.enter_context(lock.open("ab")), alone=True)
        yield mine


def _take(stream: IO[bytes], *, alone: bool) -> bool:
    if sys.platform == "win32":
        return not alone
    try:
        fcntl.flock(stream, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
