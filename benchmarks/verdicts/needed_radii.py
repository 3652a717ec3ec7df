"""How much of each radius the truth needs: the stored quantiles of ``confidence-coverage``.

    python -m benchmarks.verdicts.needed_radii > rlhf_theory/theorems/coverage_needed.json

Fixed design, at fixed numbers of labels; replicas with a seed of their own, so that verdicts at
other seeds are independent of them. Several minutes of one core. To be run again only where the
law of the study is meant to change; a card that disagrees with what is stored has found something.
"""

from __future__ import annotations

import json
import math

import pandas as pd

from rlhf_theory.randomness import Key
from rlhf_theory.theorems.confidence_coverage import THEOREM
from rlhf_theory.theorems.coverage_runs import ALL

REPLICAS = 4096
SEED = 1_000_001
LOOKS = (100, 1000)
QUANTILES = (0.5, 0.95)


def rows() -> list[list[object]]:
    """Return a row for every rule, norm, look and quantile: a k-th smallest share each."""
    sweep = {**THEOREM.sweep("quick", REPLICAS), "block": 256, "labels": [10, *LOOKS]}
    key = Key(seed=SEED).child(THEOREM.name)
    parts = [part for part in THEOREM.parts(sweep) if part.settings["design"] == "fixed"]
    frame = pd.concat([THEOREM.measure(sweep, part, key) for part in parts])
    frame = frame[(frame["look"] != ALL) & frame["look"].isin(LOOKS)]
    found: list[list[object]] = []
    for (rule, norm, look), part in frame.groupby(["rule", "norm", "look"], sort=False):
        used = part["used"].sort_values().to_numpy()
        for quantile in QUANTILES:
            value = float(used[round(quantile * REPLICAS) - 1])
            # Rounded to what changes no count but with a chance of 1e-4.
            digits = 6 - math.floor(math.log10(value))
            found.append([rule, norm, look, quantile, round(value, digits), REPLICAS])
    return found


if __name__ == "__main__":
    print("[\n  " + ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows()) + "\n]")
