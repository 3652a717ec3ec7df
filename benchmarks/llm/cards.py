"""Run the theorem cards of this folder, cut into parts for all workers, as `reproduce` does.

    python -m benchmarks.llm.cards NAME ... [--quick] [--jobs 2] [--backend dask] [--out FOLDER]

The same command goes on where it was stopped. Of a full run, OUT/NAME is what `results` keeps.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_theory.theorems.card import Mode, Theorem, Verdict
from rlhf_theory.theorems.reproduce import reproduce

CARDS = ("realisable", "worth-of-labels", "over-optimised-pools", "planning-oracles")


def card(name: str) -> Theorem:
    """Return the card of a name, which is that of its module."""
    module = importlib.import_module(f"benchmarks.llm.{name.replace('-', '_')}")
    study: Theorem = module.STUDY
    return study


def show(verdict: Verdict) -> None:
    """Print what was found."""
    for check in verdict.checks:
        low, high = check.interval or (math.nan, math.nan)
        word = "ok  " if check.passed else "FAIL"
        print(f"{word} {check.name}: {check.measured:.3f} [{low:.3f}, {high:.3f}]")
    for name, value in verdict.constants.items():
        print(f"  {name}: {value}")
    print(verdict.error or f"{verdict.name}: {verdict.seconds:.0f} s, passed: {verdict.passed}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cards that are named; return 0 if all of them hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", choices=CARDS, metavar="NAME", help=", ".join(CARDS))
    parser.add_argument("--quick", action="store_true", help="few replicas and points")
    parser.add_argument("--replicas", type=int, help="instead of the number of the mode")
    parser.add_argument("--jobs", type=int, help="workers of one thread each; one per core if none")
    parser.add_argument("--backend", help="of `rlhf-theory list backends`")
    parser.add_argument("--out", type=Path, help="results/llm-quick or results/llm-full if none")
    given = parser.parse_args(arguments)
    mode: Mode = "quick" if given.quick else "full"
    found = reproduce(
        [card(name) for name in given.names],
        given.out or Path("results") / f"llm-{mode}",
        mode=mode,
        replicas=given.replicas,
        jobs=given.jobs,
        backend=given.backend,
        say=print,
    )
    for verdict in found:
        show(verdict)
    return 0 if len(found) == len(given.names) and all(v.passed for v in found) else 1


if __name__ == "__main__":
    sys.exit(main())
