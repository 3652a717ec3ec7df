"""Logistic maximum likelihood over a ball by constrained Newton steps."""

from __future__ import annotations

import math

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
from rlhf_theory.core import Solution
from rlhf_theory.data import Design
from rlhf_theory.errors import check_nonnegative, check_positive, check_shape
from rlhf_theory.estimators.newton import WIDEST, widest_logit
from rlhf_theory.estimators.scaling import scaled
from rlhf_theory.trust_region import minimise_in_ball


def ball_mle(
    design: Design,
    count: Array,
    wins: Array,
    *,
    bound: float,
    ridge: float = 0.0,
    scale: float = 1.0,
    start: Solution[Array] | None = None,
    tol: float | None = None,
    max_iter: int = 100,
) -> Solution[Array]:
    r"""Minimise the negative log-likelihood over :math:`|\theta| \le B`.

    Every step minimises the quadratic model over the ball, exactly, and goes a share
    ``log(1 + m) / m`` of the way, ``m`` the largest change of a logit: the loss is generalised
    self-concordant, so it decreases from any start, and the ball, being convex, is never left.
    Near the minimum the whole step is taken and convergence is quadratic, on the sphere as inside.

    Parameters
    ----------
    design, count, wins, ridge, scale
        As for `neg_log_likelihood`.
    bound
        ``B``, positive.
    start
        The solution of a similar fit warms the search; None starts at 0.
    tol
        Largest residual; 1e-9 for doubles, else 100 eps.
    max_iter
        Newton steps.

    Returns
    -------
    Solution of shape ``(R, p)``, the shortest minimiser where it is not unique (a direction that
    the data leave unseen has part 0); it exists for all data. The residual estimates the error
    left, in logits or parameters. ``converged`` is False where compared pairs have logits beyond
    30 without ridge.

    Raises
    ------
    ValueError
        A bound that is not positive, a negative ridge, NaN in the data.

    Source: Bach (2010), EJS 4, Proposition 1, for the damping; [2301.11270], equation (3).
    """
    check_positive("bound", bound)
    check_nonnegative("ridge", ridge)
    check_shape("wins", wins, tuple(count.shape), "(R, n)")
    xp = namespace(count, wins)
    rows = scaled(design, scale)
    n_replicas, p = count.shape[0], rows.n_params
    eps = float(xp.finfo(count.dtype).eps)
    tol = max(1e-9, 100.0 * eps) if tol is None else tol
    target = rows.adjoint(wins)
    # Before any eigenvalues, whose routine would fail on NaN with a message of its own.
    total = xp.sum(count, axis=-1)[:, None]
    check_finite("count, wins and features of the data", target + total)
    longest = xp.maximum(rows.z_max, full_like((1,), 1.0, count))

    theta = full_like((n_replicas, p), 0.0, count)
    if start is not None:
        norm = xp.sqrt(xp.sum(start.value * start.value, axis=-1, keepdims=True))
        theta = start.value * (bound / xp.where(norm > bound, norm, xp.full_like(norm, bound)))
    u = rows.margins(theta)
    residual = full_like((n_replicas,), math.inf, count)
    for n_iter in range(1, max_iter + 1):  # noqa: B007
        prob = sigmoid(u)
        weighted = count * prob
        gradient = rows.adjoint(weighted) - target + ridge * theta
        step = _constrained_step(
            rows.gram(weighted * (1.0 - prob)), gradient, theta, bound, ridge, eps
        )
        size = longest * xp.sqrt(xp.sum(step * step, axis=-1))
        du = rows.margins(step)
        change = xp.max(xp.abs(du), axis=-1) if du.shape[1] else xp.zeros_like(size)
        damp = damping(change, 0.1)
        # A replica that has converged stays put, so its value cannot depend on the others.
        ready = residual <= tol
        damp = xp.where(ready, xp.zeros_like(damp), damp)[:, None]
        theta, u = theta + damp * step, u + damp * du
        # A whole Newton step that changes logits by m leaves at most about m times itself.
        left = size * xp.where(size < 1.0, size, xp.ones_like(size))
        residual = xp.where(ready, residual, left)
        if bool(xp.all(residual <= tol)):
            break
    hint = (
        "Raise `max_iter`, or lower `bound`: fits over a ball exist for all data, but beyond "
        f"{WIDEST:.0f} logits doubles cannot find them."
    )
    converged = residual <= tol
    if ridge == 0.0:
        # Out there the gradient of separable data has rounded to zero anywhere, not at the minimum.
        converged = converged & (widest_logit(u, count) < WIDEST)
    return Solution(theta, residual, converged, n_iter, hint)


def _constrained_step(
    hessian: Array, gradient: Array, theta: Array, bound: float, ridge: float, eps: float
) -> Array:
    """Return the step to the minimiser of the quadratic model over the ball, shape ``(R, p)``."""
    xp = namespace(hessian)
    if ridge > 0.0:
        # Most steps with a ridge stay inside, where one solve is cheaper than eigenvalues.
        inside = solve(hessian + ridge * eye_like(hessian.shape[-1], hessian), -gradient)
        goal = theta + inside
        if bool(xp.all(xp.sum(goal * goal, axis=-1) <= bound * bound)):
            return inside
    values, vectors = xp.linalg.eigh(hessian)
    turned = xp.matmul(theta[:, None, :], vectors)[:, 0, :]
    slope = xp.matmul(gradient[:, None, :], vectors)[:, 0, :]
    # Directions without curvature are unseen: there the shortest minimiser has no part.
    seen = values > 10.0 * hessian.shape[-1] * eps * values[:, -1:]
    values = xp.where(seen, values, xp.zeros_like(values)) + ridge
    pull = xp.where(seen, values * turned - slope, xp.zeros_like(slope))
    x, _ = minimise_in_ball(values, pull, bound)
    return xp.matmul(vectors, (x - turned)[..., None])[..., 0]
