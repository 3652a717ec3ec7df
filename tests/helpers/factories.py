"""Learners for the contract tests: the examples of the register, and each enhancer in a learner."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlhf_theory.register import found
from tests.helpers.registered import examples, made

SMALL_SET = {"kind": "constant", "beta": 0.5}
BATCH = 5

Factories = dict[str, Callable[[], Any]]


def learners() -> Factories:
    """Return the examples of all learners."""
    return {name: partial(made, "learner", **given) for name, given in examples("learner").items()}


def explorers() -> Factories:
    """Return a learner with each example of an enhancer, of every model that it explores for."""
    every: Factories = {}
    for model, kind in (("reward", "online-iterative"), ("game", "nash-game")):
        for name, given in examples("enhancer").items():
            if found("enhancer")[given["kind"]].facts.more in (None, model):
                parts = {"enhancer": given, "radius": SMALL_SET, "batch_size": BATCH}
                every[f"{kind}-{name}"] = partial(made, "learner", kind, **parts)
    return every


_LEARNERS = learners()
ONLINE = {k: v for k, v in _LEARNERS.items() if hasattr(v(), "step")} | explorers()
"""Online learners; settings small, so that a run takes a fraction of a second."""

OFFLINE = {k: v for k, v in _LEARNERS.items() if k not in ONLINE}
"""Offline learners."""


@dataclass(frozen=True)
class Slack:
    """What agrees less than the contract asks, and why."""

    reason: str
    alone: float = 1e-10
    libraries: float = 1e-8


SLACK: dict[str, Slack] = {}
"""Learners by name; empty is the aim."""
