"""R1 and R2: radii in ``V = lambda I + sum z z^T`` from the least curvature over the ball."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rlhf_theory import bounds
from rlhf_theory.arrays import Array, eye_like, full_like, namespace
from rlhf_theory.core import Problem, Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.estimators.ellipsoid import Ellipsoid, design_matrix
from rlhf_theory.estimators.mle import logistic_mle
from rlhf_theory.estimators.rule_parts import ball_fit, check_rule, longest_row, rule_rows

__all__ = ["R1", "R2", "R1Prime", "R2Prime", "R2Ridge"]


@dataclass(frozen=True, eq=False)
class _Metric:
    """``V`` of some data, computed once whoever asks."""

    rows: Design
    count: Array
    lam: float

    @cached_property
    def sigma(self) -> Array:
        """``V = lambda I + sum z z^T``, shape ``(R, p, p)``."""
        return design_matrix(self.rows, self.count, self.lam)


@dataclass(frozen=True, eq=False)
class _RidgeMetric(_Metric):
    """``V' = sum z z^T + (ridge / gamma) I``."""

    gamma: Array

    @cached_property
    def sigma(self) -> Array:
        """``V'``, shape ``(R, p, p)``."""
        gram = self.rows.gram(self.count)
        return gram + (self.lam / self.gamma)[:, None, None] * eye_like(self.rows.n_params, gram)


class _InDesign:
    """The methods that R1 and R2 share; their settings are described in `R1`."""

    theta_bound: float
    delta: float
    lam: float
    z_max: float | None
    scale: float

    def __post_init__(self) -> None:
        check_rule(self)

    def _metric(self, data: PreferenceData, design: Design | None) -> _Metric:
        return _Metric(rule_rows(self, data, design), data.count, self.lam)

    def _beta(self, metric: _Metric) -> Array:
        raise NotImplementedError

    def _gamma(self, metric: _Metric) -> Array:
        """Return the least slope of the logistic over the ball, shape ``(R,)``."""
        return bounds.curvature(self.theta_bound * longest_row(self, metric.rows, metric.count))

    def _fixed_noise(self, metric: _Metric) -> Array:
        noise = bounds.fixed_noise(metric.rows.n_params, self.delta)
        return full_like((metric.count.shape[0],), noise, metric.count)

    def _adaptive_noise(self, metric: _Metric) -> Array:
        log_det = namespace(metric.sigma).linalg.slogdet(metric.sigma).logabsdet
        return bounds.adaptive_noise(log_det, metric.rows.n_params, metric.lam, self.delta)

    def beta(self, data: PreferenceData, design: Design | None = None) -> Array:
        """Return the radius in ``V``, shape ``(R,)``."""
        return self._beta(self._metric(data, design))

    def __call__(self, data: PreferenceData, problem: Problem) -> Array:  # noqa: ARG002
        """Return the radius in ``V`` of the differences, shape ``(R,)``."""
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
    ) -> Ellipsoid:
        """Return the ellipsoid in ``V`` around the estimate; see `ConfidenceRule`."""
        metric = self._metric(data, design)
        return Ellipsoid(fit.value, self._beta(metric), lambda: metric.sigma)


@dataclass(frozen=True, kw_only=True)
class R1(_InDesign):
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

    Source: theory sheet 10.2; [2301.11270], Lemma 3.1, for the form.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0

    def _beta(self, metric: _Metric) -> Array:
        noise, gamma = self._fixed_noise(metric), self._gamma(metric)
        return bounds.global_radius(noise, gamma, self.lam, self.theta_bound)


@dataclass(frozen=True, kw_only=True)
class R1Prime(_InDesign):
    """R1', half as long as `R1` under the same assumptions; settings as there.

    Source: theory sheet 10.2.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0

    def _beta(self, metric: _Metric) -> Array:
        noise, gamma = self._fixed_noise(metric), self._gamma(metric)
        return bounds.fixed_radius(noise, gamma, self.lam, self.theta_bound)


@dataclass(frozen=True, kw_only=True)
class R2(_InDesign):
    """Global curvature, for any rule that chooses comparisons, at all times at once.

    Settings as in `R1`.

    Source: theory sheet 10.3.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0

    def _beta(self, metric: _Metric) -> Array:
        noise, gamma = self._adaptive_noise(metric), self._gamma(metric)
        return bounds.global_radius(noise, gamma, self.lam, self.theta_bound)


@dataclass(frozen=True, kw_only=True)
class R2Prime(_InDesign):
    """R2', about half as long as `R2` under the same assumptions; settings as in `R1`.

    Source: theory sheet 10.3.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0

    def _beta(self, metric: _Metric) -> Array:
        noise, gamma = self._adaptive_noise(metric), self._gamma(metric)
        return bounds.adaptive_radius(noise, gamma, self.lam, self.theta_bound)


@dataclass(frozen=True, kw_only=True)
class R2Ridge(_InDesign):
    """R2 for the ridge estimate, in ``V' = sum z z^T + (ridge / gamma_M) I``.

    Valid where the ridge estimate lies in the ball. Settings as in `R1`, with ``lam`` the ridge of
    the estimate: the minimiser of ``L(theta) + (lam / 2) |theta|^2``.

    Source: theory sheet 10.3.
    """

    theta_bound: float = 1.0
    delta: float = 0.05
    lam: float = 1.0
    z_max: float | None = None
    scale: float = 1.0

    def _metric(self, data: PreferenceData, design: Design | None) -> _Metric:
        rows = rule_rows(self, data, design)
        return _RidgeMetric(rows, data.count, self.lam, self._gamma(_Metric(rows, data.count, 1.0)))

    def _beta(self, metric: _Metric) -> Array:
        gamma = self._gamma(metric)
        xp = namespace(metric.sigma)
        # The noise level with its own regulariser: log det of V' / (ridge / gamma), at lambda 1.
        log_det = xp.linalg.slogdet(metric.sigma).logabsdet
        p = metric.rows.n_params
        noise = bounds.adaptive_noise(log_det - p * xp.log(self.lam / gamma), p, 1.0, self.delta)
        return bounds.ridge_radius(noise, gamma, self.lam, self.theta_bound)

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
