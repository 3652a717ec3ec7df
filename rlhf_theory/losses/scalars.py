"""Scalar functions with the right derivative at zero, where training starts.

The policy starts at the reference, so every log-ratio is zero at first. The functions of
`rlhf_theory.arrays` branch there (``abs`` and ``where``), and automatic differentiation gives them
the derivative 0; those of this module have the true one.
"""

from __future__ import annotations

import math

from rlhf_theory.arrays import Array, namespace


def softplus(u: Array) -> Array:
    """Return ``log(1 + e^u)``; derivative ``sigma(u)`` everywhere, 1/2 at zero."""
    xp = namespace(u)
    return xp.logaddexp(xp.zeros_like(u), u)


def log_sigmoid(u: Array) -> Array:
    """Return ``log sigma(u) = -log(1 + e^-u)``; derivative ``sigma(-u)`` everywhere."""
    return -softplus(-u)


def square(u: Array) -> Array:
    """Return ``u^2``."""
    return u * u


def positive_part(u: Array) -> Array:
    """Return ``max(0, u)``; derivative 0 at zero, where no loss starts."""
    xp = namespace(u)
    return xp.where(u > 0.0, u, xp.zeros_like(u))


def tame_exp(u: Array) -> Array:
    """Return ``e^u``, continued by its tangent where it would come near overflow.

    Exact below four fifths of the exponent's range: up to ``u = 70`` in float32 and 567 in
    float64. Beyond, value and derivative stay finite, and the function stays convex.
    """
    xp = namespace(u)
    top = 0.8 * math.log(float(xp.finfo(u.dtype).max))
    far = u > top
    near = xp.where(far, xp.zeros_like(u), u)
    beyond = xp.where(far, u - top, xp.zeros_like(u))
    return xp.where(far, math.exp(top) * (1.0 + beyond), xp.exp(near))


def log_one_minus_exp(u: Array) -> Array:
    """Return ``log(1 - e^u)`` for ``u <= 0`` without cancellation.

    Values above ``-eps`` (a probability of one) count as ``-eps``; the derivative there is 0.
    """
    xp = namespace(u)
    eps = float(xp.finfo(u.dtype).eps)
    u = xp.where(u > -eps, xp.full_like(u, -eps), u)
    return xp.where(u > -math.log(2.0), xp.log(-xp.expm1(u)), xp.log1p(-xp.exp(u)))
