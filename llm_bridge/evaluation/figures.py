"""Figures of language-model runs: frontiers, over-optimisation, rounds, win rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llm_bridge.evaluation.details import Details
from llm_bridge.evaluation.metrics import METRICS
from rlhf_theory.errors import ShapeError, check_choice
from rlhf_theory.evaluation.over_optimisation import (
    Law,
    over_optimisation_fit,
    over_optimisation_law,
    peak_distance,
)
from rlhf_theory.evaluation.statistics import mean_interval
from rlhf_theory.experiments.trace import Trace
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.plots.figures import save

PROMPTS = "95 % bootstrap intervals over held-out prompts"


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure with what must stand beside it.

    Attributes
    ----------
    figure
        The figure.
    title
        What is shown, in a few words.
    caption
        Says what bands and intervals are, and how numbers were estimated.
    """

    figure: Figure
    title: str
    caption: str

    def save(self, folder: Path) -> Path:
        """Write ``figure.svg``, ``.pdf``, ``.csv`` and ``caption.txt`` to a folder of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        save(self.figure, folder, self.caption)
        return folder


@contextmanager
def _panel() -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure of one panel, to be drawn in the style of the project; ends with a legend."""
    with style.theme():
        fig, (ax,) = style.figure(1, 1, width="column")
        yield fig, ax
        axes.legend(fig)


