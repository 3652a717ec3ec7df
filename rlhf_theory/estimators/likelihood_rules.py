"""Rules with a threshold on the likelihood, and the ellipsoids that it implies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from rlhf_theory import bounds
from rlhf_theory.arrays import Array, full_like, namespace
from rlhf_theory.core import Problem, Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.errors import check_choice
from rlhf_theory.estimators.ball_mle import ball_mle
from rlhf_theory.estimators.ellipsoid import Ellipsoid, hessian_ellipsoid
from rlhf_theory.estimators.evidence import importance_evidence, laplace_evidence
from rlhf_theory.estimators.likelihood_set import LikelihoodSet
from rlhf_theory.estimators.mle import neg_log_likelihood
from rlhf_theory.estimators.rule_parts import (
    Ball,
    check_rule,
    fit_of,
    radius,
    radius_of,
    rule_rows,
    set_of,
)

Form = Literal["ellipsoid", "likelihood"]
Found = Solution[Array] | None
"""The MLE over the ball; what needs it finds it where it is not given."""


def ratio_threshold(
    ball: Ball,
    rows: Design,
    data: PreferenceData,
    fit: Found,  # noqa: ARG001
    delta: float,
) -> Array:
    """Return `bounds.likelihood_ratio_threshold`: for any choice of comparisons, at all times."""
    longest = ball.longest(rows, data.count)
    return bounds.likelihood_ratio_threshold(
        data.n_labels, rows.n_params, ball.theta_bound, longest, delta
    )


def mixture_threshold(
    ball: Ball,
    rows: Design,
    data: PreferenceData,
    fit: Found,
    delta: float,
    evidence: Callable[..., Solution[Array]] = laplace_evidence,
) -> Array:
    """Return `bounds.mixture_threshold` for the prior ``N(0, (B^2 / d) I)``.

    Mass of the prior outside the ball can make it negative (the set is then empty), but not often.
    """
    sample = (rows, data.count, data.wins)
    center = (fit or ball_mle(*sample, bound=ball.theta_bound)).value
    # Harmless where the mode has not converged: a point off it lowers the integral, and so widens
    # the set.
    integral = evidence(*sample, ball.theta_bound**2 / rows.n_params, start=fit)
    return bounds.mixture_threshold(integral.value, neg_log_likelihood(center, *sample), delta)


def wilks_threshold(
    ball: Ball,  # noqa: ARG001
    rows: Design,
    data: PreferenceData,
    fit: Found,  # noqa: ARG001
    delta: float,
) -> Array:
    """Return half the chi-squared quantile: asymptotic, at one time fixed in advance."""
    value = bounds.wilks_threshold(rows.n_params, delta)
    return full_like((data.count.shape[0],), value, data.count)


@dataclass(frozen=True, kw_only=True)
class LikelihoodRule:
    """A rule made of a threshold on the likelihood, the radius that it implies, and an estimate.

    Attributes
    ----------
    level
        Returns the threshold on ``L(theta) - L(theta_hat)`` for ball, scaled rows, data and, where
        it is known, the estimate; such as `ratio_threshold`.
    fit
        The ball over which the MLE is taken.
    lam, form
        As in `LikelihoodRatio`.
    radius
        Radius in ``H(theta_hat) + lambda I`` for threshold, ``B``, bound on ``|z|``, ``lambda``.
    """

    level: Callable[[Ball, Design, PreferenceData, Found], Array]
    fit: Ball
    lam: float
    form: Form = "ellipsoid"
    radius: Callable[[Array, float, Array, float], Array] = bounds.hessian_radius

    def __post_init__(self) -> None:
        check_choice("form", self.form, ("ellipsoid", "likelihood"))

    @property
    def scale(self) -> float:
        """Known scale ``s`` of the labels."""
        return self.fit.scale

    def threshold(
        self, data: PreferenceData, design: Design | None = None, fit: Found = None
    ) -> Array:
        """Return the threshold on ``L(theta) - L(theta_hat)``, shape ``(R,)``.

        ``fit`` is the MLE over the ball; what needs it finds it where it is not given.
        """
        return self.level(self.fit, rule_rows(data, design, self.scale), data, fit)

    def beta(self, data: PreferenceData, design: Design | None = None, fit: Found = None) -> Array:
        """Return the radius in ``H(theta_hat) + lambda I``, shape ``(R,)``; ``fit`` as above."""
        threshold = self.threshold(data, design, fit)
        # A negative threshold (an empty set) leaves the radius of the estimate alone.
        xp = namespace(threshold)
        positive = xp.where(threshold > 0, threshold, xp.zeros_like(threshold))
        longest = self.fit.longest(rule_rows(data, design, self.scale), data.count)
        return self.radius(positive, self.fit.theta_bound, longest, self.lam)

    def __call__(self, data: PreferenceData, problem: Problem) -> Array:  # noqa: ARG002
        """Return the radius in ``H(theta_hat) + lambda I`` of the differences, shape ``(R,)``."""
        return self.beta(data)

    def confidence_set(
        self,
        fit: Solution[Array],
        data: PreferenceData,
        problem: Problem | None = None,  # noqa: ARG002
        design: Design | None = None,
    ) -> Ellipsoid | LikelihoodSet:
        """Return the set around the estimate in the form asked for; see `ConfidenceRule`."""
        if self.form == "likelihood":
            rows, bound = rule_rows(data, design, self.scale), self.fit.theta_bound
            threshold = self.threshold(data, design, fit)
            return LikelihoodSet(fit.value, rows, data.count, data.wins, threshold, bound=bound)
        beta = self.beta(data, design, fit)
        return hessian_ellipsoid(fit.value, data, self.lam, beta, design=design, scale=self.scale)


@radius("likelihood-ratio")
@dataclass(frozen=True, kw_only=True)
class LikelihoodRatio:
    """Likelihood ratio, for any choice of comparisons, at all times at once.

    Attributes
    ----------
    theta_bound
        ``B``; the truth and the estimate have ``|theta| <= B``.
    delta
        Failure probability.
    lam
        ``lambda`` in the metric ``H(theta_hat) + lambda I`` of the ellipsoid, positive. It makes
        the metric invertible and costs ``4 lambda B^2`` in the squared radius.
    z_max
        Bound on ``|z|`` before scaling; None takes the longest row of the design.
    scale
        Known scale ``s`` of the labels; rows count as ``s z``.
    form
        ``"ellipsoid"``, or ``"likelihood"`` for the set itself within the ball: smaller, but each
        bound costs a small convex program.

    Source: Lee, Yun and Jun (2024), unified confidence sequences; R3 of theory sheet 10.4.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0
    form: Form = "ellipsoid"

    __call__, fit, confidence_set = radius_of, fit_of, set_of

    def __post_init__(self) -> None:
        check_rule(self)

    @property
    def parts(self) -> LikelihoodRule:
        """What the rule is made of."""
        return _in_ball(self, ratio_threshold)


