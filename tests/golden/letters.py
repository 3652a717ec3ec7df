"""A reward and a preference of texts that tell untrained answers apart, by their letters."""

from __future__ import annotations

import math


def reward(prompt: str, response: str) -> float:
    """Four times the share of vowels; a little more where the prompt has the first letter."""
    vowels = sum(response.count(v) for v in "aeiou")
    return 4.0 * vowels / max(1, len(response)) + 0.5 * (response[:1] in prompt)


def preference(prompt: str, first: str, second: str) -> float:
    """More vowels win; beside that the number of words modulo 3 goes in a circle."""
    cycle = (0.0, 0.8, -0.8)[(len(first.split()) - len(second.split())) % 3]
    return 1.0 / (1.0 + math.exp(reward(prompt, second) - reward(prompt, first) - cycle))
