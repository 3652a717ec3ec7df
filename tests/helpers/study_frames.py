"""Synthetic results of a study, and a check that the text of a figure can be read."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from rlhf_theory.plots import studies as figures
from rlhf_theory.plots.studies import StudyFigure
from rlhf_theory.randomness import Key
from rlhf_theory.studies.places import placed
from rlhf_theory.studies.plot_specs import PlotSpec

LEARNERS = (
    "GSHF",
    "on-policy",
    "uniform pairs",
    "XPO",
    "VPO",
    "SELM",
    "double Thompson",
    "MaxInP",
    "D-optimal design",
    "APO",
    "two-stage TMPS",
    "KL-UCB",
    "greedy",
    "OnlineIterative radius.multiplier=0.1",
)


def study_figure(frame, kind="suboptimality", *, settings=None, **options) -> StudyFigure:
    """Return a figure by its kind and options."""
    return figures.study_figure(frame, PlotSpec.of(kind, **options), settings)


def study_frame(
    learners: int = 6,
    dims: tuple[int, ...] = (4, 8),
    *,
    replicas: int = 40,
    points: int = 60,
    end: int = 2000,
    offline: int = 0,
    batch: int = 16,
) -> pd.DataFrame:
    """Return results with power laws of known exponents.

    Learner j has gap ``d (0.3 + 0.12 j) (1 + t)^-(0.5 + 0.05 j)`` times log-normal noise of mean
    one per replica, but that of pi0 at the start; the last ``offline`` learners have pairs, with
    ``t / batch`` for t in the gap. Rows also say what they count, and the place.
    """
    grid = np.unique(np.concatenate([[0], np.round(np.geomspace(1, end, points))]))
    parts = []
    for w, d in enumerate(dims):
        start = 0.5 * d * np.exp(0.2 * Key(1).child("world", w).normal_numpy(replicas, 1))
        for j in range(learners):
            key = Key(1).child("learner", w, j)
            noise = key.normal_numpy(replicas, 2)
            pairs = j >= learners - offline
            t = np.round(np.geomspace(100, end * batch, 5)) if pairs else grid
            law = d * (0.3 + 0.12 * j) * (1.0 + t / (batch if pairs else 1)) ** -(0.5 + 0.05 * j)
            gap = law * np.exp(0.5 * noise[:, :1] - 0.125)
            kl = 0.4 * d * (1 - (1 + t) ** -0.4) * np.exp(0.2 * noise[:, 1:])
            regret = np.full(gap.shape, np.nan)
            if not pairs:
                gap[:, 0] = start[:, 0]
                sums = np.cumsum(gap[:, :-1] * np.diff(t), axis=1)
                regret = np.concatenate([np.zeros((replicas, 1)), sums], axis=1)
            parts.append(
                pd.DataFrame(
                    {
                        "cell": f"{w:02d}{j:02d}",
                        "world": f"linear dim={d}",
                        "learner": LEARNERS[j],
                        "family": "linear",
                        "metric": "gap",
                        "world.dim": d,
                        "replica": np.repeat(np.arange(replicas), len(t)),
                        "round": np.nan if pairs else np.tile(t, replicas),
                        "pairs": np.tile(t, replicas) if pairs else np.nan,
                        "labels": np.tile(t if pairs else t * batch, replicas),
                        "regret": regret.ravel(),
                        "gap": gap.ravel(),
                        "kl": kl.ravel(),
                    }
                )
            )
    return placed(pd.concat(parts, ignore_index=True))


def shown_ticks(axis: Axis) -> list[Text]:
    """Return the labels of the ticks that are drawn."""
    return [
        label
        for tick in axis._update_ticks()
        for label in (tick.label1, tick.label2)
        if label.get_visible() and label.get_text()
    ]


def texts(fig: Figure) -> list[Text]:
    """Return every text that is drawn."""
    found = list(fig.texts)
    for box in fig.legends:
        found += box.get_texts()
    for ax in fig.axes:
        found += [*ax.texts, ax.title, ax._left_title, ax._right_title]
        found += [ax.xaxis.label, ax.yaxis.label, *shown_ticks(ax.xaxis), *shown_ticks(ax.yaxis)]
        if ax.get_legend() is not None:
            found += ax.get_legend().get_texts()
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def text_problems(fig: Figure, slack: float = 0.75) -> list[str]:
    """Return what cannot be read: texts that overlap, and texts outside the sheet.

    Parameters
    ----------
    fig
        Figure that has been laid out.
    slack
        Pixels by which boxes may reach into each other: they are a little larger than the ink.
    """
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(fig)]
    sheet = fig.bbox
    problems = [
        f"{words!r} is outside the sheet: {box}"
        for words, box in boxes
        if box.x0 < sheet.x0 - slack
        or box.y0 < sheet.y0 - slack
        or box.x1 > sheet.x1 + slack
        or box.y1 > sheet.y1 + slack
    ]
    for (a, first), (b, second) in combinations(boxes, 2):
        both = Bbox.intersection(first, second)
        if both is not None and both.width > slack and both.height > slack:
            problems.append(f"{a!r} and {b!r} overlap")
    # A legend may cover no panel.
    for box in fig.legends:
        for ax in fig.axes:
            both = Bbox.intersection(box.get_window_extent(), ax.get_window_extent())
            if both is not None and both.width > slack and both.height > slack:
                problems.append(f"the legend covers {ax.get_title(loc='left')!r}")
    return problems
