r"""Rules for confidence sets: from data to a radius, and to the set that the radius belongs to.

`FixedDesign`, `Adaptive` and their kin are radii in ``V = lambda I + sum z z^T``; those of
`LikelihoodRatio`, `MarginalLikelihood` and `Wald` are in ``H(theta_hat) + lambda I``: ask a rule
for its ``confidence_set`` and the two cannot be confused. All but `AdaptiveRidge` and `Constant`
hold for the MLE over the ball ``|theta| <= B`` without ridge, which a rule's ``fit`` computes.

Rules are composed of the parts that `DesignRule` and `LikelihoodRule` take. A rule of your own
takes other parts, or holds a rule and says what it changes, as `Scaled` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from rlhf_theory.arrays import Array, full_like
from rlhf_theory.core import Problem, Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.errors import check_nonnegative
from rlhf_theory.estimators.curvature_rules import (
    Adaptive,
    AdaptiveRidge,
    DesignRule,
    FixedDesign,
    GlobalAdaptive,
    GlobalFixedDesign,
    Metric,
)
from rlhf_theory.estimators.ellipsoid import Ellipsoid, ellipsoid, hessian_ellipsoid
from rlhf_theory.estimators.likelihood_rules import (
    LikelihoodRatio,
    LikelihoodRule,
    MarginalLikelihood,
    Wald,
)
from rlhf_theory.estimators.likelihood_set import LikelihoodSet
from rlhf_theory.estimators.rule_parts import (
    ConfidenceRule,
    Ridge,
    Scalable,
    check_rule,
    fit_of,
    radius,
    radius_of,
    set_of,
)

__all__ = [
    "Adaptive",
    "AdaptiveRidge",
    "ConfidenceRule",
    "Constant",
    "DesignRule",
    "Ellipsoid",
    "FixedDesign",
    "GlobalAdaptive",
    "GlobalFixedDesign",
    "LikelihoodRatio",
    "LikelihoodRule",
    "LikelihoodSet",
    "MarginalLikelihood",
    "Scalable",
    "Scaled",
    "Wald",
    "ellipsoid",
    "hessian_ellipsoid",
    "label_scale",
]


@radius("constant", {"beta": 0.5})
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

    __call__, fit, confidence_set = radius_of, fit_of, set_of

    def __post_init__(self) -> None:
        check_rule(self)

    @property
    def parts(self) -> DesignRule:
        """What the rule is made of."""
        check_nonnegative("beta", self.beta)
        return DesignRule(
            metric=partial(Metric, lam=self.lam),
            radius=lambda metric: full_like((metric.count.shape[0],), self.beta, metric.count),
            fit=Ridge(self.lam, self.scale),
        )


@radius("scaled", {"multiplier": 0.5, "rule": "marginal-likelihood"})
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
    """Return the scale ``s`` of the labels that a rule knows; 1 where it knows of none.

    What wraps another, and holds it as ``rule``, knows what that one knows.
    """
    inner: Any = rule
    while not hasattr(inner, "scale") and hasattr(inner, "rule"):
        inner = inner.rule
    return float(getattr(inner, "scale", 1.0))
