"""What a label is worth by where its pairs come from: predicted, and measured on linear learners.

In the world of `online-against-offline.toml`, with the best linear account of the gold reward on
the model's own frozen features in its place. Theory sheet 12.19: labels times gap tends to
tr(F^-1 C*) / (2 eta), with the Fisher matrix per label of the limiting law of each arm. Linear
plug-in learners show what is left of it at few labels. Arms differ in their pairs alone:

* offline: both responses from pi0, in every round;
* on-policy: both from pi_t;
* against pi0: one from pi_t, one from pi0;
* best-worst: the extremes of four draws from pi_t by its own reward.

    python -m benchmarks.llm.cards worth-of-labels [--quick] [--jobs 2]

The quick form is a smoke run: its four replicas are too few for a verdict, which mostly fails.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.llm.intervals import stacked, text
from benchmarks.llm.linear_account import ARMS, OFFLINE, ONLINE, plug_in, predicted
from rlhf_theory.evaluation.statistics import Interval, ratio_interval
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Check, Part, Sweep, Theorem
from rlhf_theory.theorems.checks import estimate

# The prediction is judged where n eta^2 is at least so many times tr(F^-1 C*): set before looking.
LARGE = 10.0


# --------------------------------------------------------------------------- measure


def parts(sweep: Sweep) -> list[Part]:
    """Return a part for every prediction, and for every learner.

    The ridge is each arm's best of the grid; with more labels, where it hardly matters, the first.
    """
    learners = [
        Part({"times": times, "arm": arm, "ridge": ridge})
        for times in sweep["times"]
        for arm in ARMS
        for ridge in sweep["ridges"][: None if times == 1 else 1]
    ]
    return [*(Part({"dim": dim}) for dim in sweep["dims"]), *learners]


def measure(sweep: Sweep, part: Part, _key: Key) -> pd.DataFrame:
    how = part.settings
    return pd.DataFrame((predicted if "dim" in how else plug_in)(sweep, **how))


# --------------------------------------------------------------------------- curves


def linear_ratio(frame: pd.DataFrame, times: int, arm: str) -> Interval:
    """Return the same ratio of linear learners, each at its best ridge."""
    rows = frame[(frame.part == "linear") & (frame.times == times)]

    def gaps(name: str) -> np.ndarray:
        own = rows[rows.arm == name]
        ridge = own.groupby("ridge").gap.mean().idxmin()
        return own[own.ridge == ridge].sort_values("seed").gap.to_numpy()

    return ratio_interval(gaps(OFFLINE), gaps(arm))


def predicted_ratio(frame: pd.DataFrame, dim: int, arm: str, kind: str = "schedule") -> float:
    rows = frame[(frame.part == "prediction") & (frame.dim == dim)].set_index("arm")
    return float(rows.loc[OFFLINE, kind] / rows.loc[arm, kind])


def reach(frame: pd.DataFrame, sweep: Sweep, dim: int, times: int = 1) -> float:
    """Return ``n eta^2 / tr(F^-1 C*)`` of offline labels; the prediction needs it to be large."""
    rows = frame[(frame.part == "prediction") & (frame.dim == dim)].set_index("arm")
    trace = 2.0 * sweep["eta"] * float(rows.loc[OFFLINE, "limit"])
    return times * sweep["rounds"] * sweep["batch"] * sweep["eta"] ** 2 / trace


# --------------------------------------------------------------------------- judge


def judge(frame: pd.DataFrame, sweep: Sweep) -> list[Check]:
    checks = []
    dim, labels = sweep["dims"][0], sweep["rounds"] * sweep["batch"]
    for times in sweep["times"]:
        if reach(frame, sweep, dim, times) < LARGE:
            continue  # the prediction is a limit that so few labels are not near
        for arm in ONLINE:
            want, found = predicted_ratio(frame, dim, arm), linear_ratio(frame, times, arm)
            checks.append(
                estimate(
                    f"linear learners, {times * labels} labels: gap offline / {arm}, "
                    f"predicted {want:.2f}",
                    found,
                    "the 95 % interval lies on the predicted side of 1",
                    passed=found.lower > 1.0 if want > 1.0 else found.upper < 1.0,
                )
            )
    return checks


# --------------------------------------------------------------------------- draw


def draw(frame: pd.DataFrame, sweep: Sweep) -> Figure:
    """Draw predicted and measured ratios of gaps, arm by arm."""
    fig, (ax,) = style.figure(1, 1, width="column")
    axes.log_axes(ax, "x")
    dim, labels = sweep["dims"][0], sweep["rounds"] * sweep["batch"]
    point = [predicted_ratio(frame, dim, arm) for arm in ONLINE]
    shown = [("predicted", "ink", "D", [Interval(v, v, v) for v in point])]
    for times, color in zip(sweep["times"][::-1], ("green", "sky"), strict=False):
        found = [linear_ratio(frame, times, arm) for arm in ONLINE]
        shown.append((f"linear, {times * labels} labels", color, "s", found))
    shifts = np.linspace(-0.27, 0.27, len(shown))
    for (label, color, marker, intervals), shift in zip(shown, shifts, strict=True):
        ends, place = stacked(intervals), np.arange(len(ONLINE)) + shift
        curves.points(ax, ends.value, place, label=label, color=color, marker=marker)
        ax.hlines(place, ends.lower, ends.upper, color=style.COLORS[color], linewidth=1.0)
    curves.level(ax, 1.0, axis="x")
    ax.set_yticks(range(len(ONLINE)), list(ONLINE))
    ax.set_ylim(len(ONLINE) - 0.4, -0.6)
    ax.set(xlabel="gap offline / gap online")
    axes.legend(fig)
    return fig


def caption(frame: pd.DataFrame, sweep: Sweep) -> str:
    dim = sweep["dims"][0]
    explained = frame.loc[frame.dim == dim, "explained"].dropna().iloc[0]
    return (
        "Gap with offline labels over that of each arm; above 1 online wins. Predicted: ratio of "
        "tr(F⁻¹C*)/(2η) for the linear account of the gold reward on "
        f"{dim} principal features of the model (it explains {explained:.0%} of the "
        f"variance within prompts), with the first of {sweep['rounds']} rounds from π0 and the "
        "others from the limiting law. Linear: plug-in learners in that linear world. Lines: 95 % "
        f"bootstrap intervals over {sweep['replicas']} replicas."
    )


def constants(frame: pd.DataFrame, sweep: Sweep) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    for dim in sweep["dims"]:
        for arm in ONLINE:
            limit, here = (predicted_ratio(frame, dim, arm, k) for k in ("limit", "schedule"))
            line = f"{limit:.2f} in the limit, {here:.2f} for these rounds"
            numbers[f"gap offline / {arm}: predicted, d = {dim}"] = line
        numbers[f"n η² / tr(F⁻¹C*), d = {dim}"] = reach(frame, sweep, dim)
    for arm in ONLINE:
        for times in sweep["times"]:
            words = f"{times * sweep['rounds'] * sweep['batch']} labels"
            numbers[f"gap offline / {arm}: {words}"] = text(linear_ratio(frame, times, arm))
    return numbers


FULL: dict[str, Any] = {
    "replicas": 64,
    "instance": 0,
    "eta": 0.5,
    "rounds": 3,
    "batch": 256,
    "dims": [64, 128],
    "prompts": 96,
    "pool": 48,
    "times": [1, 32],
    "ridges": [0.3, 3.0, 30.0],
}

QUICK: dict[str, Any] = {
    **FULL,
    "replicas": 4,
    "batch": 24,
    "dims": [16],
    "prompts": 24,
    "pool": 16,
    "times": [1, 32],
}

STUDY = Theorem(
    name="worth-of-labels",
    title="What a label is worth by where its pairs come from",
    claim=(
        "The constants tr(F⁻¹C*)/(2η) say whom linear learners with enough labels let win: pairs "
        "from π0, from the current policies, from both, or the extremes of several draws."
    ),
    source="theory sheet 12.19",
    assumptions=(
        "Labels are Bradley-Terry's with the best linear account of the gold reward.",
        "The constants are limits of many labels with exact planning, judged where n η² is at "
        f"least {LARGE:g} tr(F⁻¹C*).",
    ),
    departures=("A label is a pair of two different responses.",),
    quick=QUICK,
    full=FULL,
    parts=parts,
    measure=measure,
    judge=judge,
    draw=draw,
    caption=caption,
    constants=constants,
)
