r"""Rules for confidence sets: from data to a radius, and to the set that the radius belongs to.

R1 and R2 are radii in ``V = lambda I + sum z z^T``, R3 to R5 in ``H(theta_hat) + lambda I``: ask a
rule for its ``confidence_set`` and the two cannot be confused. All but `R2Ridge` and `Constant`
hold for the MLE over the ball ``|theta| <= B`` without ridge, which a rule's ``fit`` computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rlhf_theory.arrays import Array, full_like
from rlhf_theory.core import ConfidenceSet, Problem, Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.errors import check_nonnegative, check_positive
from rlhf_theory.estimators.curvature_rules import R1, R2, R1Prime, R2Prime, R2Ridge
from rlhf_theory.estimators.ellipsoid import Ellipsoid, ellipsoid, hessian_ellipsoid
from rlhf_theory.estimators.likelihood_rules import R3, R4, R5
from rlhf_theory.estimators.likelihood_set import LikelihoodSet
from rlhf_theory.estimators.mle import logistic_mle

__all__ = [
    "R1",
    "R2",
    "R3",
    "R4",
    "R5",
    "ConfidenceRule",
    "Constant",
    "Ellipsoid",
    "LikelihoodSet",
    "R1Prime",
    "R2Prime",
    "R2Ridge",
    "Scalable",
    "Scaled",
    "ellipsoid",
    "hessian_ellipsoid",
    "label_scale",
]


@runtime_checkable
class Scalable(ConfidenceSet, Protocol):
    """A confidence set whose width can be multiplied."""

    def rescaled(self, multiplier: float) -> Scalable:
        """Return the set with its width multiplied."""
        ...


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


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A given radius in ``V = lambda I + sum z z^T``, such as the ``c sqrt(d)`` of the papers.

    Attributes
    ----------
    beta
        Radius, at least 0; 0 is no pessimism and no optimism.
    lam
        ``lambda`` in ``V`` and ridge of the estimate, positive.
    scale
        Known scale ``s`` of the labels; rows count as ``s z``.
    """

    beta: float
    lam: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_nonnegative("beta", self.beta)
        check_positive("lam", self.lam)
        check_positive("scale", self.scale)

    def __call__(self, data: PreferenceData, problem: Problem) -> Array:  # noqa: ARG002
        """Return the radius, shape ``(R,)``."""
        return full_like((data.count.shape[0],), self.beta, data.count)

    def fit(
        self,
        data: PreferenceData,
        design: Design | None = None,
        start: Solution[Array] | None = None,
    ) -> Solution[Array]:
        """Return the ridge estimate, shape ``(R, p)``."""
        rows = data.differences if design is None else design
        return logistic_mle(
            rows, data.count, data.wins, ridge=self.lam, scale=self.scale, start=start
        )

    def confidence_set(
        self,
        fit: Solution[Array],
        data: PreferenceData,
        problem: Problem | None = None,  # noqa: ARG002
        design: Design | None = None,
    ) -> Ellipsoid:
        """Return the ellipsoid in ``V`` around the estimate; see `ConfidenceRule`."""
        return ellipsoid(fit.value, data, self.lam, self.beta, design=design, scale=self.scale)


@dataclass(frozen=True)
class Scaled:
    """A bonus multiplier: the rule with the widths of its sets multiplied.

    Theoretical radii make bonuses vacuous at realistic ``n`` (theory sheet 12.16). Below 1 the set
    has no guarantee.

    Attributes
    ----------
    rule
        The rule.
    multiplier
        At least 0; 0 leaves the estimate alone. A threshold on the likelihood is multiplied by its
        square.
    """

    rule: ConfidenceRule
    multiplier: float

    def __post_init__(self) -> None:
        check_nonnegative("multiplier", self.multiplier)

    def __call__(self, data: PreferenceData, problem: Problem) -> Array:
        """Return the multiplied radius, shape ``(R,)``."""
        return self.multiplier * self.rule(data, problem)

    def fit(
        self,
        data: PreferenceData,
        design: Design | None = None,
        start: Solution[Array] | None = None,
    ) -> Solution[Array]:
        """Return the estimate of the rule, shape ``(R, p)``."""
        return self.rule.fit(data, design, start)

    def confidence_set(
        self,
        fit: Solution[Array],
        data: PreferenceData,
        problem: Problem | None = None,
        design: Design | None = None,
    ) -> Scalable:
        """Return the rule's set around the estimate, with its width multiplied."""
        return self.rule.confidence_set(fit, data, problem, design).rescaled(self.multiplier)


def label_scale(rule: ConfidenceRule) -> float:
    """Return the scale ``s`` of the labels that a rule knows; 1 where it knows of none."""
    inner: Any = rule
    while isinstance(inner, Scaled):
        inner = inner.rule
    return float(getattr(inner, "scale", 1.0))
