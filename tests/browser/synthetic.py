"""A study that nobody ran: curves of a known shape, as tables and figures of a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rlhf_theory.plots import axes, curves, style
from rlhf_theory.plots.figures import save
from rlhf_theory.randomness import Key
from rlhf_theory.report import Failure, Sheet, table_of, write_study_page

WORLDS = {"easy": "linear", "linear dim=8": "linear", "tabular": "tabular", "cycle": "intransitive"}
LEARNERS = ("GSHF", "on-policy", "uniform", "XPO", "pessimistic", "greedy")
METRIC = {"intransitive": "exploitability"}

STUDY = """\
format = 2
name = "easy"
title = "What exploration buys"
seed = 0
replicas = 256
rounds = 1000

[[world]]
kind = "linear"
label = "easy"
dim = { grid = [4, 8] }

[[learner]]
kind = "online-iterative"
label = "GSHF"
batch_size = 32
enhancer = { kind = "optimistic", form = "constrained" }
"""


def frame(replicas: int = 32) -> pd.DataFrame:
    """Return the tidy table of the study: one row per world, learner, replica and round."""
    t = np.unique(np.concatenate([np.arange(10), np.logspace(1, 3, 40).round()])).astype(int)
    rows = []
    for w, (world, family) in enumerate(WORLDS.items()):
        for k, learner in enumerate(LEARNERS):
            noise = Key(seed=0).child(f"{world} {learner}").uniform_numpy(replicas, len(t))
            level = (0.4 + 0.2 * w) * (1 + 0.35 * k)
            gap = level * (t + 3.0) ** -(0.9 - 0.08 * k) * (0.6 + 0.8 * noise)
            rows.append(
                pd.DataFrame(
                    {
                        "world": world,
                        "family": family,
                        "learner": learner,
                        "metric": METRIC.get(family, "gap"),
                        "replica": np.repeat(np.arange(replicas), len(t)),
                        "round": np.tile(t, replicas),
                        "gap": gap.ravel(),
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def _band(table: pd.DataFrame) -> pd.DataFrame:
    return table.groupby("round")["gap"].agg(
        mean="mean", lower=lambda v: v.quantile(0.05), upper=lambda v: v.quantile(0.95)
    )


@style.theme()
def draw(table: pd.DataFrame, worlds: list[str], folder: Path) -> Path:
    """Draw the suboptimality over rounds, one panel per world; return the folder."""
    folder.mkdir(parents=True)
    wide = len(worlds) > 1
    fig, panels = style.figure(len(worlds), 1, width="text" if wide else "column")
    for ax, world in zip(panels, worlds, strict=True):
        for k, learner in enumerate(LEARNERS):
            part = _band(table[(table["world"] == world) & (table["learner"] == learner)])
            look = style.series(k)
            curves.curve(
                ax,
                part.index[1:],
                part["mean"][1:],
                part["lower"][1:],
                part["upper"][1:],
                learner,
                look.color,
                look.line,
            )
        curves.bound(ax, part.index[1:], 4 / np.sqrt(part.index[1:]), "d / √round")
        ax.set(title=world, xlabel="round", ylabel="suboptimality", xscale="log", yscale="log")
    axes.legend(fig)
    save(fig, folder, "Means; the band is the 5 to 95 % quantiles over replicas.")
    return folder


@style.theme()
def draw_scores(table: pd.DataFrame, folder: Path) -> Path:
    """Draw a bar per learner; return the folder."""
    folder.mkdir(parents=True)
    fig, (ax,) = style.figure(1, 1, width="column")
    last = table[table["round"] == table["round"].max()]
    means = 1 - last.groupby("learner", sort=False)["gap"].mean()
    curves.bars(ax, list(LEARNERS), means, means - 0.02, means + 0.02, "score")
    ax.set(title="Score", xlabel="score, 1 is optimal")
    save(fig, folder, "Means; the lines are 95 % intervals.")
    return folder


def sheets(folder: Path) -> list[Sheet]:
    """Return the figures in ``folder``: two worlds, three side by side, scores."""
    caption = (
        "Means over 32 replicas; the band is the 5 to 95 % quantiles. Dashed: the bound d / √t."
    )
    first = list(WORLDS)[:3]
    return [
        *(
            Sheet(
                folder=folder / f"world{k}",
                title=f"Suboptimality, {world}",
                caption=caption,
                tags={
                    "world": world,
                    "family": WORLDS[world],
                    "learner": LEARNERS,
                    "plot": "suboptimality",
                },
            )
            for k, world in enumerate(first[:2])
        ),
        Sheet(
            folder=folder / "all",
            title="Suboptimality, by world",
            caption=caption,
            tags={"world": first, "learner": LEARNERS, "plot": "facets"},
        ),
        Sheet(
            folder=folder / "scores",
            title="Scores",
            caption="Mean score over worlds; the lines are 95 % intervals.",
            tags={"learner": LEARNERS, "plot": "scores"},
        ),
    ]


def draw_all(table: pd.DataFrame, folder: Path) -> list[Sheet]:
    """Draw the figures of the study into ``folder``; return them."""
    first = list(WORLDS)[:3]
    for k, world in enumerate(first[:2]):
        draw(table, [world], folder / f"world{k}")
    draw(table, first, folder / "all")
    draw_scores(table, folder / "scores")
    return sheets(folder)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per world and learner, at the last round."""
    last = table[table["round"] == table["round"].max()]
    grouped = last.groupby(["world", "family", "learner", "metric"], sort=False)["gap"]
    found = grouped.agg(
        mean="mean",
        spread="std",
        q05=lambda v: v.quantile(0.05),
        q95=lambda v: v.quantile(0.95),
        replicas="count",
    ).reset_index()
    half = 1.96 * found["spread"] / np.sqrt(found["replicas"])
    return found.assign(lower=found["mean"] - half, upper=found["mean"] + half)


