"""Theorem ``confidence-coverage``: which radii keep their promise, when, and how tight they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import betabinom

from rlhf_theory.evaluation.statistics import Interval, clopper_pearson
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.theorems.card import Check, Part, Sabotage, Sweep, Theorem
from rlhf_theory.theorems.checks import below, estimate, fact
from rlhf_theory.theorems.coverage_needed import NEEDED, Needed
from rlhf_theory.theorems.coverage_runs import (
    ALL,
    coverage_parts,
    coverage_world,
    measure_coverage,
    schedule,
)
from rlhf_theory.theorems.coverage_sets import IN_DESIGN, ON_LIKELIHOOD, RIGHT
from rlhf_theory.theorems.frames import select
from rlhf_theory.theorems.panels import interval_points, stacked
from rlhf_theory.theorems.query_rules import QUERY_RULES
from rlhf_theory.theorems.spread import label_spread

_RULES = (*IN_DESIGN, *ON_LIKELIHOOD)
_KEEP = ("R2", "R2′", "R3", "R4")
_FIXED = ("R1", "R1′")
# False alarm of all comparisons with the stored shares of radii together, for a right algorithm.
_FALSE_ALARM = 0.005
# Nats by which Laplace's threshold may be too high at the largest n, which is as if delta were a
# tenth smaller; it may never be too low by more than a tenth of that.
_LAPLACE = 0.1
# Radius over error as the theory sheet has it (10.8): rule, |theta*|, n -> value.
_SHEET = {
    "R1": {(1, 100): 12.2, (1, 1000): 10.5, (3, 100): 383.0, (3, 1000): 343.0},
    "R2": {(1, 100): 13.9, (1, 1000): 14.5, (3, 100): 437.0, (3, 1000): 475.0},
    "R3 in H": {(1, 100): 8.3, (1, 1000): 8.3, (3, 100): 12.4, (3, 1000): 12.9},
    "R3": {(1, 100): 29.9, (1, 1000): 41.4, (3, 100): 35.4, (3, 1000): 46.9},
    "R4": {(1, 100): 7.5, (1, 1000): 12.5, (3, 100): 11.1, (3, 1000): 16.6},
}


# --------------------------------------------------------------------------- judge


def _situations(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the three designs of the claim: fixed, adaptive, and peeked (any rule, all times)."""
    once = frame["look"] != ALL
    fixed = frame["design"] == "fixed"
    return {
        "fixed design": frame[once & fixed],
        "adaptive design": frame[once & ~fixed],
        "looked at after every round": frame[~once],
    }


def _coverages(frame: pd.DataFrame, level: float = 0.95) -> Interval:
    """Return the share of sets that contain the truth per (norm, design, look), exact intervals."""
    groups = (frame["used"] <= 1.0).groupby([frame["norm"], frame["design"], frame["look"]])
    table = groups.agg(["sum", "count"])
    return clopper_pearson(table["sum"], table["count"], level)


def _lowest(part: pd.DataFrame, level: float = 0.95) -> Interval:
    """Return the lowest of the coverages, with its interval."""
    found = _coverages(part, level)
    return found.at(int(np.argmin(found.value)))


def _judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    nominal = 1.0 - sweep["delta"]
    checks = []
    for words, part in _situations(frame).items():
        for rule in (*_FIXED, *_KEEP) if words == "fixed design" else _KEEP:
            mine = select(part, rule=rule)
            cases = len(mine[["norm", "design", "look"]].drop_duplicates())
            # The lowest of several coverages: all intervals hold at once with probability 95 %.
            lowest = _lowest(mine, 1.0 - 0.05 / max(cases, 1))
            checks.append(
                estimate(
                    f"{rule} keeps its coverage, {words}: lowest of {cases}",
                    lowest,
                    f"exact interval (95 % for all {cases}) reaches {nominal:g}",
                    passed=lowest.upper >= nominal,
                )
            )
    found = _coverages(select(frame, rule="R5", look=ALL))
    checks.append(
        below(
            f"R5 loses its coverage when looked at after every round: highest of "
            f"{found.value.size}",
            found.at(int(np.argmax(found.upper))),
            nominal,
            f"exact 95 % interval ends below {nominal:g}",
        )
    )
    return [*checks, *_formulas(frame), *_tight(frame, sweep)]