@radius("marginal-likelihood")
@dataclass(frozen=True, kw_only=True)
class MarginalLikelihood:
    """Marginal likelihood under the prior ``N(0, (B^2 / d) I)``; recommended.

    For any rule that chooses comparisons, at all times at once. Settings as in `LikelihoodRatio`,
    and

    Attributes
    ----------
    integral
        ``"laplace"``, an approximation that costs one fit, or ``"importance"``.
    n_draws
        Draws of importance sampling.

    Source: R4 of theory sheet 10.5.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0
    form: Form = "ellipsoid"
    integral: Literal["laplace", "importance"] = "laplace"
    n_draws: int = 400

    __call__, fit, confidence_set = radius_of, fit_of, set_of

    def __post_init__(self) -> None:
        check_rule(self)

    @property
    def parts(self) -> LikelihoodRule:
        """What the rule is made of."""
        check_choice("integral", self.integral, ("laplace", "importance"))
        if self.integral == "laplace":
            return _in_ball(self, mixture_threshold)
        evidence = partial(importance_evidence, n_draws=self.n_draws)
        return _in_ball(self, partial(mixture_threshold, evidence=evidence))


@radius("wald")
@dataclass(frozen=True, kw_only=True)
class Wald:
    """Wilks and Wald: asymptotic, at one time fixed in advance; the sharp yardstick.

    No guarantee at finite ``n``, under adaptive choice, or when looked at repeatedly. Settings as
    in `LikelihoodRatio`; its ellipsoid has radius ``sqrt(chi2)`` in ``H(theta_hat) + lambda I``, a
    little smaller than in ``H(theta_hat)`` alone, for which ``lambda`` has to go to 0.

    Source: Wilks (1938); R5 of theory sheet 10.6.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1e-6
    z_max: float | None = None
    scale: float = 1.0
    form: Form = "ellipsoid"

    __call__, fit, confidence_set = radius_of, fit_of, set_of

    def __post_init__(self) -> None:
        check_rule(self)

    @property
    def parts(self) -> LikelihoodRule:
        """What the rule is made of."""
        return _in_ball(self, wilks_threshold, _wald_radius)


def _in_ball(
    rule: LikelihoodRatio | MarginalLikelihood | Wald,
    level: Callable[..., Array],
    radius: Callable[[Array, float, Array, float], Array] = bounds.hessian_radius,
) -> LikelihoodRule:
    """Return the rule of a threshold that takes ``delta`` too."""
    ball, level = Ball(rule.theta_bound, rule.z_max, rule.scale), partial(level, delta=rule.delta)
    return LikelihoodRule(level=level, fit=ball, lam=rule.lam, form=rule.form, radius=radius)


def _wald_radius(threshold: Array, theta_bound: float, z_max: Array, lam: float) -> Array:  # noqa: ARG001
    return (2.0 * threshold) ** 0.5
