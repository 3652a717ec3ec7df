"""The first figure of the README: online against offline labels, and what theory predicts.

    rlhf-theory reproduce online-against-offline --full --out results/first
    python benchmarks/first_figure.py results/first docs/online-against-offline.svg

Draws the gaps that the theorem card `online-against-offline` has measured, and the limits that it
computed from the problem alone. A few minutes for the card, a second for the figure.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from rlhf_theory.evaluation.statistics import mean_interval
from rlhf_theory.plots import axes, curves, style
from rlhf_theory.theorems.stored import read_curves, read_verdict

CARD = "online-against-offline"
OFFLINE, ONLINE = "offline, π0 × π0", "iterates × iterates"
WORDS = {
    OFFLINE: "offline: both responses from π₀",
    ONLINE: "online: both from the policy learnt so far",
}


def draw(folder: Path) -> Figure:
    """Draw the card's world with poor coverage, both arms over the number of labels."""
    gaps = read_curves(folder / CARD).query("world == 'poor'")
    card = read_verdict(folder / CARD)
    if card is None:
        message = f"{folder} must hold the card {CARD}; make it as the head of this file says."
        raise ValueError(message)
    fig, (panel,) = style.figure(aspect=0.52)
    axes.log_axes(panel)

    last = {}
    for index, (arm, words) in enumerate(WORDS.items()):
        table = gaps[gaps["arm"] == arm].pivot_table(
            index="replica", columns="labels", values=["used", "gap"]
        )
        labels = table["used"].mean().to_numpy()
        mean = mean_interval(table["gap"].to_numpy())
        look = style.series(index)
        band = (mean.value, mean.lower, mean.upper)
        curves.curve(panel, labels, *band, words, look.color, look.line, width=1.8)
        last[arm] = (table["used"] * table["gap"]).mean().iloc[-1]

    ends = np.array([100.0, 50_000.0])
    limits = {
        arm: card.constants[f"limit of labels × gap, {arm}, π0 covers π* poorly"] for arm in WORDS
    }
    for arm, label in ((OFFLINE, "limits computed from the problem alone"), (ONLINE, "")):
        dots = (0, (1, 1.5))
        curves.curve(panel, ends, limits[arm] / ends, label=label, color="ink", style=dots, width=1)

    measured, predicted = last[OFFLINE] / last[ONLINE], limits[OFFLINE] / limits[ONLINE]
    panel.set(
        xlim=ends,
        ylim=(2e-4, 0.7),
        xlabel="answered comparisons",
        ylabel="suboptimality J(π*) − J(π̂)",
        title=f"An online label is worth {measured:.2f} offline ones here; "
        f"theory predicts {predicted:.2f}",
    )
    axes.legend(fig, inside=panel, loc="lower left")
    note = (
        "π₀ avoids the good responses; 20 prompts of 10 each\n"
        f"linear reward with d = 5, η = {card['constants']['η']}, Bradley–Terry labels\n"
        f"mean of {gaps['replica'].nunique()} replicas, 95 % intervals"
    )
    place = {"transform": panel.transAxes, "ha": "right", "va": "top"}
    panel.text(0.985, 0.96, note, color=style.MUTED, **place)
    return fig


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    # Letters as outlines: the page that shows the file may not have the font.
    with style.theme(), mpl.rc_context({"svg.fonttype": "path"}):
        draw(source).savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
    print(target)
