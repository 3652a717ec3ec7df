"""What rules for confidence sets are, and what they share.

A composed rule says of which parts it is made (`Composed`); `radius_of`, `fit_of` and `set_of`,
which ask the parts, are its methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from rlhf_theory import bounds
from rlhf_theory.arrays import Array, expand_rows, full_like, namespace
from rlhf_theory.core import ConfidenceSet, Problem, Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.errors import check_positive, check_probability
from rlhf_theory.estimators.ball_mle import ball_mle
from rlhf_theory.estimators.mle import logistic_mle
from rlhf_theory.estimators.scaling import scaled
from rlhf_theory.register import Example, asked_by, register


@runtime_checkable
class Scalable(ConfidenceSet, Protocol):
    """A confidence set whose width can be multiplied."""

    def rescaled(self, multiplier: float) -> Scalable:
        """Return the set with its width multiplied."""
        ...


@asked_by("radius")
@runtime_checkable
class ConfidenceRule(Protocol):
    """A rule for confidence sets; also a `Radius`."""

    def __call__(self, data: PreferenceData, problem: Problem) -> Array:
        """Return the radius for a reward that is linear in ``phi``, shape ``(R,)``."""
        ...

    def fit(
        self,
        data: PreferenceData,
        design: Design | None = None,
        start: Solution[Array] | None = None,
    ) -> Solution[Array]:
        """Return the estimate that the rule is valid for, shape ``(R, p)``."""
        ...

    def confidence_set(
        self,
        fit: Solution[Array],
        data: PreferenceData,
        problem: Problem | None = None,
        design: Design | None = None,
    ) -> Scalable:
        """Return the set around an estimate.

        Parameters
        ----------
        fit
            The estimate, from the same data and design.
        data
            Comparisons.
        problem
            What is known beyond them; the rules here do not need it.
        design
            ``data.differences`` (the default) for rewards, ``data.skew`` for bilinear preferences.
        """
        ...


R = TypeVar("R", bound=Callable[..., ConfidenceRule])


def radius(name: str, *examples: Example) -> Callable[[R], R]:
    """Return a decorator that makes a class a confidence rule with a name; see `register.Facts`."""
    return register("radius", name, *examples)


class Composed(Protocol):
    """A rule that says what it is made of."""

    @property
    def parts(self) -> ConfidenceRule:
        """What the rule is made of."""
        ...


def radius_of(rule: Composed, data: PreferenceData, problem: Problem) -> Array:
    """Return the radius for the differences, shape ``(R,)``."""
    return rule.parts(data, problem)


def fit_of(
    rule: Composed,
    data: PreferenceData,
    design: Design | None = None,
    start: Solution[Array] | None = None,
) -> Solution[Array]:
    """Return the estimate that the rule is valid for, shape ``(R, p)``."""
    return rule.parts.fit(data, design, start)


def set_of(
    rule: Composed,
    fit: Solution[Array],
    data: PreferenceData,
    problem: Problem | None = None,
    design: Design | None = None,
) -> Scalable:
    """Return the set around the estimate; see `ConfidenceRule`."""
    return rule.parts.confidence_set(fit, data, problem, design)


def check_rule(rule: Any) -> None:
    """Raise ``ValueError`` for settings of a rule that cannot work; None is no setting."""
    for name in ("theta_bound", "lam", "scale", "z_max", "n_draws"):
        value = getattr(rule, name, None)
        if value is not None:
            check_positive(name, value)
    if hasattr(rule, "delta"):
        check_probability("delta", rule.delta)
    _ = rule.parts  # which refuse the rest


def rule_rows(data: PreferenceData, design: Design | None, scale: float) -> Design:
    """Return the design, differences unless given, with the scale of the labels in its rows."""
    return scaled(data.differences if design is None else design, scale)


@dataclass(frozen=True)
class Ball:
    """The ball ``|theta| <= B`` of truth and estimate: the MLE over it, and what it bounds.

    Attributes
    ----------
    theta_bound
        ``B``.
    z_max
        Bound on ``|z|`` before scaling; None takes the longest row of the design.
    scale
        Known scale ``s`` of the labels; rows count as ``s z``.
    """

    theta_bound: float
    z_max: float | None = None
    scale: float = 1.0

    def __call__(
        self,
        data: PreferenceData,
        design: Design | None = None,
        start: Solution[Array] | None = None,
    ) -> Solution[Array]:
        """Return the MLE over the ball, without ridge, shape ``(R, p)``."""
        rows = rule_rows(data, design, self.scale)
        return ball_mle(rows, data.count, data.wins, bound=self.theta_bound, start=start)

    def longest(self, rows: Design, count: Array) -> Array:
        """Return the bound on ``|z|`` for scaled rows, shape ``(R,)``; at least a tiny number.

        Every bound here is proved for the rows at hand, so the longest of them will do even where
        the data chose them.
        """
        if self.z_max is not None:
            return full_like((count.shape[0],), self.scale * self.z_max, count)
        xp = namespace(count)
        tiny = float(xp.finfo(count.dtype).smallest_normal)
        return xp.maximum(expand_rows(rows.z_max, count.shape[0]), full_like((1,), tiny, count))

    def curvature(self, rows: Design, count: Array) -> Array:
        """Return the least slope ``gamma`` of the logistic over the ball, shape ``(R,)``."""
        return bounds.curvature(self.theta_bound * self.longest(rows, count))


@dataclass(frozen=True)
class Ridge:
    """The minimiser of ``L(theta) + (lambda / 2) |theta|^2``; ``scale`` as in `Ball`."""

    lam: float
    scale: float = 1.0

    def __call__(
        self,
        data: PreferenceData,
        design: Design | None = None,
        start: Solution[Array] | None = None,
    ) -> Solution[Array]:
        """Return the estimate, shape ``(R, p)``."""
        rows = data.differences if design is None else design
        return logistic_mle(
            rows, data.count, data.wins, ridge=self.lam, scale=self.scale, start=start
        )
