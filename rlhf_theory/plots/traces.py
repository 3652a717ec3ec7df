"""Figures of a single run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rlhf_theory.plots import axes, curves, style

_WORDS = {
    "gap": "gap J(π*) − J(π)",
    "jeffreys": "J(π*) − J(π) + η KL(π*‖π)",
    "kl": "KL(π‖π0) in nats",
    "exploitability": "exploitability",
    "labels": "labels",
}


class Recorded(Protocol):
    """What a figure needs of a `Trace`, which draws itself and so must not be imported here."""

    @property
    def index_name(self) -> str:
        """``"round"`` or ``"pairs"``."""
        ...

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        ...

    def summary(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Return mean, interval and quantiles over replicas, per column of a recorded name."""
        ...


def trace_figure(trace: Recorded, name: str) -> Figure:
    """Return a figure of one recorded name against rounds or numbers of pairs.

    The line is the mean over replicas, the dark band its 95 % interval, the thin lines are the 5 %
    and 95 % quantiles over replicas. Logarithmic where all values allow it.
    """
    table = trace.summary([name]).dropna(subset=["mean"])
    x = table[trace.index_name].to_numpy(dtype=float)
    fig, (ax,) = style.figure(1, 1)
    values = table[["mean", "q05"]].to_numpy(dtype=float)
    scales = "y" if values.size and values.min() > 0 and values.max() / values.min() > 20 else ""
    if trace.index_name == "pairs" and x.min() > 0:
        scales += "x"
    if scales:
        axes.log_axes(ax, "".join(sorted(scales)))  # type: ignore[arg-type]
    one = trace.n_replicas == 1
    lower, upper = (None, None) if one else (table["lower"], table["upper"])
    curves.curve(ax, x, table["mean"], lower, upper, "mean", "blue")
    if not one:
        for quantile, label in (("q05", "5 % and 95 % quantiles"), ("q95", "_")):
            curves.curve(ax, x, table[quantile], label=label, color="blue", style=":", width=0.8)
        axes.legend(fig)
    words = {"round": "rounds played", "pairs": "pairs drawn"}[trace.index_name]
    ax.set(xlabel=words, ylabel=_WORDS.get(name, name))
    ax.set_xlim(np.min(x), np.max(x) if np.max(x) > np.min(x) else np.min(x) + 1.0)
    return fig
