"""Confidence ellipsoids around an estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from rlhf_theory.arrays import (
    Array,
    batched_inverse,
    expand_rows,
    eye_like,
    full_like,
    inner,
    namespace,
    quadratic,
)
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.errors import check_positive, check_shape
from rlhf_theory.estimators.mle import fisher_information
from rlhf_theory.estimators.scaling import scaled


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    r"""The set :math:`\{\theta : \lVert\theta - \hat\theta\rVert_\Sigma \le \beta\}`.

    Attributes
    ----------
    center
        ``theta_hat``, shape ``(R, d)``.
    beta
        Radius, shape ``(R,)``; 0 gives the estimate alone.
    compute_sigma
        Returns ``Sigma``, shape ``(R, d, d)``, positive definite; called at most once, and never
        if nobody asks for a width.
    """

    center: Array
    beta: Array
    compute_sigma: Callable[[], Array]

    def __post_init__(self) -> None:
        check_shape("center", self.center, (None, None), "(R, d)")
        check_shape("beta", self.beta, (self.center.shape[0],), "(R,)")
        xp = namespace(self.beta)
        if not bool(xp.all(self.beta >= 0)):
            message = "beta must be at least 0; got negative values, or NaN."
            raise ValueError(message)

    @cached_property
    def sigma(self) -> Array:
        """``Sigma``, unnormalised, shape ``(R, d, d)``."""
        return self.compute_sigma()

    @cached_property
    def _inverse(self) -> Array:
        return batched_inverse(self.sigma)

    def width(self, v: Array) -> Array:
        r"""Return :math:`\lVert v \rVert_{\Sigma^{-1}}`, without ``beta``.

        Parameters
        ----------
        v
            Shape ``(R, ..., d)`` or ``(1, ..., d)``.

        Returns
        -------
        Array of shape ``(R, ...)``.
        """
        xp = namespace(v)
        return xp.sqrt(quadratic(v, self._inverse))

    def _half_width(self, v: Array) -> Array:
        """Return ``beta |v|_{Sigma^-1}``, shape ``(R, ...)``."""
        width = self.width(v)
        xp = namespace(width)
        # An infinite radius leaves what is known exactly (v = 0) alone.
        beta = xp.reshape(self.beta, (self.beta.shape[0], *(1 for _ in width.shape[1:])))
        some = xp.where(width > 0, width, xp.ones_like(width))
        return xp.where(width > 0, beta * some, xp.zeros_like(width))

    def lower(self, v: Array) -> Array:
        """Return the minimum of ``<v, theta>``, shape ``(R, ...)``, for ``v`` ``(R|1, ..., d)``."""
        return inner(v, self.center) - self._half_width(v)

    def upper(self, v: Array) -> Array:
        """Return the maximum of ``<v, theta>``, shape ``(R, ...)``, for ``v`` ``(R|1, ..., d)``."""
        return inner(v, self.center) + self._half_width(v)

    def rescaled(self, multiplier: float) -> Ellipsoid:
        """Return the set with its radius multiplied."""
        return replace(self, beta=multiplier * self.beta)

    def distance(self, theta: Array) -> Array:
        """Return ``|theta - theta_hat|_Sigma``, shape ``(R,)``, for ``theta`` ``(R|1, d)``."""
        xp = namespace(theta, self.center)
        return xp.sqrt(quadratic(theta - self.center, self.sigma))

    def contains(self, theta: Array) -> Array:
        """Return whether ``theta`` ``(R|1, d)`` lies in the set, shape ``(R,)``."""
        # Up to rounding, so that the boundary points that attain a bound belong to the set.
        return self.distance(theta) <= self.beta * (1.0 + 1e-12)


def _radius(beta: Array | float, center: Array) -> Array:
    n_replicas = center.shape[0]
    if isinstance(beta, int | float):
        return full_like((n_replicas,), float(beta), center)
    return expand_rows(beta, n_replicas) if beta.shape[0] == 1 else beta


def design_matrix(design: Design, count: Array, lam: float) -> Array:
    """Return ``lambda I + sum c_i z_i z_i^T``, unnormalised, shape ``(R, p, p)``.

    Papers also divide by the number of comparisons or by the batch size; theory sheet 0.4 says
    how ``lambda`` and ``beta`` change with it.
    """
    gram = design.gram(count)
    return gram + lam * eye_like(design.n_params, gram)


def ellipsoid(
    theta_hat: Array,
    data: PreferenceData,
    lam: float,
    beta: Array | float,
    *,
    design: Design | None = None,
    scale: float = 1.0,
) -> Ellipsoid:
    r"""Return the ellipsoid in :math:`\Sigma = \lambda I + \sum z z^\top`.

    Parameters
    ----------
    theta_hat
        Center, shape ``(R, p)``.
    data
        Comparisons.
    lam
        ``lambda``, positive; directions without data have width ``|v| / sqrt(lambda)``.
    beta
        Radius, a number or shape ``(R,)``.
    design
        Rows ``z``; ``data.differences`` unless given, ``data.skew`` for bilinear preferences.
    scale
        Known scale ``s`` of the labels: rows count as ``s z``.
    """
    check_positive("lam", lam)
    rows = scaled(data.differences if design is None else design, scale)
    return Ellipsoid(
        theta_hat, _radius(beta, theta_hat), lambda: design_matrix(rows, data.count, lam)
    )


def hessian_ellipsoid(
    theta_hat: Array,
    data: PreferenceData,
    lam: float,
    beta: Array | float,
    *,
    design: Design | None = None,
    scale: float = 1.0,
) -> Ellipsoid:
    r"""Return the ellipsoid in :math:`\Sigma = \lambda I + H(\hat\theta)`.

    ``H = sum s^2 sigma'(s <z, theta_hat>) z z^T`` is the Hessian of the negative log-likelihood.
    Arguments as for `ellipsoid`.
    """
    check_positive("lam", lam)
    rows = data.differences if design is None else design
    return Ellipsoid(
        theta_hat,
        _radius(beta, theta_hat),
        lambda: fisher_information(theta_hat, rows, data.count, lam, scale),
    )
