"""Whether something can be a learner, before and after it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rlhf_theory.register import Entry
from rlhf_theory.studies.entries import role_of

_METHODS = ("init", "step", "policy")
_FITS = ("learner", "part")
"""Roles in which a class is no other thing than a learner: its own, and none."""


def check_target(entry: Entry) -> None:
    """Raise ``ValueError`` where a class or function can make no learner, whatever its settings.

    Parameters
    ----------
    entry
        Of any role; only learners are looked at.
    """
    if entry.role != "learner" or entry.source == "built in":
        return
    target = entry.target
    if inspect.isclass(target):
        if (role := role_of(target)) not in _FITS:
            raise ValueError(_complaint(f"the {role} {target.__name__}"))
        # Of its own: every class can be called, which makes an object of it.
        own = [vars(c)["__call__"] for c in target.__mro__ if "__call__" in vars(c)]
        offline = bool(own) and _takes_three(own[0], 1)
        unclear = hasattr(target, "__getattr__")  # its objects may pass everything on
        if not (_has_methods(target) or offline or unclear):
            raise ValueError(_complaint(f"the class {target.__name__}"))
        return
    # A function is taken to return a learner; its arguments are settings, given by name.
    parameters = _parameters(target)
    if parameters is None or any(p.kind is p.POSITIONAL_ONLY for p in parameters):
        raise ValueError(_complaint(f"the function {_name(target)}"))
    if {"problem", "data", "key"} <= {p.name for p in parameters}:
        message = (
            f"is no learner, but the function {_name(target)}: write a class with this function "
            "as `__call__(self, problem, data, key)`; its fields are the settings."
        )
        raise ValueError(message)


def is_online_learner(learner: Any) -> bool:
    """Return whether a learner plays rounds; ``ValueError`` for what is no learner."""
    if _has_methods(learner):
        return True
    role = role_of(type(learner))
    if hasattr(learner, "step") or not callable(learner) or role not in _FITS:
        raise ValueError(_complaint(type(learner).__name__))
    if not _takes_three(learner, 0):
        raise ValueError(_complaint(type(learner).__name__))
    return False


def _has_methods(value: object) -> bool:
    fields = getattr(value, "__dataclass_fields__", {}) if inspect.isclass(value) else {}
    return all(callable(getattr(value, name, None)) or name in fields for name in _METHODS)


def _takes_three(call: Callable[..., Any], more: int) -> bool:
    """Return whether a call with (problem, data, key), after ``more`` others, fits."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # compiled code may not say what it takes
        return True
    try:
        signature.bind(*[None] * (3 + more))
    except TypeError:
        return False
    return True


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return the parameters of a function; None for compiled code that does not say them."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def _name(target: object) -> str:
    return str(getattr(target, "__name__", type(target).__name__))


def _complaint(got: str) -> str:
    return (
        "is no learner: an online one has `init`, `step` and `policy`, an offline one is "
        f"called with (problem, data, key); got {got}."
    )
