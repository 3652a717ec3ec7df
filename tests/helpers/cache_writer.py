"""Writers of a row cache that share it with others, or are killed; run as a program of its own.

    python cache_writer.py append FOLDER FIRST STOP STEP     append rows first .. stop, once
                                                             there is a file `go` beside FOLDER
    python cache_writer.py killed FOLDER TIMES               kill a writer TIMES times and check
    python cache_writer.py full FOLDER ROWS                  a file may not grow past ROWS rows

The last line of output is the result. A program of its own, because forking a test process that
has threads is not safe.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from llm_bridge.storage.cache import RowCache, row_key
from rlhf_theory.randomness import Key

WIDTH = 1000


def open_cache(folder: Path, dtype: str = "float32") -> RowCache:
    """Return the cache that all writers share."""
    return RowCache(folder, {"model": "counting"}, width=WIDTH, n_exact=1, dtype=dtype)


def key_of(i: int) -> bytes:
    """Return the key of row ``i``."""
    return row_key((i, i + 1), (7,))


def rows_of(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that belong to the keys: no two of them equal in any place."""
    return (index[:, None] + np.arange(WIDTH)) / np.float32(256), np.cos(index[:, None])


def add(cache: RowCache, index: np.ndarray) -> int:
    """Append rows by their numbers."""
    return cache.append([key_of(int(i)) for i in index], *rows_of(index))


def wrong(cache: RowCache, index: np.ndarray) -> tuple[int, int]:
    """Return how many rows are there, and how many of those are not what was written."""
    found, rows, exact = cache.lookup([key_of(int(i)) for i in index])
    want_rows, want_exact = rows_of(index)
    same = (rows == want_rows.astype(rows.dtype)).all(axis=1) & (exact == want_exact).all(axis=1)
    return int(found.sum()), int((found & ~same).sum())


def append(folder: Path, first: int, stop: int, step: int) -> str:
    """Wait for a sign, append a few rows at a time, shuffled; print how many were new."""
    order = np.argsort(Key(seed=first).uniform_numpy(1, stop - first)[0]) + first
    print("ready", flush=True)  # noqa: T201
    while not folder.with_name("go").exists():
        time.sleep(0.001)
    cache, added = open_cache(folder), 0
    for start in range(0, len(order), step):
        added += add(cache, order[start : start + step])
    return str(added)


def killed(folder: Path, times: int) -> str:
    """Kill a writer at a random moment, again and again; print rows kept and tails left behind."""
    before, tails = 0, 0
    for t in range(times):
        ready, go = os.pipe()
        child = os.fork()
        if child == 0:
            cache, first = open_cache(folder), before
            while True:
                add(cache, np.arange(first, first + 300))
                os.write(go, b".")
                first += 300
        os.read(ready, 1)
        time.sleep(0.008 * float(Key(seed=t).uniform_numpy(1)[0]))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(go)
        cache = open_cache(folder)
        size = (cache.folder / "rows.bin").stat().st_size
        there, bad = wrong(cache, np.arange(len(cache)))
        if bad or there != len(cache) or there < before + 300:
            return f"after kill {t}: {there} rows of {len(cache)}, {bad} wrong, {before} before"
        tails += size != there * (8 + 4 * WIDTH)
        before = there
    return f"ok {before} {tails}"


def full(folder: Path, rows: int) -> str:
    """Append until a file may grow no more, in the middle of a row; print the message."""
    cache = open_cache(folder)
    limit = rows * (8 + 4 * WIDTH) + 999
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        for start in range(0, 10_000, 7):
            add(cache, np.arange(start, start + 7))
    except OSError as error:
        there, bad = wrong(cache, np.arange(len(cache)))
        return f"{there} {bad} {error}"
    return "not full"


if __name__ == "__main__":
    what, where, *numbers = sys.argv[1:]
    act = {"append": append, "killed": killed, "full": full}[what]
    print(act(Path(where), *map(int, numbers)))  # noqa: T201
