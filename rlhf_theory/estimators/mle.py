"""Bradley-Terry maximum likelihood by damped Newton over counts, all replicas at once."""

from __future__ import annotations

from rlhf_theory.arrays import (
    Array,
    check_finite,
    eye_like,
    full_like,
    namespace,
    null_projector,
    rank_floor,
    sigmoid,
    softplus,
)
from rlhf_theory.core import Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.errors import check_nonnegative, check_positive, check_shape
from rlhf_theory.estimators.ball_mle import ball_mle
from rlhf_theory.estimators.newton import WIDEST, Warm, newton, widest_logit

_HINT = (
    "The data may be separable or leave a direction unseen: raise `ridge`, set `bound`, or inspect "
    "the data for actions that never lost."
)


def neg_log_likelihood(
    theta: Array, design: Design, count: Array, wins: Array, ridge: float = 0.0, scale: float = 1.0
) -> Array:
    r"""Penalised negative log-likelihood, a sum over comparisons.

    .. math::

        L(\theta) = -\sum_i \bigl[ w_i \log\sigma(u_i) + (c_i - w_i) \log\sigma(-u_i) \bigr]
                    + \tfrac{\lambda}{2} \lVert\theta\rVert^2, \qquad
        u_i = s \langle z_i, \theta\rangle

    Parameters
    ----------
    theta
        Shape ``(R, p)``.
    design
        Rows ``z_i``.
    count, wins
        ``c_i`` and ``w_i``, shape ``(R, n)``.
    ridge
        ``lambda``; a Gaussian prior of variance ``1 / lambda``; 0 for none.
    scale
        ``s``.

    Returns
    -------
    Array of shape ``(R,)``.
    """
    xp = namespace(theta, count)
    u = scale * design.margins(theta)
    # log sigma(-u) = -softplus(u) and log sigma(u) = u - softplus(u).
    value = xp.sum(count * softplus(u) - wins * u, axis=-1)
    return value + 0.5 * ridge * xp.sum(theta * theta, axis=-1)


def log_likelihood_gradient(
    theta: Array, design: Design, count: Array, wins: Array, ridge: float = 0.0, scale: float = 1.0
) -> Array:
    """Return the gradient of `neg_log_likelihood`, shape ``(R, p)``."""
    u = scale * design.margins(theta)
    return scale * design.adjoint(count * sigmoid(u) - wins) + ridge * theta


def fisher_information(
    theta: Array, design: Design, count: Array, ridge: float = 0.0, scale: float = 1.0
) -> Array:
    """Return ``sum_i c_i s^2 sigma'(u_i) z_i z_i^T + lambda I``, shape ``(R, p, p)``.

    The Hessian of `neg_log_likelihood` in ``theta``; the Fisher information of the labels plus the
    ridge.
    """
    p = sigmoid(scale * design.margins(theta))
    gram = design.gram((scale * scale) * count * p * (1.0 - p))
    return gram + ridge * eye_like(design.n_params, gram)


def _null_projectors(design: Design, count: Array) -> tuple[Array, Array]:
    """Return the projector on unseen directions and whether they are unseen in every design.

    Unregularised fits are minimum-norm: they stay in the span of the compared pairs. A direction
    that no pair of the design can ever have (such as the sum of one-hot items) costs nothing; one
    that only these data leave unseen makes the MLE not unique.
    """
    xp = namespace(count)
    p = design.n_params
    seen = design.gram(xp.astype(count > 0, count.dtype))
    check_finite("features of the data", seen)
    null, unseen = null_projector(seen)
    rank = p - unseen
    possible = design.possible
    if possible is None:
        return null, rank == p
    spectrum = xp.linalg.eigvalsh(possible)
    floor = rank_floor(possible)
    full = xp.sum(xp.astype(spectrum > floor * spectrum[:, -1:], count.dtype), axis=-1)
    return null, rank == full


def logistic_mle(
    design: Design,
    count: Array,
    wins: Array,
    *,
    ridge: float = 0.0,
    bound: float | None = None,
    scale: float = 1.0,
    start: Solution[Array] | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
) -> Solution[Array]:
    """Minimise `neg_log_likelihood` over any design.

    Parameters
    ----------
    design, count, wins, ridge, scale
        As in `neg_log_likelihood`; ``ridge=0`` gives the minimum-norm MLE where it exists.
    bound
        Minimise over ``|theta| <= bound``, see `ball_mle`; exists for all data. None for the whole
        space.
    start
        The solution of a similar fit (same design, one round earlier): theta and curvature warm
        the search.
    tol
        Largest residual; 1e-8 for doubles, else 100 eps.
    max_iter
        Newton iterations; 45 without ridge, where a separable replica uses them all, else 300.

    Returns
    -------
    Solution of shape ``(R, p)``; residual estimates the error left, in logits or parameters.
    ``converged`` is False where the data are separable or (at ``ridge=0`` without bound) leave a
    direction unseen that other data of the design could see; ``n = 0`` with a ridge gives 0.

    Raises
    ------
    ValueError
        A negative ridge, a bound that is not positive, NaN in the data.
    """
    if bound is not None:
        limit = 100 if max_iter is None else max_iter
        return ball_mle(
            design,
            count,
            wins,
            bound=bound,
            ridge=ridge,
            scale=scale,
            start=start,
            tol=tol,
            max_iter=limit,
        )
    check_nonnegative("ridge", ridge)
    check_positive("scale", scale)
    check_shape("wins", wins, tuple(count.shape), "(R, n)")
    xp = namespace(count, wins)
    n_replicas = count.shape[0]
    eps = float(xp.finfo(count.dtype).eps)
    tol = max(1e-8, 100.0 * eps) if tol is None else tol
    if max_iter is None:
        max_iter = 45 if ridge == 0.0 else 300
    warm = start.warm if start is not None else None
    null, unique = None, None
    if ridge == 0.0:
        null, unique = _null_projectors(design, count)
        if warm is not None and start is not None:
            # A fit that diverged is no start: out there the curvature underflows.
            theta = xp.where(start.converged[:, None], warm.theta, xp.zeros_like(warm.theta))
            warm = _fresh(design, count, theta, scale)
    penalty = full_like((n_replicas,), ridge, count)
    theta, residual, hessian, n_iter = newton(
        design, count, wins, penalty, scale, warm, null, tol, max_iter
    )
    converged = residual <= tol
    if unique is not None:
        widest = widest_logit(scale * design.margins(theta), count)
        converged = converged & unique & (widest < WIDEST)
    state = Warm(theta, hessian, xp.sum(count, axis=-1))
    return Solution(theta, residual, converged, n_iter, _HINT, state)


def _fresh(design: Design, count: Array, theta: Array, scale: float) -> Warm:
    """Return a start with the curvature at ``theta``."""
    total = namespace(count).sum(count, axis=-1)
    return Warm(theta, fisher_information(theta, design, count, 0.0, scale), total)


def bradley_terry_mle(
    data: PreferenceData,
    *,
    ridge: float = 0.0,
    bound: float | None = None,
    scale: float = 1.0,
    start: Solution[Array] | None = None,
) -> Solution[Array]:
    """Fit a linear Bradley-Terry reward; see `logistic_mle` for the arguments and the result.

    Source: [2301.11270], equation (3) for the ball; [2312.11456], MLE oracle.
    """
    return logistic_mle(
        data.differences,
        data.count,
        data.wins,
        ridge=ridge,
        bound=bound,
        scale=scale,
        start=start,
    )
