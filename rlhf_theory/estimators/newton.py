"""The inner solver of the logistic likelihood: damped Newton, all replicas at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_theory.arrays import (
    Array,
    check_finite,
    damping,
    eye_like,
    full_like,
    namespace,
    sigmoid,
    solve,
)
from rlhf_theory.data import Design

# Logits beyond which doubles cannot tell a fitted probability from 0 or 1.
WIDEST = 30.0
# Logits within which a Hessian is used again.
_NEAR = 0.01


@dataclass(frozen=True, eq=False)
class Warm:
    """What the next fit reuses."""

    theta: Array
    hessian: Array  # of the likelihood alone
    total: Array  # number of labels, shape (R,)


def newton(
    design: Design,
    count: Array,
    wins: Array,
    ridge: Array,
    scale: float,
    start: Warm | None,
    null: Array | None,
    tol: float,
    max_iter: int,
) -> tuple[Array, Array, Array, int]:
    """Return theta, residual, Hessian and iterations; ``ridge`` has shape ``(R,)``.

    The loss is generalised self-concordant, so steps damped by log(1 + m) / m, with m the largest
    change of a logit, decrease it from any start (Bach 2010, EJS 4, Proposition 1): no line search.
    """
    xp = namespace(count)
    n_replicas, p = count.shape[0], design.n_params
    # The wins enter the likelihood only through one vector.
    target = scale * design.adjoint(wins)
    fixed = ridge[:, None, None] * eye_like(p, count) + (0.0 if null is None else null)
    # Steps are measured in logits, or in parameters where rows are shorter than one.
    widest = scale * design.z_max
    unit = xp.where(widest > 1.0, widest, xp.ones_like(widest))

    theta = full_like((n_replicas, p), 0.0, count) if start is None else start.theta
    hessian = fixed
    # How far, in logits, the point is at which the Hessian was computed. That of an earlier fit
    # counts as one logit away: too far to trust its steps, near enough for the first of them.
    away = full_like((n_replicas,), math.inf, count)
    if start is not None:
        # More labels of a similar kind: the old curvature, grown with their number.
        growth = xp.sum(count, axis=-1) / xp.where(start.total > 0, start.total, 1.0 + start.total)
        growth = xp.where(start.total > 0, growth, xp.ones_like(growth))
        hessian = invertible(start.hessian * growth[:, None, None] + fixed)
        away = xp.ones_like(away)
    residual = full_like((n_replicas,), math.inf, count)
    for n_iter in range(1, max_iter + 1):
        margins = design.margins(theta)
        prob = sigmoid(margins if scale == 1.0 else scale * margins)
        weighted = count * prob
        gradient = scale * design.adjoint(weighted) - target + ridge[:, None] * theta
        ready = residual <= tol
        # Decided per replica, so that no replica depends on its company.
        stale = ~ready & (away > (_NEAR if n_iter > 1 else 1.0))
        if bool(xp.any(stale)):
            new = invertible(design.gram((scale * scale) * weighted * (1.0 - prob)) + fixed)
            hessian = xp.where(stale[:, None, None], new, hessian)
            away = xp.where(stale, xp.zeros_like(away), away)
        step = solve(hessian, gradient)
        size = unit * xp.sqrt(xp.sum(step * step, axis=-1))
        damp = xp.where(ready, xp.zeros_like(size), _damping(design, count, step, size, scale))
        # A replica that has converged stays put, so its value cannot depend on the others.
        theta = theta - damp[:, None] * step
        # A whole step with a Hessian from within D logits leaves at most about D times itself.
        away = xp.where(ready, away, away + size)
        left = size * xp.where(away < 1.0, away, xp.ones_like(away))
        residual = xp.where(ready, residual, left)
        if bool(xp.all(residual <= tol)):
            break
    # Last, because it costs nothing then: NaN anywhere in the input has reached the residual.
    check_finite("count, wins and features of the data", residual)
    return theta, residual, hessian - fixed, n_iter


def invertible(hessian: Array) -> Array:
    """Return the Hessian with a floor at rounding: where data are separable it runs to singular."""
    xp = namespace(hessian)
    top = xp.linalg.trace(hessian)[:, None, None]
    top = xp.where(top > 0, top, xp.ones_like(top))
    return hessian + 4.0 * xp.finfo(hessian.dtype).eps * top * eye_like(hessian.shape[-1], hessian)


def _damping(design: Design, count: Array, step: Array, size: Array, scale: float) -> Array:
    """Return the length of a step: log(1 + m) / m, m the largest change of a logit; 1 near the end.

    Steps that change no logit by more than 1/10 are taken whole; the others need their m exactly.
    """
    xp = namespace(step)
    if not bool(xp.any(size > 0.1)):
        return xp.ones_like(size)
    m = widest_logit(scale * design.margins(step), count)
    return xp.where(size > 0.1, damping(m, 0.1), xp.ones_like(m))


def widest_logit(u: Array, count: Array) -> Array:
    """Return the largest ``|u|`` of the compared pairs, shape ``(R,)``; 0 without pairs."""
    xp = namespace(u, count)
    if not u.shape[1]:
        return full_like((count.shape[0],), 0.0, count)
    return xp.max(xp.abs(u) * xp.astype(count > 0, count.dtype), axis=-1)
