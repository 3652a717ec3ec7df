"""One theorem study and its files: computed once, then read."""

from __future__ import annotations

import io
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from rlhf_theory.experiments.trace import versions
from rlhf_theory.plots.figures import save
from rlhf_theory.plots.style import theme
from rlhf_theory.randomness import Key
from rlhf_theory.store import read_json, write_atomic, write_json
from rlhf_theory.theorems.card import Mode, Note, Progress, Sweep, Theorem, Verdict, sweep_data

FILES = (
    "verdict.json",
    "curves.parquet",
    "figure.svg",
    "figure.pdf",
    "figure.csv",
    "caption.txt",
)
"""What a study that ran to its end leaves in its folder."""


Found = dict[str, Any]
"""What a study has found so far: checks, constants, caption, seconds, or an error."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One theorem with what it runs over; goes to a worker process.

    Attributes
    ----------
    theorem
        The theorem.
    folder
        Where its files go.
    sweep
        The sweep of the mode, with overrides.
    mode
        Quick or full.
    seed
        Seed of all draws.
    """

    theorem: Theorem
    folder: Path
    sweep: Sweep
    mode: Mode
    seed: int

    @property
    def note(self) -> Path:
        """The file in which a worker says how far it is."""
        return self.folder / ".progress"

    def verdict(self, found: Found) -> Verdict:
        """Return the verdict with what was found."""
        t = self.theorem
        checks = tuple(found.get("checks", ()))
        error = found.get("error", "")
        return Verdict(
            name=t.name,
            title=t.title,
            claim=t.claim,
            source=t.source,
            version=t.version,
            # A study without a single check has shown nothing.
            passed=not error and bool(checks) and all(bool(c.passed) for c in checks),
            replicas=int(self.sweep["replicas"]),
            seed=self.seed,
            seconds=round(found.get("seconds", 0.0), 3),
            mode=self.mode,
            checks=checks,
            assumptions=t.assumptions,
            departures=t.departures,
            constants=found.get("constants", {}),
            sweep=self.sweep,
            caption=found.get("caption", ""),
            error=error,
            versions=versions(),
        )


def read_verdict(folder: Path) -> Verdict | None:
    """Return the verdict in a folder, or None where there is none that can be read."""
    content = read_json(folder / "verdict.json")
    try:
        return None if content is None else Verdict.from_json(content)
    except ValueError:
        return None


def stored_verdict(task: Task) -> Verdict | None:
    """Return the verdict of exactly this task if its files are complete, else None.

    A study that raised is no result: it is computed again.
    """
    if not all((task.folder / name).is_file() for name in FILES):
        return None
    found = read_verdict(task.folder)
    if found is None or found.error:
        return None
    same = (found.name, found.version, found.mode, found.seed, dict(found.sweep)) == (
        task.theorem.name,
        task.theorem.version,
        task.mode,
        task.seed,
        sweep_data(task.sweep),
    )
    return found if same else None


def carry_out(task: Task, progress: Progress | None = None) -> Verdict:
    """Run a study, judge it, draw it, write its files; one that raises gets a failed verdict.

    The verdict is written last: where there is one, the other files belong to it.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    # The verdict goes first: a folder without it is known to be incomplete.
    for stale in (*(task.folder / name for name in FILES), *task.folder.glob(".*.tmp")):
        stale.unlink(missing_ok=True)
    found: Found = {}
    start = time.perf_counter()
    # One thread on every path: the last bits of a matrix product depend on the number of threads,
    # and results must not depend on the number of workers.
    with threadpool_limits(limits=1):
        try:
            _study(task, progress or Note(task.note), found)
        except Exception:
            # Whatever a study raises is its verdict; the others go on.
            found["error"] = traceback.format_exc()
    found["seconds"] = time.perf_counter() - start
    verdict = task.verdict(found)
    write_json(task.folder / "verdict.json", verdict.to_json())
    task.note.unlink(missing_ok=True)
    return verdict


def _study(task: Task, progress: Progress, found: Found) -> None:
    t, sweep = task.theorem, task.sweep
    curves = t.curves(sweep, Key(seed=task.seed).child(t.name), progress.advance)
    stream = io.BytesIO()
    curves.to_parquet(stream, index=False)
    write_atomic(task.folder / "curves.parquet", stream.getvalue())
    found["checks"] = t.judge(curves, sweep)
    found["constants"] = t.constants(curves, sweep)
    found["caption"] = t.caption(curves, sweep)
    with theme():
        save(t.draw(curves, sweep), task.folder, found["caption"])
