"""The theorems: one module each, loaded when asked for."""

from __future__ import annotations

import importlib

from rlhf_theory.errors import check_choice
from rlhf_theory.theorems.card import Check, Progress, Sweep, Theorem, Verdict

__all__ = ["NAMES", "Check", "Progress", "Sweep", "Theorem", "Verdict", "load"]

NAMES: tuple[str, ...] = (
    "offline-pessimism",
    "greedy-fails",
    "online-optimism",
    "online-hybrid",
    "nash-general-preference",
    "confidence-coverage",
    "fast-rates",
    "reward-hacking",
    "online-against-offline",
    "chi-squared",
)
"""All theorems, in the order of the report."""


def load(name: str) -> Theorem:
    """Return a theorem by its name.

    Parameters
    ----------
    name
        One of ``NAMES``.

    Raises
    ------
    ValueError
        For an unknown name; the message has the nearest known one.
    """
    check_choice("theorem", name, NAMES)
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    theorem: Theorem = module.THEOREM
    return theorem
