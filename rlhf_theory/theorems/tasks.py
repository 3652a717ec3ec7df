"""What the engine computes of theorem studies: the parts of a sweep, then the verdict on all."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
from threadpoolctl import threadpool_limits

from rlhf_theory.engine.attempts import undisturbed
from rlhf_theory.engine.exceptions import fills_disk
from rlhf_theory.engine.tasks import Made, failure_path
from rlhf_theory.plots.figures import save
from rlhf_theory.plots.style import theme
from rlhf_theory.randomness import Key
from rlhf_theory.store import DamagedError, canonical, write_atomic
from rlhf_theory.theorems.card import Part
from rlhf_theory.theorems.stored import (
    FILES,
    VERDICT,
    CardRun,
    Found,
    read_sealed,
    sealed,
    stored_verdict,
    write_curves,
    write_verdict,
)

_PARTS = "parts"
"""Folder of the parts of a study that has no verdict yet."""


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """A part of a sweep, to be measured.

    Attributes
    ----------
    run
        The study.
    part
        The part.
    """

    run: CardRun
    part: Part
    at_once: ClassVar[tuple[str, int] | None] = None

    @property
    def name(self) -> str:
        """Theorem and part."""
        return f"{self.run.called}: {self.part.label}"

    @property
    def path(self) -> Path:
        """The file with what was measured."""
        identity = {**self.run.identity, "part": self.part.settings}
        key = hashlib.sha256(canonical(identity).encode()).hexdigest()[:20]
        return self.run.folder / _PARTS / f"{key}.parquet"

    def make(self) -> Made:
        """Measure the part, unless it is there."""
        path = self.path
        if (stat := _readable(path)) is not None:
            return Made("skipped", stat)
        self.run.check_code()
        theorem, start = self.run.theorem, time.perf_counter()
        # One thread on every path: the last bits of a matrix product depend on the number of
        # threads, and results must not depend on the number of workers.
        with undisturbed(), threadpool_limits(limits=1):
            key = Key(seed=self.run.seed).child(theorem.name)
            frame = theorem.measure(self.run.sweep, self.part, key)
        if not isinstance(frame, pd.DataFrame):
            message = f"measure must return a pandas.DataFrame; got {type(frame).__name__}."
            raise TypeError(message)
        seconds = time.perf_counter() - start
        path.parent.mkdir(parents=True, exist_ok=True)
        file = write_atomic(path, sealed(frame, {"part": self.part.label, "seconds": seconds}))
        failure_path(path).unlink(missing_ok=True)
        return Made("done", file)

    def read(self) -> tuple[pd.DataFrame, float]:
        """Return what was measured, and the seconds it took; raises as `seals.read_table`."""
        frame, says = read_sealed(self.path, f"a part of {self.run.name}")
        return frame, float(says["seconds"])


@dataclass(frozen=True, kw_only=True)
class VerdictTask:
    """A study all of whose parts have ended, to be judged and drawn.

    Attributes
    ----------
    run
        The study.
    parts
        Its parts.
    error
        What a part has raised; there is nothing to judge then.
    """

    run: CardRun
    parts: tuple[PartTask, ...]
    error: str = ""
    at_once: ClassVar[tuple[str, int] | None] = None

    @property
    def name(self) -> str:
        """The theorem."""
        return f"{self.run.called}: verdict"

    @property
    def path(self) -> Path:
        """The verdict."""
        return self.run.folder / VERDICT

    def make(self) -> Made:
        """Judge, draw, and write the files; a study that raises gets a failed verdict.

        The verdict is written last: where there is one, the other files belong to it. The parts go
        then, unless something was raised: what is measured is not measured twice.
        """
        stored = None if self.error else stored_verdict(self.run)
        if stored is not None:
            return Made("skipped", self.path.stat(), stored)
        self.run.check_code()
        folder, found, start = self.run.folder, Found(error=self.error), time.perf_counter()
        for stale in (*(folder / name for name in FILES), *folder.glob(".*.tmp")):
            stale.unlink(missing_ok=True)
        if not self.error:
            try:
                with undisturbed(), threadpool_limits(limits=1):
                    _judged(self.run, self.parts, found)
            except Exception as error:
                if fills_disk(error, folder):
                    raise
                # Whatever else a study raises is its verdict; the others go on. A part that is not
                # what was written any more is measured anew by the next run.
                found["error"] = traceback.format_exc()
        found["seconds"] = found.get("seconds", 0.0) + time.perf_counter() - start
        verdict = self.run.verdict(found)
        write_verdict(folder, verdict)
        if not verdict.error:
            shutil.rmtree(folder / _PARTS, ignore_errors=True)
        failure_path(self.path).unlink(missing_ok=True)
        return Made("done", self.path.stat(), verdict)


def parts_of(run: CardRun) -> tuple[PartTask, ...]:
    """Return the parts of a study; ``ValueError`` where two of them could not be told apart."""
    tasks = tuple(PartTask(run=run, part=part) for part in run.theorem.parts(run.sweep))
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        message = (
            f"The parts of {run.called} must be some, with a label each; got {', '.join(names)}."
        )
        raise ValueError(message)
    return tasks


def _readable(path: Path) -> os.stat_result | None:
    """Return the state of the file of a part, or None where there is none that can be read."""
    try:
        state = path.stat()
        read_sealed(path, "a part of a theorem")
    except (OSError, DamagedError):
        return None
    return state


def _judged(run: CardRun, parts: Sequence[PartTask], found: Found) -> None:
    theorem, sweep = run.theorem, run.sweep
    tables = [part.read() for part in parts]
    found["seconds"] = sum(seconds for _, seconds in tables)
    curves = theorem.gather([frame for frame, _ in tables], sweep)
    write_curves(run.folder, curves)
    found["checks"] = theorem.judge(curves, sweep)
    found["constants"] = theorem.constants(curves, sweep)
    found["caption"] = theorem.caption(curves, sweep)
    with theme():
        save(theorem.draw(curves, sweep), run.folder, found["caption"])
