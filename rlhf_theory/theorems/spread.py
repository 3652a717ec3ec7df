"""The spread of win probabilities, as every card shows it."""

from __future__ import annotations

from rlhf_theory.worlds.bandit import Bandit


def label_spread(world: Bandit, where: str = "") -> dict[str, float | str]:
    """Return the 5 %, 50 % and 95 % quantiles of the win probabilities, and a warning if need be.

    The warning says that labels are nearly deterministic; ``where`` tells worlds of one card apart.
    """
    facts = world.summary()
    low, middle, high = facts["win_probability_quantiles"]
    shown: dict[str, float | str] = {
        f"win probabilities (5 %, 50 %, 95 %){where}": f"{low:.2f}, {middle:.2f}, {high:.2f}"
    }
    if "warning" in facts:
        shown[f"warning{where}"] = facts["warning"]
    return shown
