"""What studies of language models are run and judged with: command line, checks, intervals."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cells import Cells
from matplotlib.axes import Axes
from scipy.stats import t as student
from tiny_runs import RESULTS

from llm_bridge.tiny import cache_folder
from rlhf_theory.evaluation.statistics import Interval
from rlhf_theory.plots import curves
from rlhf_theory.plots.style import SeriesStyle
from rlhf_theory.store import write_json
from rlhf_theory.theorems.card import Bar, Theorem, Verdict, sweep_data
from rlhf_theory.theorems.stored import Task, carry_out

# --------------------------------------------------------------------------- intervals


def t_interval(values: Any, level: float = 0.95) -> Interval:
    """Return the mean over seeds with its Student interval, for values ``(R,)`` or ``(R, ...)``.

    What it covers: other seeds, that is other prompts to learn from, pools, labels and orders of
    training. One seed has no interval: its ends are infinite.
    """
    v = np.asarray(values, dtype=float)
    mean, half = v.mean(axis=0), np.inf
    if len(v) > 1:
        quantile = student.ppf(0.5 * (1.0 + level), len(v) - 1)
        half = quantile * v.std(axis=0, ddof=1) / np.sqrt(len(v))
    return Interval(mean, mean - half, mean + half)


def stacked(intervals: Sequence[Interval]) -> Interval:
    """Return intervals of single numbers as one, of arrays."""
    return Interval(
        np.array([i.value for i in intervals]),
        np.array([i.lower for i in intervals]),
        np.array([i.upper for i in intervals]),
    )


def text(found: Interval) -> str:
    """Return the interval of a number in words."""
    return f"{found.value:.3f} [{found.lower:.3f}, {found.upper:.3f}]"


def whiskers(ax: Axes, x: Any, found: Interval, label: str, look: SeriesStyle) -> None:
    """Draw points with intervals, joined by a line.

    For few seeds, whose wide bands would lie upon each other.
    """
    curves.curve(
        ax, x, found.value, label=label, color=look.color, style=look.line, marker=look.marker
    )
    ends, marker = (found.lower, found.upper), look.marker or "o"
    curves.points(ax, x, found.value, *ends, label, look.color, marker=marker)


# --------------------------------------------------------------------------- runs


def carried_out(
    study: Theorem,
    folder: str,
    measure: Callable[..., pd.DataFrame] | None = None,
    summary: Callable[[pd.DataFrame, Mapping[str, Any]], dict[str, Any]] | None = None,
) -> int:
    """Run a study from the command line; return the exit code.

    Parameters
    ----------
    study
        The study.
    folder
        Where the results of a full run go, within the results of this folder.
    measure
        For a study of parts: as its own, which is not used, with a `Cells` as its last argument.
        What its verdict says in short is also in ``summary.json``.
    summary
        From curves and sweep to what else ``summary.json`` says.
    """
    work = cache_folder() / "studies" / study.name
    parser = argparse.ArgumentParser(description=study.title)
    parser.add_argument("--quick", action="store_true", help="a smoke run; no stored result")
    parser.add_argument("--seeds", "--replicas", type=int, help="number of seeds, or of replicas")
    parser.add_argument("--out", type=Path, help="folder for what is found")
    if measure is not None:
        parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
        parser.add_argument(
            "--work",
            type=Path,
            default=work,
            help="keeps finished parts: a killed run goes on from there",
        )
    given = parser.parse_args()
    bar = Bar(study.name)
    if measure is not None:
        work = given.work
        cells = Cells(work, given.jobs, bar.advance)
        study = replace(study, measure=partial(measure, cells=cells))
    mode = "quick" if given.quick else "full"
    out = given.out or (work / "quick" if given.quick else RESULTS / folder)
    sweep = study.sweep(mode, given.seeds)
    verdict = carry_out(Task(theorem=study, folder=out, sweep=sweep, mode=mode, seed=0), bar)
    bar.close()
    show(verdict)
    if measure is not None and not verdict.error:
        for name, value in verdict.constants.items():
            print(f"  {name}: {value}")
        if not given.quick:
            more = summary(pd.read_parquet(out / "curves.parquet"), sweep) if summary else {}
            store(out / "summary.json", _summary(verdict, more))
    return 0 if verdict.passed else 1


def _summary(verdict: Verdict, more: dict[str, Any]) -> dict[str, Any]:
    content = verdict.to_json()
    kept = ("title", "claim", "passed", "checks", "sweep", "seconds")
    about = {name: content[name] for name in kept} | sweep_data(more)
    return about | {"constants": content["constants"]}


def show(verdict: Verdict) -> None:
    """Print the checks."""
    for check in verdict.checks:
        low, high = check.interval or (np.nan, np.nan)
        word = "ok  " if check.passed else "FAIL"
        print(f"{word} {check.name}: {check.measured:.3f} [{low:.3f}, {high:.3f}]")
    print(verdict.error or f"{verdict.seconds:.0f} s, passed: {verdict.passed}")


def store(file: Path, content: dict[str, Any]) -> None:
    """Write plain data with the versions that numbers depend on."""
    names = ("numpy", "torch", "transformers")
    about = {"versions": {name: metadata.version(name) for name in names}}
    write_json(file, json.loads(json.dumps(content)) | about)