def comparisons(table: pd.DataFrame) -> pd.DataFrame:
    """Return the first learner against the others, world by world; one has no p-value."""
    means = summary(table).pivot_table(index="world", columns="learner", values="mean", sort=False)
    rows = [
        {
            "world": world,
            "first": LEARNERS[0],
            "second": other,
            "difference": means.loc[world, LEARNERS[0]] - means.loc[world, other],
            "p": 10.0 ** -(k + 2),
        }
        for world in WORLDS
        for k, other in enumerate(LEARNERS[1:])
    ]
    found = pd.DataFrame(rows)
    found.loc[7, "p"] = np.nan
    return found.assign(
        lower=found["difference"] * 1.2, upper=found["difference"] * 0.8, holm=3 * found["p"]
    )


def write(folder: Path, figures: list[Sheet] | None = None) -> Path:
    """Write the page of the study as ``folder/report.html``; return the path."""
    table = frame()
    last = summary(table)
    tags = {"world": "world", "family": "family", "learner": "learner"}
    cells = last.assign(state="finished", key=[f"{n:020x}" for n in range(len(last))])
    cells.loc[3, "state"] = "failed"
    return write_study_page(
        folder / "report.html",
        name="easy",
        title="What exploration buys",
        lead="Six learners in four worlds, J = E r − η KL(π‖π_0), with <paired> replicas.",
        facts={"Cells": 24, "Replicas": 256, "Finished": 23, "Failed": 1, "rlhf-theory": "0.1.0"},
        tables={
            "Summary": table_of(
                last,
                {
                    "World": "world",
                    "Learner": "learner",
                    "Metric": "metric",
                    "Mean": "mean",
                    "95 % interval": ("lower", "upper"),
                    "5–95 % quantiles": ("q05", "q95"),
                    "Replicas": "replicas",
                },
                tags=tags,
                caption="Suboptimality after 1000 rounds. Smaller is better.",
            ),
            "Paired comparisons": table_of(
                comparisons(table),
                {
                    "World": "world",
                    "First": "first",
                    "Second": "second",
                    "Difference": "difference",
                    "95 % interval": ("lower", "upper"),
                    "p": "p",
                    "Holm p": "holm",
                },
                tags={"world": "world", "learner": ["first", "second"]},
                caption="Negative: the first is better. Holm's p-values are over all rows.",
            ),
        },
        figures=draw_all(table, folder / "figures") if figures is None else figures,
        cells=table_of(
            cells,
            {"World": "world", "Learner": "learner", "Key": "key", "State": "state"},
            tags=tags,
        ),
        failures=[
            Failure(
                block="easy, XPO, replicas 0 to 63",
                error="ConvergenceError: Replicas 3, 17 did not reach residual 1e-10",
                traceback="Traceback (most recent call last):\n  in step\nError: <&>",
                attempts=3,
                tags={"world": "easy", "family": "linear", "learner": "XPO"},
            )
        ],
        study_toml=STUDY,
        resolved={
            "name": "easy",
            "seed": 0,
            "worlds": [{"kind": "linear", "dim": d} for d in (4, 8)],
        },
        provenance=[
            {
                "start": "2026-01-02T03:04:05Z",
                "command": ["rlhf-theory", "run", "easy.toml"],
                "backend": "local",
                "jobs": 2,
                "versions": {"rlhf-theory": "0.1.0", "numpy": np.__version__},
            }
        ],
    )
