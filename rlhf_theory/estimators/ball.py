"""Quadratics over a ball and a level set: the exact subproblem of likelihood sets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_theory.arrays import Array, full_like, namespace
from rlhf_theory.trust_region import minimise_in_ball

_LEVEL_STEPS = 60


@dataclass(frozen=True, eq=False)
class QuadraticModel:
    r"""A loss near ``theta``: ``L + <g, h> + 1/2 h^T H h``, in the eigenbasis of ``H``.

    Attributes
    ----------
    loss
        ``L``, shape ``(...)``.
    gradient, theta, direction
        ``g``, ``theta`` and a direction ``v`` in the eigenbasis, shape ``(..., d)``.
    values, vectors
        Eigenvalues ``(..., d)`` and eigenvectors ``(..., d, d)`` of ``H``.
    """

    loss: Array
    gradient: Array
    theta: Array
    direction: Array
    values: Array
    vectors: Array

    @classmethod
    def at(
        cls, theta: Array, loss: Array, gradient: Array, hessian: Array, direction: Array
    ) -> QuadraticModel:
        """Return the model with loss, gradient and Hessian at ``theta``."""
        xp = namespace(theta, hessian)
        values, vectors = xp.linalg.eigh(hessian)
        values = xp.where(values > 0, values, xp.zeros_like(values))

        def turned(x: Array) -> Array:
            return xp.matmul(x[..., None, :], vectors)[..., 0, :]

        return cls(loss, turned(gradient), turned(theta), turned(direction), values, vectors)

    def tilted(self, tau: Array, bound: float) -> tuple[Array, Array, Array]:
        """Return the minimiser of model + ``tau <v, x>`` in the ball, multiplier, model there."""
        xp = namespace(self.theta)
        b = self.values * self.theta - self.gradient - tau[..., None] * self.direction
        x, kappa = minimise_in_ball(self.values, b, bound)
        h = x - self.theta
        change = xp.sum(self.gradient * h + 0.5 * self.values * h * h, axis=-1)
        return x, kappa, self.loss + change

    def slope(self, x: Array, kappa: Array) -> Array:
        """Return ``-<v, dx / dtau>`` of `tilted`, never negative, shape ``(...)``."""
        xp = namespace(x)
        tiny = float(xp.finfo(x.dtype).smallest_normal)
        shifted = self.values + kappa[..., None]
        shifted = xp.where(shifted > tiny, shifted, full_like((1,), tiny, x))
        v = self.direction
        free = xp.sum(v * v / shifted, axis=-1)
        along, across = xp.sum(x * x / shifted, axis=-1), xp.sum(x * v / shifted, axis=-1)
        # On the sphere x moves along it only.
        safe = xp.where(along > 0, along, xp.ones_like(along))
        held = free - across * across / safe
        value = xp.where(kappa > 0, held, free)
        return xp.where(value > 0, value, xp.zeros_like(value))

    def back(self, x: Array) -> Array:
        """Return ``x`` of the eigenbasis in the usual coordinates."""
        xp = namespace(x, self.vectors)
        return xp.matmul(self.vectors, x[..., None])[..., 0]


def least_linear(
    model: QuadraticModel, level: Array, bound: float, tau: Array, slack: Array
) -> tuple[Array, Array]:
    r"""Minimise ``<v, x>`` over ``model(x) <= level`` and ``|x| <= bound``.

    The minimiser also minimises ``model(x) + tau <v, x>`` in the ball, for the ``tau`` that makes
    the model reach the level; the model there increases with ``tau``. The root of its excess over
    the least model is nearly linear in ``tau`` (exactly, without the ball): Newton on that,
    kept within brackets.

    Parameters
    ----------
    model
        The quadratic model.
    level, slack
        The level, and the tolerance on it, shape ``(...)``. Where the model cannot come down to
        the level, the answer is its minimiser; where the whole ball is below, the far point.
    bound
        Radius of the ball.
    tau
        A guess, positive, shape ``(...)``.

    Returns
    -------
    The minimiser, shape ``(..., d)``, and ``tau``.
    """
    xp = namespace(level, tau)
    _, _, least = model.tilted(xp.zeros_like(tau), bound)
    excess = level - least
    hopeless = excess <= 0
    goal = xp.sqrt(xp.where(hopeless, xp.zeros_like(excess), excess))
    # From here on the linear term outweighs everything: x is the far point to ten digits.
    steepest = xp.max(xp.abs(model.gradient) + model.values * bound, axis=-1)
    size = xp.max(xp.abs(model.direction), axis=-1)
    cap = 1e10 * (steepest + slack) / xp.where(size > 0, size, xp.ones_like(size))
    low, high = xp.zeros_like(tau), xp.full_like(tau, math.inf)
    tau = xp.where(tau < cap, tau, cap)
    for _ in range(_LEVEL_STEPS):
        x, kappa, value = model.tilted(tau, bound)
        below = value <= level
        done = hopeless | (xp.abs(value - level) <= slack) | (below & (tau >= cap))
        if bool(xp.all(done)):
            break
        low = xp.where(below, xp.maximum(low, tau), low)
        high = xp.where(below, high, xp.minimum(high, tau))
        above_least = value - least
        root = xp.sqrt(xp.where(above_least > 0, above_least, xp.zeros_like(above_least)))
        rise = tau * model.slope(x, kappa)
        flat = rise <= 0
        move = (goal - root) * 2.0 * root / xp.where(flat, xp.ones_like(rise), rise)
        bracketed = high < math.inf
        top = xp.where(bracketed, high, tau)
        middle = xp.where(bracketed, xp.sqrt(xp.maximum(low, 1e-8 * top) * top), 30.0 * tau)
        new = xp.where(flat | (root <= 0), middle, tau + move)
        new = xp.minimum(new, 30.0 * tau)
        new = xp.where((new > low) & (new < high), new, middle)
        new = xp.where(new < cap, new, cap)
        tau = xp.where(done, tau, new)
    if bool(xp.any(hopeless)):
        nearest, _, _ = model.tilted(xp.zeros_like(tau), bound)
        x = xp.where(hopeless[..., None], nearest, x)
    return model.back(x), tau
