"""Rules with a radius in the metric of the design, from the least curvature over the ball."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from rlhf_theory import bounds
from rlhf_theory.arrays import Array, full_like, namespace
from rlhf_theory.core import Problem, Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.estimators.ellipsoid import Ellipsoid, design_matrix
from rlhf_theory.estimators.rule_parts import (
    Ball,
    Ridge,
    check_rule,
    fit_of,
    radius,
    radius_of,
    rule_rows,
    set_of,
)


@dataclass(frozen=True, eq=False)
class Metric:
    """``V = lambda I + sum z z^T`` of some data.

    Attributes
    ----------
    rows, count
        The rows ``z``, scaled, and how often each was compared, ``(R, n)``.
    lam
        ``lambda``, a number or shape ``(R, 1, 1)``.
    """

    rows: Design
    count: Array
    lam: Array

    @cached_property
    def sigma(self) -> Array:
        """``V``, shape ``(R, p, p)``, computed once whoever asks."""
        return design_matrix(self.rows, self.count, self.lam)

    @property
    def log_det(self) -> Array:
        """``log det V``, shape ``(R,)``."""
        return namespace(self.sigma).linalg.slogdet(self.sigma).logabsdet


def ridge_metric(rows: Design, count: Array, ridge: float, ball: Ball) -> Metric:
    """Return ``V' = sum z z^T + (ridge / gamma) I``, whose ``lambda`` is of its replica."""
    return Metric(rows, count, (ridge / ball.curvature(rows, count))[:, None, None])


def fixed_noise(metric: Metric, delta: float) -> Array:
    """Return the noise level ``G``, shape ``(R,)``: comparisons and their number fixed before."""
    noise = bounds.fixed_noise(metric.rows.n_params, delta)
    return full_like((metric.count.shape[0],), noise, metric.count)


def adaptive_noise(metric: Metric, delta: float) -> Array:
    """Return the noise level ``G``, shape ``(R,)``: any choice of comparisons, at all times."""
    return bounds.adaptive_noise(metric.log_det, metric.rows.n_params, metric.lam, delta)


def ridge_noise(metric: Metric, delta: float) -> Array:
    """Return `adaptive_noise` in a `ridge_metric`, shape ``(R,)``."""
    p, own = metric.rows.n_params, metric.lam[:, 0, 0]
    # Of V' / (ridge / gamma), at lambda 1.
    log_det = metric.log_det - p * namespace(own).log(own)
    return bounds.adaptive_noise(log_det, p, 1.0, delta)


def noise_radius(
    noise: Callable[[Metric], Array],
    ball: Ball,
    lam: float,
    formula: Callable[[Array, Array, float, float], Array],
) -> Callable[[Metric], Array]:
    """Return the radius, shape ``(R,)`` in a metric, by noise level and curvature.

    Parameters
    ----------
    noise
        Returns the noise level in a metric, shape ``(R,)``.
    ball
        Says the curvature.
    lam
        ``lambda``.
    formula
        Radius for noise level, curvature, ``lambda`` and ``B``, such as `bounds.adaptive_radius`.
    """

    def radius(metric: Metric) -> Array:
        gamma = ball.curvature(metric.rows, metric.count)
        return formula(noise(metric), gamma, lam, ball.theta_bound)

    return radius


@dataclass(frozen=True, kw_only=True)
class DesignRule:
    """A rule made of a metric of the design, a radius in it, and an estimate.

    Attributes
    ----------
    metric
        Returns the metric for scaled rows and counts.
    radius
        Returns the radius in a metric, shape ``(R,)``, such as `noise_radius`.
    fit
        The estimate.

    Examples
    --------
    A radius that grows with the labels, in ``V`` around the MLE over the unit ball:

    >>> def growing(metric: Metric) -> Array:
    ...     return 0.1 * metric.count.sum(-1) ** 0.25
    >>> rule = DesignRule(metric=partial(Metric, lam=1.0), radius=growing, fit=Ball(1.0))
    """

    metric: Callable[[Design, Array], Metric]
    radius: Callable[[Metric], Array]
    fit: Ball | Ridge

    @property
    def scale(self) -> float:
        """Known scale ``s`` of the labels."""
        return self.fit.scale

    def _metric(self, data: PreferenceData, design: Design | None) -> Metric:
        return self.metric(rule_rows(data, design, self.scale), data.count)

    def beta(self, data: PreferenceData, design: Design | None = None) -> Array:
        """Return the radius in the metric, shape ``(R,)``."""
        return self.radius(self._metric(data, design))

    def __call__(self, data: PreferenceData, problem: Problem) -> Array:  # noqa: ARG002
        """Return the radius in the metric of the differences, shape ``(R,)``."""
        return self.beta(data)

    def confidence_set(
        self,
        fit: Solution[Array],
        data: PreferenceData,
        problem: Problem | None = None,  # noqa: ARG002
        design: Design | None = None,
    ) -> Ellipsoid:
        """Return the ellipsoid in the metric around the estimate; see `ConfidenceRule`."""
        metric = self._metric(data, design)
        return Ellipsoid(fit.value, self.radius(metric), lambda: metric.sigma)


