"""A world put together from its parts, and records of comparisons."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rlhf_theory.data import PairQuery


def compared(contexts, a1, a2, y):
    """The record of comparisons with labels ``y``."""
    return PairQuery(contexts, a1, a2).answered(y)


@dataclass(frozen=True, eq=False)
class Assembled:
    """A world of one block; ``change(problem, policy, key)`` gives the problem of a round."""

    problem: Any
    feedback: Callable[..., Any]
    evaluate: Callable[..., Any]
    change: Callable[..., Any] | None = None
    data: Any = None
    metrics: tuple[str, ...] = ("gap", "kl")
    name: str = "assembled"
    settings: Any = ()

    def __post_init__(self):
        object.__setattr__(self, "settings", dict(self.settings))

    @property
    def n_replicas(self):
        return self.problem.n_replicas

    def offline_data(self, key, pairs, /, *, onto=None):
        assert pairs == 0
        if onto is not None:
            return onto
        return self.problem.empty_data() if self.data is None else self.data

    def block(self, first, stop):
        assert (first, stop) == (0, self.n_replicas)
        return self

    def next(self, policy, key):
        if self.change is None:
            return self
        return replace(self, problem=self.change(self.problem, policy, key))


@dataclass(frozen=True, eq=False)
class Judged:
    """A judge of a prompt world from a function."""

    evaluate: Callable[..., Any]
    metrics: tuple[str, ...]

    def __call__(self, policy):
        return self.evaluate(policy)
