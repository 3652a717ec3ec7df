"""Decorators that give parts of studies a name; type checkers hold each to its protocol here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from rlhf_theory.core import (
    Enhancer,
    OfflineAlgorithm,
    OnlineAlgorithm,
    Planner,
    Policy,
)
from rlhf_theory.register import Example, register

Model = Literal["reward", "game"]
"""What is learnt from the labels: a reward, or the payoff of a game."""

# A class is a function that returns its objects.
L = TypeVar("L", bound=Callable[..., OfflineAlgorithm | OnlineAlgorithm[Any]])
E = TypeVar("E", bound=Callable[..., Enhancer])
P = TypeVar("P", bound=Callable[..., Planner[Any]])
Q = TypeVar("Q", bound=Callable[..., Policy])


def learner(name: str, *examples: Example, model: Model = "reward") -> Callable[[L], L]:
    """Return a decorator that makes a class a learner with a name.

    Parameters
    ----------
    name, *examples
        See `register.Facts`.
    model
        What it learns, and enhancers of which kind it takes therefore.
    """
    return register("learner", name, *examples, more=model)


def enhancer(name: str, *examples: Example, model: Model | None = None) -> Callable[[E], E]:
    """Return a decorator that makes a class an enhancer with a name.

    Parameters
    ----------
    name, *examples
        See `register.Facts`.
    model
        Learners of which model it explores for; None for all.
    """
    return register("enhancer", name, *examples, more=model)


def planner(name: str, *examples: Example) -> Callable[[P], P]:
    """Return a decorator that makes a class a planner with a name; see `register.Facts`."""
    return register("planner", name, *examples)


def policy(name: str, *examples: Example) -> Callable[[Q], Q]:
    """Return a decorator that makes a class a policy with a name; see `register.Facts`."""
    return register("policy", name, *examples)
