"""Small theorems for the tests of the machinery: they count their calls, or raise."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

from rlhf_theory.plots import axes, curves, style
from rlhf_theory.register import ROLES, Role, refresh
from rlhf_theory.theorems.card import Check, Part, Theorem


def parts(sweep):
    return [Part({"pairs": n}) for n in sweep["pairs"]]


def measure(sweep, part, key):
    n = np.asarray([part.settings["pairs"]] if part.settings else sweep["pairs"])
    with Path(sweep["counter"]).open("a") as stream:
        stream.write(".")
    gap = key.child("gap").uniform_numpy(sweep["replicas"], len(n)).mean(axis=0) / n
    if part.settings and n != sweep["odd"]:
        return pd.DataFrame({"pairs": n, "gap": gap})
    if sweep["how"] == "raise":
        message = "this study raises <&>"
        raise RuntimeError(message)
    return pd.DataFrame({"pairs": n, "gap": gap})


def judge(table, sweep):
    worst = float(table["gap"].max())
    below = Check(
        name="largest gap",
        measured=worst,
        interval=(worst / 2, 2 * worst),
        required="below 1",
        passed=worst < 1 and sweep["how"] != "fail",
    )
    return [
        below,
        Check(name="ratio", measured=np.inf, interval=None, required="any", passed=np.bool_(True)),
    ]


def draw(table, sweep):
    fig, (ax,) = style.figure(width="column")
    curves.curve(ax, table["pairs"], table["gap"], table["gap"] / 2, table["gap"] * 2, "gap")
    curves.bound(ax, table["pairs"], 1 / table["pairs"])
    ax.set(title="Gap", xlabel="pairs n", ylabel="suboptimality")
    axes.legend(fig)
    return fig


def caption(table, sweep):
    return f"Means over {sweep['replicas']} replicas; the band is half and twice the mean."


def constants(table, sweep):
    return {"β": 3.25, "spread": "0.2 to 0.8", "limit": np.float64(np.nan)}


def fake(
    name: str, folder: Path, how: str = "hold", *, cut: bool = False, **changes: Any
) -> Theorem:
    """Return a theorem that notes its calls in ``folder/NAME.calls``.

    ``how``: hold (every check passes), fail, raise; where it is ``cut`` into parts, only that with
    100 pairs raises.
    """
    sweep = {
        "replicas": 4,
        "pairs": [10, 100, 1000],
        "how": how,
        "odd": 100,
        "counter": str(folder / f"{name}.calls"),
    }
    card: dict[str, Any] = {
        "name": name,
        "title": f"The theorem {name} & its <title>",
        "claim": "J(π*) − J(π) ≤ β‖φ‖",
        "source": "[fake], Theorem 1 (v1)",
        "assumptions": ("Rewards are linear.",),
        "departures": (),
        "quick": sweep,
        "full": {**sweep, "replicas": 8},
        "measure": measure,
        "judge": judge,
        "draw": draw,
        "caption": caption,
        "constants": constants,
    }
    return Theorem(**{**card, **({"parts": parts} if cut else {}), **changes})


def calls(name: str, folder: Path) -> int:
    """Return how often a theorem was measured."""
    path = folder / f"{name}.calls"
    return len(path.read_text()) if path.exists() else 0


@contextmanager
def registered(*cards: Theorem) -> Iterator[None]:
    """Let the register find these theorems only, for a while."""
    home = ModuleType("fake_cards")
    vars(home).update({card.name: card for card in cards})
    sys.modules[home.__name__] = home
    try:
        with mock.patch.dict(ROLES, {"theorem": Role("theorems", home.__name__)}):
            refresh()
            yield
    finally:
        del sys.modules[home.__name__]
        refresh()
