"""Bradley-Terry maximum likelihood by damped Newton over counts, all replicas at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_theory.arrays import (
    Array,
    eye_like,
    full_like,
    namespace,
    sigmoid,
    softplus,
    solve,
)
from rlhf_theory.core import Solution
from rlhf_theory.data import Design, PreferenceData
from rlhf_theory.errors import check_nonnegative, check_positive, check_shape

__all__ = [
    "bradley_terry_mle",
    "fisher_information",
    "log_likelihood_gradient",
    "logistic_mle",
    "neg_log_likelihood",
]

_HINT = (
    "The data may be separable or leave a direction unseen: raise `ridge`, set `bound`, or inspect "
    "the data for actions that never lost."
)


# Logits beyond which doubles cannot tell a fitted probability from 0 or 1.
_WIDEST = 30.0


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
    # log sigma(-u) = -softplus(u) and log sigma(u) = u - softplus(u); pairs that were never
    # compared count nothing even where u is infinite.
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


@dataclass(frozen=True, eq=False)
class _Warm:
    """What the next fit reuses."""

    theta: Array
    hessian: Array  # of the likelihood alone
    total: Array  # number of labels, shape (R,)


def _null_projectors(design: Design, count: Array) -> tuple[Array, Array]:
    """Return the projector on unseen directions and whether they are unseen in every design.

    Unregularised fits are minimum-norm: they stay in the span of the compared pairs. A direction
    that no pair of the design can ever have (such as the sum of one-hot items) costs nothing; one
    that only these data leave unseen makes the MLE not unique.
    """
    xp = namespace(count)
    p = design.n_params
    seen = design.gram(xp.astype(count > 0, count.dtype))
    values, vectors = xp.linalg.eigh(seen)
    floor = p * xp.finfo(count.dtype).eps * 10.0
    top = values[:, -1:]
    unseen = xp.astype(values <= floor * xp.where(top > 0, top, xp.ones_like(top)), count.dtype)
    null = xp.matmul(vectors * unseen[:, None, :], xp.matrix_transpose(vectors))
    rank = p - xp.sum(unseen, axis=-1)
    if not design.complete:
        return null, rank == p
    possible = design.gram(xp.ones_like(count[:1, :]))
    spectrum = xp.linalg.eigvalsh(possible)
    full = xp.sum(xp.astype(spectrum > floor * spectrum[:, -1:], count.dtype), axis=-1)
    return null, rank == full


def _newton(
    design: Design,
    count: Array,
    wins: Array,
    ridge: Array,
    scale: float,
    start: _Warm | None,
    null: Array | None,
    tol: float,
    max_iter: int,
) -> tuple[Array, Array, Array, int]:
    """Return theta, residual, Hessian and iterations; ``ridge`` has shape ``(R,)``.

    The loss is generalised self-concordant, so steps damped by log(1 + m) / m, with m the largest
    change of a margin, decrease it from any start (Bach 2010, EJS 4, Proposition 1): no line
    search, and one product with the rows serves both the step length and the next margins.
    """
    xp = namespace(count)
    n_replicas, p = count.shape[0], design.n_params
    # The wins enter the likelihood only through one vector.
    target = scale * design.adjoint(wins)
    fixed = ridge[:, None, None] * eye_like(p, count) + (0.0 if null is None else null)
    # Steps are measured in logits, or in parameters where rows are shorter than one.
    widest = scale * design.z_max
    unit = xp.where(widest > 1.0, widest, xp.ones_like(widest))

    warm = start is not None
    theta = full_like((n_replicas, p), 0.0, count) if start is None else start.theta
    hessian = fixed
    if start is not None:
        # More labels of a similar kind: the old curvature, grown with their number.
        growth = xp.sum(count, axis=-1) / xp.where(start.total > 0, start.total, 1.0 + start.total)
        growth = xp.where(start.total > 0, growth, xp.ones_like(growth))
        hessian = start.hessian * growth[:, None, None] + fixed
    residual = full_like((n_replicas,), math.inf, count)
    for n_iter in range(1, max_iter + 1):  # noqa: B007
        margins = design.margins(theta)
        prob = sigmoid(margins if scale == 1.0 else scale * margins)
        weighted = count * prob
        gradient = scale * design.adjoint(weighted) - target + ridge[:, None] * theta
        # The first step of a warm start reuses the last curvature: half the cost of a round.
        fresh = not (warm and n_iter == 1)
        ready = residual <= tol
        if fresh:
            new = design.gram((scale * scale) * weighted * (1.0 - prob)) + fixed
            hessian = xp.where(ready[:, None, None], hessian, new)
        step = solve(hessian, gradient)
        size = unit * xp.sqrt(xp.sum(step * step, axis=-1))
        damp = xp.where(ready, xp.zeros_like(size), _damping(design, count, step, size, scale))
        # A replica that has converged stays put, so its value cannot depend on the others.
        theta = theta - damp[:, None] * step
        # A whole Newton step that changes logits by m leaves at most m times itself (ibid.).
        left = size * xp.where(size < 1.0, size, xp.ones_like(size)) if fresh else size
        residual = xp.where(ready, residual, left)
        if bool(xp.all(residual <= tol)):
            break
    return theta, residual, hessian - fixed, n_iter


def _damping(design: Design, count: Array, step: Array, size: Array, scale: float) -> Array:
    """Return the length of a step: log(1 + m) / m, m the largest change of a logit; 1 near the end.

    Steps that change no logit by more than 1/10 are taken whole; the others need their m exactly.
    """
    xp = namespace(step)
    if not bool(xp.any(size > 0.1)):
        return xp.ones_like(size)
    change = scale * xp.abs(design.margins(step)) * xp.astype(count > 0, count.dtype)
    m = xp.max(change, axis=-1) if change.shape[1] else xp.zeros_like(size)
    long = (size > 0.1) & (m > 0.1)
    some = xp.where(long, m, xp.ones_like(m))
    return xp.where(long, xp.log1p(some) / some, xp.ones_like(m))


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
    max_iter: int = 45,
) -> Solution[Array]:
    """Minimise `neg_log_likelihood` over any design.

    Parameters
    ----------
    design, count, wins, ridge, scale
        As in `neg_log_likelihood`; ``ridge=0`` gives the minimum-norm MLE where it exists.
    bound
        Minimise over ``|theta| <= bound``; exists for all data. None for the whole space.
    start
        The solution of a similar fit (same design, one round earlier): theta and curvature warm
        the search.
    tol
        Largest residual; 1e-8 for doubles, else 100 eps.
    max_iter
        Newton iterations. A separable replica uses them all: its steps stay near 0.7 logits.

    Returns
    -------
    Solution of shape ``(R, p)``; residual estimates the error left, in logits or parameters. ``converged`` is False where the data
    are separable or (at ``ridge=0`` without bound) leave a direction unseen that other data of
    the design could see; ``n = 0`` with a ridge gives 0.

    Raises
    ------
    ValueError
        A negative ridge, a bound that is not positive.
    """
    check_nonnegative("ridge", ridge)
    check_positive("scale", scale)
    check_shape("wins", wins, tuple(count.shape), "(R, n)")
    xp = namespace(count, wins)
    n_replicas = count.shape[0]
    eps = float(xp.finfo(count.dtype).eps)
    tol = max(1e-8, 100.0 * eps) if tol is None else tol
    warm = start.warm if start is not None else None
    null, unique = None, None
    if ridge == 0.0:
        null, unique = _null_projectors(design, count)
        if warm is not None and start is not None and bound is None:
            # A fit that diverged is no start: out there the curvature underflows.
            theta = xp.where(start.converged[:, None], warm.theta, xp.zeros_like(warm.theta))
            warm = _fresh(design, count, theta, scale)
    penalty = full_like((n_replicas,), ridge, count)
    if bound is not None:
        check_positive("bound", bound)
        return _in_ball(design, count, wins, penalty, scale, bound, warm, null, tol, max_iter)
    theta, residual, hessian, n_iter = _newton(
        design, count, wins, penalty, scale, warm, null, tol, max_iter
    )
    converged = residual <= tol
    if unique is not None:
        u = scale * design.margins(theta)
        widest = full_like((n_replicas,), 0.0, count)
        if u.shape[1]:
            widest = xp.max(xp.abs(u) * xp.astype(count > 0, count.dtype), axis=-1)
        converged = converged & unique & (widest < _WIDEST)
    state = _Warm(theta, hessian, xp.sum(count, axis=-1))
    return Solution(theta, residual, converged, n_iter, _HINT, state)


def _in_ball(
    design: Design,
    count: Array,
    wins: Array,
    ridge: Array,
    scale: float,
    bound: float,
    warm: _Warm | None,
    null: Array | None,
    tol: float,
    max_iter: int,
) -> Solution[Array]:
    """Minimise over the ball: find the multiplier mu >= 0 with ``|theta(mu)| = bound``.

    ``1 / |theta(mu)|`` is nearly linear in mu, so secant steps on it converge fast (as for trust
    regions); brackets safeguard them. ``theta(mu)`` is the ridge fit with ``lambda + mu``.
    """
    xp = namespace(count)
    # First without the constraint: most fits end inside.
    theta, residual, hessian, total = _newton(
        design, count, wins, ridge, scale, warm, null, tol, max_iter
    )
    norm = xp.sqrt(xp.sum(theta * theta, axis=-1))
    done = (residual <= tol) & (norm <= bound)
    theta, residual, hessian = _on_sphere(
        design, count, wins, ridge, scale, bound, theta, hessian, residual, done, null, tol
    )
    state = _Warm(theta, hessian, xp.sum(count, axis=-1))
    return Solution(theta, residual, residual <= tol, total, _HINT, state)


def _on_sphere(
    design: Design,
    count: Array,
    wins: Array,
    ridge: Array,
    scale: float,
    bound: float,
    theta: Array,
    hessian: Array,
    residual: Array,
    done: Array,
    null: Array | None,
    tol: float,
) -> tuple[Array, Array, Array]:
    """Return theta, residual and Hessian with ``|theta| = bound`` where not ``done``."""
    xp = namespace(count)
    eye = eye_like(design.n_params, count)
    # The gradient at zero bounds the multiplier: mu |theta(mu)| <= |gradient at 0|.
    g0 = scale * design.adjoint(0.5 * count - wins)
    low = xp.zeros_like(residual)
    high = xp.sqrt(xp.sum(g0 * g0, axis=-1)) / bound * (1.0 + 1e-6) + 1e-300
    mu = xp.where(done, low, 1e-2 * high)
    norm = xp.sqrt(xp.sum(theta * theta, axis=-1))
    # Shrunk to the ball: from far out Newton needs many damped steps.
    shrink = xp.where(norm > bound, bound / xp.where(norm > 0, norm, xp.ones_like(norm)), 1.0 + low)
    trial = xp.where(done[:, None], theta, theta * shrink[:, None])
    for _ in range(80):
        if bool(xp.all(done)):
            break
        trial, miss, curve, _n = _newton(
            design,
            count,
            wins,
            ridge + mu,
            scale,
            _fresh(design, count, trial, scale),
            null,
            tol,
            60,
        )
        norm = xp.sqrt(xp.sum(trial * trial, axis=-1))
        off = xp.abs(norm / bound - 1.0)
        left = ~done
        theta = xp.where(left[:, None], trial, theta)
        hessian = xp.where(left[:, None, None], curve, hessian)
        residual = xp.where(left, xp.maximum(miss, off), residual)
        done = done | (xp.maximum(miss, off) <= tol)
        low = xp.where(norm > bound, mu, low)
        high = xp.where(norm <= bound, mu, high)
        # Newton on 1 / |theta(mu)| = 1 / bound; d|theta| / dmu = -theta^T H^-1 theta / |theta|.
        full = curve + (ridge + mu)[:, None, None] * eye + (0.0 if null is None else null)
        slope = xp.sum(trial * solve(full, trial), axis=-1)
        move = norm * norm / xp.where(slope > 0, slope, xp.ones_like(slope)) * (norm / bound - 1.0)
        middle = xp.sqrt(xp.maximum(low, 1e-8 * high) * high)
        safe = (mu + move > low) & (mu + move < high)
        mu = xp.where(done, mu, xp.where(safe, mu + move, middle))
    return theta, residual, hessian


def _fresh(design: Design, count: Array, theta: Array, scale: float) -> _Warm:
    """Return a start with the curvature at ``theta``."""
    total = namespace(count).sum(count, axis=-1)
    return _Warm(theta, fisher_information(theta, design, count, 0.0, scale), total)


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