def _formulas(frame: pd.DataFrame) -> list[Check]:
    """Return whether radii are those of the claim, worked out a second way.

    Numbers of one run against each other: there is no chance in it. What is wrong by a constant
    that no coverage shows (``4 lambda B^2`` left out) differs in the third digit and more.
    """
    known = frame.dropna(subset="formula")
    apart = (known["radius"] / known["formula"] - 1.0).abs()
    laplace = frame.dropna(subset="laplace")
    last = int(laplace["look"].max())
    large = select(laplace, look=last)["laplace"]
    return [
        fact(
            f"radii of {', '.join(known['rule'].unique())}: largest relative distance from their "
            "formulas",
            apart.max(),
            "at most 1e-9",
            passed=apart.max() <= 1e-9,
        ),
        fact(
            "R4: threshold by Laplace minus that by importance sampling, nats, least of all",
            laplace["laplace"].min(),
            f"at least −{_LAPLACE / 10:g}",
            passed=laplace["laplace"].min() >= -_LAPLACE / 10,
        ),
        fact(
            f"R4: the same, largest at n = {last}",
            large.max(),
            f"at most {_LAPLACE:g}",
            passed=large.max() <= _LAPLACE,
        ),
    ]


def _tight(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    """Return whether sets are as wide as they were: as much of each radius is needed.

    Sets that are far too wide keep any coverage, also with radii that are too short by a factor.
    So the share of the radius that the truth needs is compared with stored quantiles, each the
    k-th smallest of as many other replicas of the same law: how many new ones lie below it has an
    exact law (beta-binomial), whatever theirs. With 200 replicas one comparison tells a radius that
    is short or long by 15 % in three of four cases (5 degrees of freedom), by 20 % in 99 of 100.
    """
    stored = [Needed(*row) for row in sweep["needed"]]
    limit = _FALSE_ALARM / max(len(stored), 1)
    once = select(frame, design="fixed")
    checks = []
    for rule in dict.fromkeys(row.rule for row in stored):
        rows = [row for row in stored if row.rule == rule]
        found = [(*_compared(once, row, limit), row) for row in rows]
        chance, share, row = min(found, key=lambda each: each[0])
        checks.append(
            estimate(
                f"{rule}, how much of it is needed: replicas below the stored {row.quantile:.0%} "
                f"point at |θ*| = {row.norm:g}, n = {row.look}, the least likely of {len(rows)} "
                "comparisons",
                share,
                f"{row.quantile:g} up to chance: exact p = {chance:.1e} against {row.of:,} other "
                f"replicas, at least {limit:.1e}",
                passed=chance >= limit,
            )
        )
    return checks


def _compared(frame: pd.DataFrame, row: Needed, limit: float) -> tuple[float, Interval]:
    """Return the exact p of a stored point and the share of replicas that need less."""
    used = select(frame, rule=row.rule, norm=row.norm, look=row.look)["used"].to_numpy()
    count, k = int((used <= row.value).sum()), round(row.quantile * row.of)
    law = betabinom(used.size, k, row.of - k + 1)
    chance = min(1.0, 2.0 * float(min(law.cdf(count), law.sf(count - 1))))
    return chance, clopper_pearson(count, used.size, 1.0 - limit)


# --------------------------------------------------------------------------- draw


def _tightness(frame: pd.DataFrame, rule: str, norm: float, look: int) -> float:
    """Return radius over the 95 % quantile of the error: 1 for a set that is just wide enough.

    For thresholds on the likelihood the roots are compared, so that every rule is measured by the
    width of its set.
    """
    part = select(frame, rule=rule, norm=norm, look=look, design="fixed")
    power = 0.5 if rule in ON_LIKELIHOOD else 1.0
    width = np.maximum(part["radius"], 0.0) ** power
    error = np.where(part["radius"] > 0, part["used"] * width, 0.0)
    return float(width.mean() / np.quantile(error, 0.95))


_TIGHT = ("R1", "R1′", "R2", "R2′", "R3 in H", "R4 in H", "R3", "R4", "R5")


def _draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    fig, (once, peeked, tight) = style.figure(3, 1, aspect=1.05)
    last = max(sweep["labels"])
    for ax, look in ((once, last), (peeked, ALL)):
        curves.level(ax, 1.0 - sweep["delta"], color="ink")
        for k, design in enumerate(QUERY_RULES):
            part = select(frame, look=look, design=design)
            lowest = stacked([_lowest(select(part, rule=rule)) for rule in _RULES])
            at = np.arange(len(_RULES)) + 0.24 * (k - 1)
            interval_points(ax, at, lowest, _DESIGNS[design], style.series(k))
        _name_ticks(ax, _RULES)
    low = min(once.get_ylim()[0], peeked.get_ylim()[0])
    for ax in (once, peeked):
        ax.set_ylim(low, 1.012)
    axes.log_axes(tight, "y")
    curves.level(tight, 1.0, color="ink")
    looks = [n for n in sweep["labels"] if n >= 100] or sweep["labels"]
    for k, norm in enumerate(sweep["norms"]):
        for j, look in enumerate(looks):
            values = [_tightness(frame, rule, norm, look) for rule in _TIGHT]
            at = np.arange(len(_TIGHT)) + 0.36 * (k - 0.5) + 0.16 * (j - 0.5)
            mark = style.series(3 + k)
            label = f"|θ*| = {norm:g}, n = {look}"
            curves.points(
                tight, at, values, label=label, color=mark.color, marker=mark.marker, hollow=j == 0
            )
    _name_ticks(tight, [name.replace(" in H", "\n(H)") for name in _TIGHT])
    once.set(title=f"Looked at once, n = {last}", ylabel="coverage")
    peeked.set(title="After every round", ylabel="coverage at all times")
    tight.set(title="Tightness", ylabel="radius / 95 % quantile of the error")
    axes.legend(fig)
    return fig


_DESIGNS = {"fixed": "fixed design", "GSHF": "adaptive: GSHF", "MaxInP": "adaptive: MaxInP"}


def _name_ticks(ax: Axes, names: Sequence[str]) -> None:
    ax.set_xticks(np.arange(len(names)), names)
    ax.tick_params(axis="x", length=0)
    ax.grid(visible=False, axis="x")


def _caption(frame: pd.DataFrame, sweep: Sweep) -> str:
    replicas = frame["replica"].nunique()
    rounds = len(schedule(sweep))
    return (
        f"Share of {replicas} replicas whose confidence set contains θ*; the lower of the shares "
        f"for |θ*| = {' and '.join(f'{norm:g}' for norm in sweep['norms'])}, with θ* on the "
        f"boundary of the ball, δ = {sweep['delta']:g} (dotted: 1 − δ). Left: at one n fixed in "
        f"advance. Middle: at the ends of all {rounds} rounds up to n = {max(sweep['labels'])} at "
        "once. Bars: exact (Clopper–Pearson) 95 % intervals over replicas. Right: mean radius over "
        "the 95 % quantile of the error over replicas, in the metric of the radius (fixed design); "
        "1 would be just wide enough. For R3 to R5 the roots of threshold and likelihood excess, "
        "for (H) the ellipsoids that they imply."
    )


def _constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    fixed = frame[(frame["design"] == "fixed") & (frame["look"] != ALL)]
    mean = (
        fixed.assign(error=fixed["radius"] * fixed["used"])
        .groupby(["rule", "norm", "look"])[["radius", "error"]]
        .mean()
    )
    for rule, sheet in _SHEET.items():
        found, wanted, where = [], [], []
        for (norm, n), value in sheet.items():
            if (rule, norm, n) in mean.index:
                radius, error = mean.loc[(rule, float(norm), n), :].to_numpy(dtype=float)
                found.append(radius if rule in ON_LIKELIHOOD else radius / error)
                wanted.append(value)
                where.append(f"({norm:g}, {n})")
        what = "threshold on L" if rule in ON_LIKELIHOOD else "radius / error"
        if found:
            numbers[f"{rule}, {what} at (|θ*|, n) = {', '.join(where)}; sheet 10.8 in brackets"] = (
                ", ".join(f"{a:.3g} [{b:.3g}]" for a, b in zip(found, wanted, strict=True))
            )
    for rule in ("R1", "R5"):
        for words, part in _situations(frame).items():
            lowest = _lowest(select(part, rule=rule))
            numbers[f"{rule}: lowest coverage, {words}"] = float(lowest.value)
    checked = frame.dropna(subset="laplace").groupby("look")["laplace"]
    for (look, low), high in zip(checked.min().items(), checked.max(), strict=True):
        numbers[f"R4: threshold by Laplace minus exact, n = {look}, nats"] = (
            f"{low:+.3f} to {high:+.3f}"
        )
    for norm in sweep["norms"]:
        numbers |= label_spread(coverage_world(sweep, norm, 1), f" at |θ*| = {norm:g}")
    return numbers


def _in_fixed(part: Part) -> bool:
    # Enough for a verdict: radii and what they need are the same rules everywhere.
    return bool(part.settings["design"] == "fixed")


_SABOTAGES = (
    Sabotage(name="radii halved", settings={"radius_factor": 0.5}, touches=_in_fixed),
    Sabotage(name="radii of a tenth", settings={"radius_factor": 0.1}, touches=_in_fixed),
    Sabotage(name="curvature at half the range", settings={"range_factor": 0.5}, touches=_in_fixed),
    Sabotage(
        name="terms with log det V and d log dropped",
        settings={"dimension_term": 0.0},
        touches=_in_fixed,
    ),
    Sabotage(name="4λB² dropped", settings={"lam_term": 0.0}, touches=_in_fixed),
    Sabotage(name="δ replaced by its root", settings={"delta_power": 0.5}, touches=_in_fixed),
    Sabotage(name="every second pair counted", settings={"counted": 0.5}, touches=_in_fixed),
    Sabotage(name="a tenth of the labels misread", settings={"misread": 0.1}, touches=_in_fixed),
    Sabotage(name="labels ignored", settings={"misread": 0.5}, touches=_in_fixed),
)

_FULL = {
    **RIGHT,
    "counted": 1.0,
    "misread": 0.0,
    "needed": NEEDED,
    "replicas": 1024,
    "block": 256,
    "instance": 0,
    "contexts": 8,
    "actions": 6,
    "dim": 5,
    "eta": 0.3,
    "norms": [1.0, 3.0],
    "labels": [10, 100, 1000],
    "growth": 0.015,
    "delta": 0.05,
    "lam": 1.0,
}

THEOREM = Theorem(
    name="confidence-coverage",
    order=6,
    version=2,
    title="Which confidence sets hold, when the data are chosen and looked at as one goes along",
    claim=(
        "With probability at least 1 − δ the sets R2, R3 and R4 contain θ* at all times at once, "
        "for any rule that chooses the comparisons: |θ̂ − θ*|_V ≤ G/γ + √(G²/γ² + 4λB²) with "
        "G² = (2 log(1/δ) + log det V − d log λ)/4 (R2); L(θ*) − L(θ̂) ≤ log(1/δ) + "
        "d log max(e, 2eBn·max|z|/d) (R3); L(θ*) ≤ −log ∫ e^{−L} dQ + log(1/δ) (R4). R1 holds at "
        "one n for a fixed design. R5, L(θ*) − L(θ̂) ≤ χ²_{d,1−δ}/2, is asymptotic and for one n: "
        "looked at all the time, it fails."
    ),
    source="Theory sheet 10.2, 10.3, 10.5, 10.6 (derived there); R3: Lee, Yun and Jun (2024), "
    "unified confidence sequences; the form of R1: [2301.11270], Lemma 3.1",
    assumptions=(
        "Linear rewards, Bradley–Terry labels; |θ*| ≤ B, here with equality; θ̂ is the maximum "
        "likelihood estimate over the ball |θ| ≤ B without ridge.",
        "Queries depend on the past only. λ and the prior Q = N(0, (B²/d) I) are fixed in advance.",
        "R2 to R4: nothing else. R1: the design does not depend on labels, one n. R5: n large too.",
    ),
    departures=(
        "The integral of R4 is Laplace's approximation; what that does to the threshold, against "
        "importance sampling with 400 draws, is on the card.",
        "max |z| is that of the table of pairs, so M = B max |z| and not 2B.",
        "Rounds have one label at first and later a fixed share of those so far; “at all times” "
        "means at the end of every round.",
        "GSHF chooses its second action per context, by the width relative to the first; MaxInP "
        "drops actions by 95 % Wald intervals rather than by its theoretical radius.",
        "R1 is reported, not judged, outside the fixed design: it has no guarantee there, but is "
        "so wide that it holds.",
    ),
    quick={**_FULL, "replicas": 200, "growth": 0.06},
    full=_FULL,
    cost=4.0,
    parts=coverage_parts,
    measure=measure_coverage,
    judge=_judge,
    draw=_draw,
    caption=_caption,
    constants=_constants,
    sabotages=_SABOTAGES,
)