def _over_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return mean and interval ends over rows; no ends where there is one row."""
    found = mean_interval(values)
    return (found.value, found.lower, found.upper) if len(values) > 1 else (found.value, None, None)


# --------------------------------------------------------------------------- frontier


@dataclass(frozen=True)
class _Estimate:
    """How KL and gold reward were found: the columns, and the words of axis and caption."""

    kl: str
    gold: str
    where: str
    how: str


_ESTIMATES = {
    "pool": _Estimate(
        "pool_kl",
        "pool_gold",
        "on pools, exact",
        "Both are computed exactly on the pools of held-out prompts.",
    ),
    "fresh": _Estimate(
        "fresh_kl_k1",
        "fresh_gold",
        "of sequences, k1 estimate",
        "Reward and KL are means over fresh responses to held-out prompts; the KL is the mean "
        "of log π − log π0 over sequences (k1, unbiased).",
    ),
}


def frontier_points(
    paths: Mapping[str, Sequence[Details]], estimate: Literal["pool", "fresh"]
) -> pd.DataFrame:
    """Return KL and gold reward of policies with intervals over prompts, one row per policy.

    Parameters
    ----------
    paths
        By name of the arm, its policies in their order (rounds, or growing strength).
    estimate
        ``"pool"``: exact on pools; ``"fresh"``: fresh responses, KL by the k1 estimator.
    """
    check_choice("estimate", estimate, _ESTIMATES)
    columns = _ESTIMATES[estimate]
    rows = []
    for arm, path in paths.items():
        for step, found in enumerate(path):
            kl, gold = found.interval(columns.kl), found.interval(columns.gold)
            rows.append(
                (arm, step, kl.value, kl.lower, kl.upper, gold.value, gold.lower, gold.upper)
            )
    names = "arm step kl kl_lower kl_upper gold gold_lower gold_upper"
    return pd.DataFrame(rows, columns=names.split())


def frontier(
    points: pd.DataFrame,
    *,
    estimate: Literal["pool", "fresh"],
    best: pd.DataFrame | None = None,
    interval: str = PROMPTS,
) -> Drawing:
    """Draw gold reward against KL: how much reward each arm gets for its distance from pi0.

    Parameters
    ----------
    points
        Columns of `frontier_points`: ``arm, kl, gold`` and ``gold_lower, gold_upper``; the policies
        of an arm are joined in their order.
    estimate
        How the numbers were found; named on the axes and in the caption.
    best
        Columns ``kl, gold``: the best that any policy over the pools can do, exact; only beside
        numbers on pools, since KL over pools and over sequences are two different things.
    interval
        What the intervals are.
    """
    check_choice("estimate", estimate, _ESTIMATES)
    words = _ESTIMATES[estimate]
    if best is not None and estimate != "pool":
        message = "The best policies over pools belong beside numbers on pools (estimate='pool')."
        raise ValueError(message)
    with _panel() as (fig, ax):
        if best is not None:
            curves.bound(ax, best["kl"], best["gold"], "best over the pools")
        for k, (arm, part) in enumerate(points.groupby("arm", sort=False)):
            look = style.series(k)
            columns = (part["kl"], part["gold"], part["gold_lower"], part["gold_upper"])
            if len(part) > 1:
                curves.curve(ax, part["kl"], part["gold"], color=look.color, style=look.line)
            curves.points(ax, *columns, label=str(arm), color=look.color, marker=look.marker)
        ax.set(xlabel=f"KL(π‖π0) in nats, {words.where}", ylabel="gold reward")
    more = " Dashed: the Gibbs policies of the gold reward." if best is not None else ""
    caption = f"Gold reward against KL from π0. {words.how} Bars: {interval}.{more}"
    return Drawing(fig, "Gold reward against KL", caption)


# --------------------------------------------------------------------------- over-optimisation


# What stands for the distance from π0 on the horizontal axis, and as which power of √KL.
_DISTANCES = {"sqrt": ("√KL(π‖π0)", 1), "kl": ("KL(π‖π0) in nats", 2)}
_FORMULAS: dict[Law, str] = {"rl": "d(α − β log d)", "best-of-n": "d(α − β d)"}


def over_optimisation(
    kl: np.ndarray,
    gold: np.ndarray,
    proxy: np.ndarray,
    *,
    law: Law = "rl",
    against: Literal["sqrt", "kl"] = "sqrt",
    estimate: str = "exact on pools",
    paths: str = "training seeds",
) -> Drawing:
    """Draw gold and proxy reward along paths of growing optimisation, with the fitted law.

    Parameters
    ----------
    kl, gold, proxy
        Along each of ``k`` paths, shape ``(k, T)``; the first policy is the reference, from which
        rewards are measured.
    law
        Which law of [2210.10760] is fitted, path by path: ``"rl"`` or ``"best-of-n"``.
    against
        What is on the horizontal axis: ``sqrt(KL)``, the distance of the law, or KL.
    estimate
        How KL and rewards were found, for axis and caption.
    paths
        What the paths are, for the caption; bands are drawn where there are two at least.
    """
    shapes = {np.shape(v) for v in (kl, gold, proxy)}
    if len(shapes) != 1 or kl.ndim != 2 or kl.shape[1] < 3:
        message = f"kl, gold and proxy must have one shape (k, T), T at least 3; got {shapes}."
        raise ShapeError(message)
    check_choice("against", against, _DISTANCES)
    shown, power = _DISTANCES[against]
    gain = gold - gold[:, :1]
    lines = (("proxy reward", proxy - proxy[:, :1], "vermillion"), ("gold reward", gain, "blue"))
    distance = np.sqrt(np.maximum(kl, 0.0))
    x = distance.mean(axis=0)
    at = x**power
    with _panel() as (fig, ax):
        for name, values, color in lines:
            mean, low, high = _over_rows(values)
            curves.curve(ax, at, mean, low, high, name, color, marker="o")
        coefficients = over_optimisation_fit(kl, gain, law)
        alpha, beta = coefficients.mean(axis=0)
        grid = np.linspace(0.0, float(x.max()), 101)
        fitted = over_optimisation_law(grid, alpha, beta, law)
        curves.curve(
            ax,
            grid**power,
            fitted,
            label="fitted law",
            color="ink",
            style=(0, (4, 2)),
            width=1.0,
        )
        peak = float(np.mean(peak_distance(kl, gold)))
        inside = peak < float(x.max())
        if inside:
            curves.level(ax, peak**power, "gold peaks", axis="x")
        ax.set(xlabel=f"{shown}, {estimate}", ylabel="reward over that of π0")
    band = f" Bands: 95 % bootstrap intervals over {kl.shape[0]} {paths}." if len(kl) > 1 else ""
    caption = (
        f"Reward over that of π0 along a path of growing optimisation; {estimate}. Dashed: "
        f"{_FORMULAS[law]} with d = √KL fitted to the gold reward, α = {alpha:.3g}, β = {beta:.3g} "
        f"([2210.10760]).{band}" + (" Dotted: where gold reward is largest." if inside else "")
    )
    return Drawing(fig, "Gold and proxy reward against the distance from π0", caption)


# --------------------------------------------------------------------------- rounds, win rates


def rounds(
    traces: Mapping[str, Sequence[Trace]],
    name: str,
    *,
    label: str = "",
) -> Drawing:
    """Draw a recorded name over rounds, one curve per arm.

    Parameters
    ----------
    traces
        By arm, runs with other seeds of the same length; their replicas count as seeds.
    name
        What was recorded, such as ``"fresh_objective"``.
    label
        Its meaning with units; the one in `METRICS` by default.
    """
    with _panel() as (fig, ax):
        several = 0
        for k, (arm, runs) in enumerate(traces.items()):
            values = np.concatenate([run[name] for run in runs])
            mean, low, high = _over_rows(values)
            several = max(several, len(values))
            look = style.series(k)
            x = np.asarray(runs[0].index, dtype=float)
            curves.curve(ax, x, mean, low, high, arm, look.color, look.line, marker=look.marker)
        words = label or METRICS.get(name, name)
        short = words.split(",")[0]
        ax.set(xlabel="rounds played", ylabel=short)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    band = (
        f" Bands: 95 % bootstrap intervals over {several} seeds." if several > 1 else " One seed."
    )
    return Drawing(fig, short, f"{words}, of the policy after each round, held-out prompts.{band}")


def win_rates(
    names: Sequence[str],
    values: Sequence[float],
    lower: Sequence[float],
    upper: Sequence[float],
    *,
    baseline: str = "π0",
    interval: str = PROMPTS,
) -> Drawing:
    """Draw win rates against the baseline as bars, 1/2 marked; ties count half."""
    with _panel() as (fig, ax):
        curves.level(ax, 0.5, "no better, no worse", axis="x")
        curves.bars(ax, list(names), values, lower, upper, color="blue")
        ax.set(xlabel=f"win rate against {baseline}", xlim=(0.0, 1.0))
    caption = (
        f"How often a response wins against one of {baseline} to the same held-out prompt, ties "
        f"counted half. Lines: {interval}."
    )
    return Drawing(fig, f"Win rate against {baseline}", caption)