@radius("global-fixed-design")
@dataclass(frozen=True, kw_only=True)
class GlobalFixedDesign:
    """Fixed design, global curvature: `bounds.global_radius` with `bounds.fixed_noise`.

    Valid for comparisons chosen in advance, at one ``n`` fixed in advance.

    Attributes
    ----------
    theta_bound
        ``B``; the truth and the estimate have ``|theta| <= B``.
    delta
        Failure probability.
    lam
        ``lambda`` inside ``V``, positive, fixed in advance.
    z_max
        Bound on ``|z|`` before scaling; None takes the longest row of the design.
    scale
        Known scale ``s`` of the labels; rows count as ``s z``.

    Source: R1 of theory sheet 10.2; [2301.11270], Lemma 3.1, for the form.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0

    __call__, fit, confidence_set = radius_of, fit_of, set_of

    def __post_init__(self) -> None:
        check_rule(self)

    @property
    def parts(self) -> DesignRule:
        """What the rule is made of."""
        return _in_ball(self, fixed_noise, bounds.global_radius)


@radius("fixed-design")
@dataclass(frozen=True, kw_only=True)
class FixedDesign:
    """Fixed design, half as long as `GlobalFixedDesign` under the same assumptions.

    Settings as in `GlobalFixedDesign`.

    Source: R1' of theory sheet 10.2.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0

    __call__, fit, confidence_set = radius_of, fit_of, set_of

    def __post_init__(self) -> None:
        check_rule(self)

    @property
    def parts(self) -> DesignRule:
        """What the rule is made of."""
        return _in_ball(self, fixed_noise, bounds.fixed_radius)


@radius("global-adaptive")
@dataclass(frozen=True, kw_only=True)
class GlobalAdaptive:
    """Any choice of comparisons, at all times at once; global curvature.

    Settings as in `GlobalFixedDesign`.

    Source: R2 of theory sheet 10.3.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0

    __call__, fit, confidence_set = radius_of, fit_of, set_of

    def __post_init__(self) -> None:
        check_rule(self)

    @property
    def parts(self) -> DesignRule:
        """What the rule is made of."""
        return _in_ball(self, adaptive_noise, bounds.global_radius)


@radius("adaptive")
@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """Any choice of comparisons, at all times at once; about half as long as `GlobalAdaptive`.

    Settings as in `GlobalFixedDesign`.

    Source: R2' of theory sheet 10.3.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0

    __call__, fit, confidence_set = radius_of, fit_of, set_of

    def __post_init__(self) -> None:
        check_rule(self)

    @property
    def parts(self) -> DesignRule:
        """What the rule is made of."""
        return _in_ball(self, adaptive_noise, bounds.adaptive_radius)


@radius("adaptive-ridge")
@dataclass(frozen=True, kw_only=True)
class AdaptiveRidge:
    """`GlobalAdaptive` for the ridge estimate, in ``V' = sum z z^T + (ridge / gamma_M) I``.

    Valid where the ridge estimate lies in the ball. Settings as in `GlobalFixedDesign`, with
    ``lam`` the ridge of the estimate: the minimiser of ``L(theta) + (lam / 2) |theta|^2``.

    Source: R2 for a ridge estimate, theory sheet 10.3.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0

    __call__, fit, confidence_set = radius_of, fit_of, set_of

    def __post_init__(self) -> None:
        check_rule(self)

    @property
    def parts(self) -> DesignRule:
        """What the rule is made of."""
        ball = Ball(self.theta_bound, self.z_max, self.scale)
        return DesignRule(
            metric=partial(ridge_metric, ridge=self.lam, ball=ball),
            radius=noise_radius(
                partial(ridge_noise, delta=self.delta), ball, self.lam, bounds.ridge_radius
            ),
            fit=Ridge(self.lam, self.scale),
        )


def _in_ball(
    rule: FixedDesign | GlobalFixedDesign | Adaptive | GlobalAdaptive,
    noise: Callable[..., Array],
    formula: Callable[[Array, Array, float, float], Array],
) -> DesignRule:
    """Return the rule in ``V`` around the MLE over the ball."""
    ball = Ball(rule.theta_bound, rule.z_max, rule.scale)
    radius = noise_radius(partial(noise, delta=rule.delta), ball, rule.lam, formula)
    return DesignRule(metric=partial(Metric, lam=rule.lam), radius=radius, fit=ball)
