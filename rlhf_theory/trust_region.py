"""Convex quadratics over a ball: the exact step of every solver that stays inside one."""

from __future__ import annotations

from rlhf_theory.arrays import Array, full_like, namespace

# Secular steps approach the multiplier from one side and at least double the digits near it.
_SECULAR_STEPS = 60


def minimise_in_ball(values: Array, b: Array, bound: Array | float) -> tuple[Array, Array]:
    r"""Minimise ``1/2 x^T diag(values) x - <b, x>`` over ``|x| <= bound``.

    Parameters
    ----------
    values
        Diagonal, not negative (a matrix in its eigenbasis), shape ``(..., d)``.
    b
        Shape ``(..., d)``.
    bound
        Radius of the ball, a positive number or shape ``(...)``; 0 there gives 0.

    Returns
    -------
    The minimiser (the shortest one), and the multiplier ``kappa >= 0`` with
    ``x = b / (values + kappa)``, shape ``(...)``.

    Source: Conn, Gould and Toint (2000), Trust-Region Methods, section 7.3.
    """
    xp = namespace(values, b)
    tiny = float(xp.finfo(b.dtype).smallest_normal)
    given = full_like((1,), bound, b) if isinstance(bound, int | float) else bound
    radius = xp.where(given > 0, given, xp.ones_like(given))
    # |x(kappa)| >= |b_i| / (values_i + kappa) for each i: a start on the left of the root, from
    # where Newton on 1 / |x(kappa)|, which is concave, never passes it.
    kappa = xp.max(xp.abs(b) / radius[..., None] - values, axis=-1)
    kappa = xp.where(kappa > 0, kappa, xp.zeros_like(kappa))
    for _ in range(_SECULAR_STEPS):
        shifted = values + kappa[..., None]
        shifted = xp.where(shifted > tiny, shifted, full_like((1,), tiny, b))
        x = b / shifted
        square = xp.sum(x * x, axis=-1)
        norm = xp.sqrt(square)
        outside = norm > radius * (1.0 + 1e-13)
        if not bool(xp.any(outside)):
            break
        slope = xp.sum(x * x / shifted, axis=-1)
        move = square / xp.where(slope > 0, slope, xp.ones_like(slope)) * (norm / radius - 1.0)
        kappa = xp.where(outside, kappa + move, kappa)
    return xp.where((given > 0)[..., None], x, xp.zeros_like(x)), kappa


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
    u, _ = minimise_in_ball(values, -c, beta)
    norm = xp.sqrt(xp.sum(u * u, axis=-1))
    shrink = xp.where(norm > beta, beta / xp.where(norm > 0, norm, xp.ones_like(norm)), 1.0)
    return xp.matmul(vectors, (u * shrink[:, None])[..., None])[..., 0]
