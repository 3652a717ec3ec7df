"""R3, R4 and R5: thresholds on the likelihood, and the ellipsoids that they imply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf_theory import bounds
from rlhf_theory.arrays import Array, full_like, namespace
from rlhf_theory.core import Problem, Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.errors import check_choice
from rlhf_theory.estimators.ellipsoid import Ellipsoid, hessian_ellipsoid
from rlhf_theory.estimators.evidence import importance_evidence, laplace_evidence
from rlhf_theory.estimators.likelihood_set import LikelihoodSet
from rlhf_theory.estimators.mle import neg_log_likelihood
from rlhf_theory.estimators.rule_parts import ball_fit, check_rule, longest_row, rule_rows

__all__ = ["R3", "R4", "R5"]

Form = Literal["ellipsoid", "likelihood"]


class _OnLikelihood:
    """The methods that R3 to R5 share; their settings are described in `R3`."""

    theta_bound: float
    lam: float
    scale: float
    z_max: float | None
    form: Form

    def __post_init__(self) -> None:
        check_rule(self)
        check_choice("form", self.form, ("ellipsoid", "likelihood"))

    def threshold(
        self,
        data: PreferenceData,
        design: Design | None = None,
        fit: Solution[Array] | None = None,
    ) -> Array:
        """Return the threshold on ``L(theta) - L(theta_hat)``, shape ``(R,)``."""
        raise NotImplementedError

    def _radius(self, threshold: Array, rows: Design, data: PreferenceData) -> Array:
        """Return the radius in ``H(theta_hat) + lambda I`` that the threshold implies."""
        # A negative threshold (an empty set) leaves the radius of the estimate alone.
        xp = namespace(threshold)
        positive = xp.where(threshold > 0, threshold, xp.zeros_like(threshold))
        longest = longest_row(self, rows, data.count)
        return bounds.hessian_radius(positive, self.theta_bound, longest, self.lam)

    def beta(
        self,
        data: PreferenceData,
        design: Design | None = None,
        fit: Solution[Array] | None = None,
    ) -> Array:
        """Return the radius in ``H(theta_hat) + lambda I``, shape ``(R,)``."""
        rows = rule_rows(self, data, design)
        return self._radius(self.threshold(data, design, fit), rows, data)

    def __call__(self, data: PreferenceData, problem: Problem) -> Array:  # noqa: ARG002
        """Return the radius in ``H(theta_hat) + lambda I`` of the differences, shape ``(R,)``."""
        return self.beta(data)

    def fit(
        self,
        data: PreferenceData,
        design: Design | None = None,
        start: Solution[Array] | None = None,
    ) -> Solution[Array]:
        """Return the MLE over the ball, without ridge, shape ``(R, p)``."""
        return ball_fit(self, data, design, start)

    def confidence_set(
        self,
        fit: Solution[Array],
        data: PreferenceData,
        problem: Problem | None = None,  # noqa: ARG002
        design: Design | None = None,
    ) -> Ellipsoid | LikelihoodSet:
        """Return the set around the estimate in the form asked for; see `ConfidenceRule`."""
        if self.form == "likelihood":
            rows = rule_rows(self, data, design)
            threshold = self.threshold(data, design, fit)
            return LikelihoodSet(
                fit.value, rows, data.count, data.wins, threshold, bound=self.theta_bound
            )
        beta = self.beta(data, design, fit)
        return hessian_ellipsoid(fit.value, data, self.lam, beta, design=design, scale=self.scale)


@dataclass(frozen=True, kw_only=True)
class R3(_OnLikelihood):
    """Likelihood ratio, for any rule that chooses comparisons, at all times at once.

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

    Source: Lee, Yun and Jun (2024), unified confidence sequences; theory sheet 10.4.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0
    form: Form = "ellipsoid"

    def threshold(
        self,
        data: PreferenceData,
        design: Design | None = None,
        fit: Solution[Array] | None = None,  # noqa: ARG002
    ) -> Array:
        """Return the threshold on ``L(theta) - L(theta_hat)``, shape ``(R,)``."""
        rows = rule_rows(self, data, design)
        longest = longest_row(self, rows, data.count)
        return bounds.likelihood_ratio_threshold(
            data.n_labels, rows.n_params, self.theta_bound, longest, self.delta
        )


@dataclass(frozen=True, kw_only=True)
class R4(_OnLikelihood):
    """Marginal likelihood under the prior ``N(0, (B^2 / d) I)``; recommended.

    For any rule that chooses comparisons, at all times at once. Settings as in `R3`, and

    Attributes
    ----------
    integral
        ``"laplace"``, an approximation that costs one fit, or ``"importance"``.
    n_draws
        Draws of importance sampling.

    Source: theory sheet 10.5.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0
    form: Form = "ellipsoid"
    integral: Literal["laplace", "importance"] = "laplace"
    n_draws: int = 400

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("integral", self.integral, ("laplace", "importance"))

    def threshold(
        self,
        data: PreferenceData,
        design: Design | None = None,
        fit: Solution[Array] | None = None,
    ) -> Array:
        """Return the threshold on ``L(theta) - L(theta_hat)``, shape ``(R,)``.

        ``fit`` is the MLE over the ball, computed where it is not given. Mass of the prior outside
        the ball can make the threshold negative (the set is then empty), but not often.
        """
        rows = rule_rows(self, data, design)
        center = (fit or self.fit(data, design)).value
        variance = self.theta_bound**2 / rows.n_params
        # Harmless where the mode has not converged: a point off it lowers the integral, and so
        # widens the set.
        if self.integral == "laplace":
            evidence = laplace_evidence(rows, data.count, data.wins, variance, fit)
        else:
            evidence = importance_evidence(rows, data.count, data.wins, variance, self.n_draws, fit)
        loss = neg_log_likelihood(center, rows, data.count, data.wins)
        return bounds.mixture_threshold(evidence.value, loss, self.delta)


@dataclass(frozen=True, kw_only=True)
class R5(_OnLikelihood):
    """Wilks and Wald: asymptotic, at one time fixed in advance; the sharp yardstick.

    No guarantee at finite ``n``, under adaptive choice, or when looked at repeatedly. Settings as
    in `R3`; its ellipsoid has radius ``sqrt(chi2)`` in ``H(theta_hat) + lambda I``, a little
    smaller than in ``H(theta_hat)`` alone, for which ``lambda`` has to go to 0.

    Source: Wilks (1938); theory sheet 10.6.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1e-6
    z_max: float | None = None
    scale: float = 1.0
    form: Form = "ellipsoid"

    def threshold(
        self,
        data: PreferenceData,
        design: Design | None = None,
        fit: Solution[Array] | None = None,  # noqa: ARG002
    ) -> Array:
        """Return half the chi-squared quantile, shape ``(R,)``."""
        rows = rule_rows(self, data, design)
        value = bounds.wilks_threshold(rows.n_params, self.delta)
        return full_like((data.count.shape[0],), value, data.count)

    def _radius(self, threshold: Array, rows: Design, data: PreferenceData) -> Array:  # noqa: ARG002
        return (2.0 * threshold) ** 0.5
