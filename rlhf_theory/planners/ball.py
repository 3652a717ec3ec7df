"""The minimum of a convex quadratic over a ball: one step of a method over an ellipsoid."""

from __future__ import annotations

from rlhf_theory.arrays import Array, namespace

__all__ = ["ball_minimum"]


def ball_minimum(
    hessian: Array, gradient: Array, w: Array, beta: Array, null: Array | None = None
) -> Array:
    r"""Minimise a convex quadratic model over a ball around 0.

    .. math:: \min_{|u| \le \beta} \langle g, u - w\rangle + \tfrac12 (u - w)^\top H (u - w)

    Parameters
    ----------
    hessian
        Positive semi-definite, shape ``(R, d, d)``.
    gradient, w
        Shape ``(R, d)``.
    beta
        Radius, shape ``(R,)``; 0 gives 0.
    null
        Projector on directions that neither Hessian nor gradient sees, shape ``(R, d, d)``; the
        minimiser has no part there.

    Returns
    -------
    Array of shape ``(R, d)``, of norm at most ``beta``.
    """
    xp = namespace(hessian, gradient)
    linear = gradient - xp.matmul(hessian, w[..., None])[..., 0]
    if null is not None:
        top = xp.max(xp.abs(hessian), axis=(-2, -1), keepdims=True)
        hessian = hessian + xp.where(top > 0, top, xp.ones_like(top)) * null
    values, vectors = xp.linalg.eigh(hessian)
    values = xp.where(values > 0, values, xp.zeros_like(values))
    c = xp.matmul(xp.matrix_transpose(vectors), linear[..., None])[..., 0]
    mu = _multiplier(values, c, beta)
    shifted = values + mu[:, None]
    safe = xp.where(shifted > 0, shifted, xp.ones_like(shifted))
    u = xp.where(shifted > 0, -c / safe, xp.zeros_like(c))
    norm = xp.sqrt(xp.sum(u * u, axis=-1))
    shrink = xp.where(norm > beta, beta / xp.where(norm > 0, norm, xp.ones_like(norm)), 1.0)
    return xp.matmul(vectors, (u * shrink[:, None])[..., None])[..., 0]


def _multiplier(values: Array, c: Array, beta: Array) -> Array:
    """Return the ``mu >= 0`` with ``|c / (values + mu)| <= beta``, shape ``(R,)``.

    ``1 / |u(mu)|`` is concave and increasing, so Newton from the left of the root climbs to it
    (Conn, Gould and Toint 2000, Trust-Region Methods, section 7.3).
    """
    xp = namespace(values, c)
    radius = xp.where(beta > 0, beta, xp.ones_like(beta))[:, None]
    # |u| >= |c_i| / (values_i + mu) for each i: left of the root, and positive where it has to be.
    mu = xp.max(xp.abs(c) / radius - values, axis=-1)
    mu = xp.where(mu > 0, mu, xp.zeros_like(mu))
    tiny = float(xp.finfo(c.dtype).smallest_normal)
    for _ in range(60):
        shifted = values + mu[:, None] + tiny
        u = xp.where(c == 0, xp.zeros_like(c), c / shifted)
        square = xp.sum(u * u, axis=-1)
        norm = xp.sqrt(square)
        slope = xp.sum(u * u / shifted, axis=-1)
        over = norm / radius[:, 0] - 1.0
        move = xp.where(
            over > 0, square / xp.where(slope > 0, slope, xp.ones_like(slope)) * over, 0.0 * over
        )
        mu = mu + move
        if bool(xp.all(move <= 1e-15 * mu)):
            break
    return mu
