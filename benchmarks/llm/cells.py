"""Parts of a long study on disk, so that a run that was killed goes on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from llm_bridge.storage.records import found_whole, write_record
from rlhf_theory.theorems.card import sweep_data

Rows = list[dict[str, Any]]
"""One part of a curve: plain data, one mapping per row."""

Parts = Mapping[str, Callable[..., Rows]]
"""What computes the parts of each name: functions of modules, so that other processes find them."""


@dataclass(frozen=True)
class Cells:
    """Where parts are kept, and how many processes compute them.

    Attributes
    ----------
    folder
        Folder of all parts; those of other settings lie in another folder within it.
    jobs
        Processes; each has one thread.
    advance
        Called with a few words on every part that is there.
    """

    folder: Path
    jobs: int
    advance: Callable[[str], None]

    def rows(
        self,
        sweep: Mapping[str, Any],
        version: int,
        tasks: Sequence[tuple[Any, ...]],
        parts: Parts,
    ) -> pd.DataFrame:
        """Return the parts of all tasks, in their order; what is there is read.

        The part of a task ``(name, *where)`` is ``parts[name](sweep, *where)``.
        """
        home = self.folder / _digest([version, sweep_data(sweep)])
        home.mkdir(parents=True, exist_ok=True)
        files = [home / f"{'-'.join(map(str, task)).replace(' ', '_')}.json" for task in tasks]
        missing = [k for k, file in enumerate(files) if _read(file) is None]
        for _ in range(len(tasks) - len(missing)):
            self.advance("read")

        def keep(k: int, rows: Rows) -> None:
            write_record(files[k], {"rows": rows})
            self.advance(str(tasks[k]))

        if self.jobs == 1 or len(missing) < 2:
            for k in missing:
                name, *where = tasks[k]
                keep(k, parts[name](sweep, *where))
        else:
            # A fresh interpreter each: torch must not be forked.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(self.jobs, mp_context=context) as pool:
                running = {}
                for k in missing:
                    name, *where = tasks[k]
                    running[pool.submit(parts[name], sweep, *where)] = k
                for done in as_completed(running):
                    keep(running[done], done.result())
        return pd.DataFrame([row for file in files for row in _read(file) or []])


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _read(file: Path) -> Rows | None:
    content = found_whole(file)
    return None if content is None else content["rows"]
