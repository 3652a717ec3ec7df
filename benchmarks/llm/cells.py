"""Parts of a long study on disk, so that a run that was killed goes on; intervals over seeds."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import t as student
from tiny_runs import RESULTS, store

from llm_bridge.tiny import cache_folder
from rlhf_theory.evaluation.statistics import Interval
from rlhf_theory.plots import curves
from rlhf_theory.plots.style import SeriesStyle
from rlhf_theory.store import write_json
from rlhf_theory.theorems.card import Bar, Progress, Theorem, Verdict, sweep_data
from rlhf_theory.theorems.stored import Task, carry_out

Rows = list[dict[str, Any]]
"""One part of a curve: plain data, one mapping per row."""


@dataclass(frozen=True)
class Cells:
    """Where parts are kept, and how many processes compute them.

    Attributes
    ----------
    folder
        Folder of all parts; those of other settings lie in another folder within it.
    jobs
        Processes; each has one thread.
    """

    folder: Path
    jobs: int = 1

    def rows(
        self,
        sweep: Mapping[str, Any],
        version: int,
        tasks: Sequence[tuple[Any, ...]],
        compute: Callable[..., Rows],
        progress: Progress,
    ) -> pd.DataFrame:
        """Return ``compute(sweep, *task)`` of all tasks, in their order; what is there is read.

        ``compute`` must be a function of a module, so that other processes find it.
        """
        home = self.folder / _digest([version, sweep_data(sweep)])
        home.mkdir(parents=True, exist_ok=True)
        files = [home / f"{'-'.join(map(str, task)).replace(' ', '_')}.json" for task in tasks]
        missing = [k for k, file in enumerate(files) if _read(file) is None]
        for _ in range(len(tasks) - len(missing)):
            progress.advance("read")
        if self.jobs == 1 or len(missing) < 2:
            for k in missing:
                _keep(files[k], compute(sweep, *tasks[k]))
                progress.advance(str(tasks[k]))
        else:
            # A fresh interpreter each: torch must not be forked.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(self.jobs, mp_context=context) as pool:
                running = {pool.submit(compute, sweep, *tasks[k]): k for k in missing}
                for done in as_completed(running):
                    k = running[done]
                    _keep(files[k], done.result())
                    progress.advance(str(tasks[k]))
        return pd.DataFrame([row for file in files for row in _read(file) or []])


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _keep(file: Path, rows: Rows) -> None:
    write_json(file, {"rows": rows})


def _read(file: Path) -> Rows | None:
    try:
        rows: Rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows


def t_interval(values: Any, level: float = 0.95) -> Interval:
    """Return the mean of one number per seed with its Student interval; floats.

    What it covers: other seeds, that is other prompts to learn from, pools, labels and orders of
    training. One seed has no interval: its ends are infinite.
    """
    v = np.asarray(values, dtype=float)
    half = np.inf
    if v.size > 1:
        quantile = student.ppf(0.5 * (1.0 + level), v.size - 1)
        half = float(quantile * v.std(ddof=1) / np.sqrt(v.size))
    return Interval(float(v.mean()), float(v.mean()) - half, float(v.mean()) + half)


def whiskers(
    ax: Axes, x: Any, y: Any, lower: Any, upper: Any, label: str, look: SeriesStyle
) -> None:
    """Draw points with intervals, joined by a line.

    For few seeds, whose wide bands would lie upon each other.
    """
    curves.curve(ax, x, y, label=label, color=look.color, style=look.line, marker=look.marker)
    curves.points(ax, x, y, lower, upper, label, look.color, marker=look.marker or "o")


def carried_out(
    study: Theorem,
    measure: Callable[..., pd.DataFrame],
    folder: str,
    summary: Callable[[pd.DataFrame, Mapping[str, Any]], dict[str, Any]],
) -> int:
    """Run a study from the command line; return the exit code.

    Parameters
    ----------
    study
        The study, whose ``measure`` is not used.
    measure
        As that of a study, with a `Cells` as its last argument.
    folder
        Where the results of a full run go, within the results of this folder.
    summary
        From curves and sweep to the numbers that stand beside the checks in ``summary.json``.
    """
    parser = argparse.ArgumentParser(description=study.title)
    parser.add_argument("--quick", action="store_true", help="a smoke run; stores nothing")
    parser.add_argument("--seeds", type=int, help="number of seeds")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument(
        "--work",
        type=Path,
        default=cache_folder() / "studies" / study.name,
        help="keeps finished parts: a killed run goes on from there",
    )
    given = parser.parse_args()
    cells = Cells(given.work, given.jobs)
    mode = "quick" if given.quick else "full"
    frames: list[pd.DataFrame] = []

    def measured(sweep: Any, key: Any, progress: Progress) -> pd.DataFrame:
        frames.append(measure(sweep, key, progress, cells))
        return frames[-1]

    bar = Bar(study.name)
    task = Task(
        theorem=replace(study, measure=measured),
        folder=given.work / "quick" if given.quick else RESULTS / folder,
        sweep=study.sweep(mode, given.seeds),
        mode=mode,
        seed=0,
    )
    verdict = carry_out(task, bar)
    bar.close()
    show(verdict)
    if not verdict.error:
        numbers = summary(frames[-1], task.sweep)
        for name, value in numbers.get("constants", {}).items():
            print(f"  {name}: {value}")
        if not given.quick:
            store(f"{folder}/summary", _summary(verdict, numbers))
    return 0 if verdict.passed else 1


def _summary(verdict: Verdict, numbers: dict[str, Any]) -> dict[str, Any]:
    content = verdict.to_json()
    kept = ("title", "claim", "passed", "checks", "sweep", "seconds")
    return {name: content[name] for name in kept} | sweep_data(numbers)


def show(verdict: Verdict) -> None:
    """Print the checks."""
    for check in verdict.checks:
        low, high = check.interval or (np.nan, np.nan)
        word = "ok  " if check.passed else "FAIL"
        print(f"{word} {check.name}: {check.measured:.3f} [{low:.3f}, {high:.3f}]")
    print(verdict.error or f"{verdict.seconds:.0f} s, passed: {verdict.passed}")
