"""Exponential tilts of a policy along directions: moments, and the largest tilt inside a KL set.

Here a direction is a unit vector in coordinates in which the confidence ellipsoid is the unit ball.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from rlhf_theory.arrays import (
    Array,
    expand_rows,
    full_like,
    logsumexp,
    matvec,
    namespace,
)

Form = Literal["constrained", "penalised", "free"]

# Scores this close (relative to the largest) are ties: the argmax policy must not depend on the
# last bit of a matrix product.
_TIE = 256.0


def tilt(log_pi1: Array, scores: Array, tau: Array) -> Array:
    """Return ``log pi``, ``pi`` proportional to ``pi1 exp(tau scores)``.

    Parameters
    ----------
    log_pi1
        Base policy, shape ``(..., A)``; ``-inf`` stays.
    scores
        Finite, shape ``(..., A)``.
    tau
        Shape ``(...)``; infinity gives the base policy restricted to the actions of largest score.

    Returns
    -------
    Log-probabilities of the broadcast shape.
    """
    xp = namespace(log_pi1, scores, tau)
    gap, _ = _gaps(log_pi1 > -math.inf, scores)
    slack = _TIE * xp.finfo(scores.dtype).eps * xp.max(xp.abs(scores), axis=-1, keepdims=True)
    end = xp.isinf(tau)[..., None]
    finite = xp.where(end, xp.zeros_like(tau[..., None]), tau[..., None])
    logits = log_pi1 + finite * gap
    logits = xp.where(end & (gap < -slack), full_like((1,), -math.inf, logits), logits)
    return logits - logsumexp(logits, keepdims=True)


def _gaps(present: Array, scores: Array) -> tuple[Array, Array]:
    """Return scores below the best present one (0 where absent), and the best, over actions."""
    xp = namespace(present, scores)
    admitted = xp.where(present, scores, full_like((1,), -math.inf, scores))
    # Action by action: reducing a short last axis is several times slower.
    best = admitted[..., 0]
    for a in range(1, scores.shape[-1]):
        best = xp.maximum(best, admitted[..., a])
    gap = xp.where(present, scores - best[..., None], full_like((1,), 0.0, scores))
    return gap, best


def _over_actions(x: Array) -> Array:
    """Return the sum over the last axis; as a product, for the same reason as above."""
    xp = namespace(x)
    return xp.matmul(x, full_like((x.shape[-1],), 1.0, x))


@dataclass(frozen=True, eq=False)
class Space:
    """Features measured from a policy, in coordinates of its confidence ellipsoid.

    Attributes
    ----------
    v
        ``beta L^-1 (phi(x, a) - phi(x, pi1))`` with ``Sigma = L L^T``, so that ``|E v|`` is the
        bonus; shape ``(R, B A, d)``.
    log_pi1
        Base policy, shape ``(R, 1, B, A)``.
    weights
        Law of the contexts, shape ``(R|1, 1, B)``.
    root
        ``beta L^-T``, shape ``(R, d, d)``: from directions here to parameters ``u`` with
        ``|u|_Sigma = beta``.
    """

    v: Array
    log_pi1: Array
    weights: Array
    root: Array

    @cached_property
    def present(self) -> Array:
        """Which actions there are, shape ``(R, 1, B, A)``."""
        return self.log_pi1 > -math.inf

    @cached_property
    def slack(self) -> Array:
        """Differences of scores that are ties, shape ``(R, 1, 1, 1)``."""
        xp = namespace(self.v)
        longest = xp.sqrt(xp.max(xp.sum(self.v * self.v, axis=-1), axis=-1))
        return (_TIE * xp.finfo(self.v.dtype).eps * longest)[:, None, None, None]

    @cached_property
    def deep(self) -> bool:
        """Whether probabilities of present actions may underflow, so that sums need care."""
        xp = namespace(self.log_pi1)
        lowest = xp.log(
            full_like((1,), float(xp.finfo(self.log_pi1.dtype).smallest_normal), self.v)
        )
        return bool(xp.any(self.present & (self.log_pi1 < 0.8 * lowest)))

    def scores(self, u: Array) -> Array:
        """Return ``<u, v>``, shape ``(R, S, B, A)``, for directions ``(R, S, d)``."""
        xp = namespace(u)
        flat = xp.matmul(u, xp.matrix_transpose(self.v))
        return xp.reshape(flat, (*flat.shape[:2], *self.log_pi1.shape[2:]))

    def mean(self, p: Array, z: Array | None = None) -> Array:
        """Return ``E_x E_{p / z} v``, shape ``(R, S, d)``, for ``p`` ``(R, S, B, A)``."""
        xp = namespace(p)
        weights = self.weights if z is None else self.weights / z
        weighted = p * weights[..., None]
        return xp.matmul(xp.reshape(weighted, (*p.shape[:2], self.v.shape[1])), self.v)

    def average(self, x: Array) -> Array:
        """Return ``E_x x``, shape ``(R, S)``, for ``(R, S, B)``."""
        return namespace(x).sum(self.weights * x, axis=-1)

    def parameters(self, u: Array) -> Array:
        """Return ``beta L^-T u``, shape ``(R, d)``, for directions ``(R, d)``."""
        return matvec(self.root, u)


def whiten(
    features: Array, log_pi1: Array, weights: Array, sigma: Array, beta: Array
) -> tuple[Space, Array]:
    """Return the space of a confidence ellipsoid, and ``L`` of ``Sigma = L L^T``."""
    xp = namespace(features, log_pi1, sigma)
    n_replicas = max(features.shape[0], log_pi1.shape[0], sigma.shape[0], beta.shape[0])
    _, b, a, d = features.shape
    log_pi1 = expand_rows(log_pi1, n_replicas)
    mean = xp.matmul(xp.exp(log_pi1)[..., None, :], features)
    centred = xp.reshape(features - mean, (n_replicas, b * a, d))
    lower = xp.linalg.cholesky(expand_rows(sigma, n_replicas))
    root = expand_rows(beta, n_replicas)[:, None, None] * xp.matrix_transpose(xp.linalg.inv(lower))
    space = Space(xp.matmul(centred, root), log_pi1[:, None, ...], weights[:, None, :], root)
    return space, lower


class Response(NamedTuple):
    """The best tilt along each direction.

    Attributes
    ----------
    tau
        Shape ``(R, S)``; may be infinite.
    g
        ``E v`` under the tilted policy, shape ``(R, S, d)``.
    inner
        ``<u, g>``, shape ``(R, S)``.
    kl
        ``E KL(pi || pi1)``, shape ``(R, S)``.
    """

    tau: Array
    g: Array
    inner: Array
    kl: Array


@dataclass(frozen=True, eq=False)
class _Tilted:
    """The tilted policy ``p / z`` with the moments of its scores below the best, and its KL."""

    p: Array
    z: Array
    mean: Array
    variance: Array
    kl: Array


def _tilted(space: Space, logits: Array, gap: Array, tau: Array | None) -> _Tilted:
    """Return the policy with these logits; ``tau`` is None where gaps with mass are 0."""
    xp = namespace(gap)
    shift = 0.0
    if space.deep:
        shift = xp.max(logits, axis=-1)
        logits = logits - shift[..., None]
    p = xp.exp(logits)
    z = _over_actions(p)
    log_z = xp.log(z) + shift
    if tau is None:
        zero = xp.zeros_like(space.average(z))
        return _Tilted(p, z, zero, zero, -space.average(log_z))
    share = p * gap
    below = _over_actions(share) / z
    square = _over_actions(share * gap) / z
    mean = space.average(below)
    variance = space.average(square - below * below)
    return _Tilted(p, z, mean, variance, tau * mean - space.average(log_z))


def respond(
    space: Space, u: Array, tau: Array, eta: float, form: Form, tol: Array, rough: int = 0
) -> Response:
    """Return the best policy along each direction, a tilt of ``pi1``.

    Parameters
    ----------
    space
        Features and base policy.
    u
        Directions, shape ``(R, S, d)``.
    tau
        Where to start the search for the tilt, shape ``(R, S)``; at least ``1 / eta``.
    eta
        Weight of the KL.
    form
        ``"penalised"``: maximises ``<u, E v> - eta KL``, by ``tau = 1 / eta``; ``"constrained"``:
        maximises ``<u, E v>`` where ``eta KL <= <u, E v>``; ``"free"``: maximises ``<u, E v>``.
    tol
        Shape ``(R, S)``: the constraint holds, and ``eta KL`` uses all but ``2 tol`` of it.
    rough
        If positive, stop after so many evaluations, on either side of the constraint.

    Notes
    -----
    Along one direction ``KL / <u, E v>`` is non-decreasing in tau and ``1 / eta`` is feasible: with
    ``Lambda(tau) = E log E_{pi1} exp(tau <u, v>)`` one has ``<u, E v> = Lambda'`` and
    ``KL = tau Lambda' - Lambda``. Newton's method on the logarithm of the ratio, in log tau, inside
    a bracket; infinity is tried first.
    """
    xp = namespace(u)
    gap, best = _gaps(space.present, space.scores(u))
    top = space.average(best)
    if form == "penalised":
        tau = xp.full_like(tau, 1.0 / eta)
        now = _tilted(space, space.log_pi1 + gap / eta, gap, tau)
        return Response(tau, space.mean(now.p, now.z), top + now.mean, now.kl)

    # Infinite tilt: the base policy restricted to the best actions.
    nothing = full_like((1,), -math.inf, gap)
    end = _tilted(space, xp.where(gap < -space.slack, nothing, space.log_pi1), gap, None)
    infinity = xp.full_like(tau, math.inf)
    free = xp.ones_like(top, dtype=xp.bool) if form == "free" else eta * end.kl <= top
    if bool(xp.all(free)):
        return Response(infinity, space.mean(end.p, end.z), top, end.kl)

    tau, now = _largest_feasible(space, gap, top, tau, free, eta, tol, rough)
    chosen = free[..., None]
    p = xp.where(chosen[..., None], end.p, now.p)
    return Response(
        xp.where(free, infinity, tau),
        space.mean(p, xp.where(chosen, end.z, now.z)),
        xp.where(free, top, top + now.mean),
        xp.where(free, end.kl, now.kl),
    )


def _largest_feasible(
    space: Space,
    gap: Array,
    top: Array,
    tau: Array,
    done: Array,
    eta: float,
    tol: Array,
    rough: int,
) -> tuple[Array, _Tilted]:
    """Return the largest tilt with ``eta KL <= <u, E v>`` where not ``done``, and its policy."""
    xp = namespace(tau)
    low = full_like(tau.shape, -math.log(eta), tau)
    high = xp.full_like(low, math.inf)
    safe = xp.isfinite(tau) & (tau * eta > 1.0)
    t = xp.log(xp.where(safe, tau, xp.full_like(tau, 2.0 / eta)))
    max_iter = rough or 60
    for k in range(max_iter):
        tau = xp.exp(t)
        now = _tilted(space, space.log_pi1 + tau[..., None, None] * gap, gap, tau)
        ratio, slope = _log_ratio(now, top, tau, eta)
        # A replica that has converged stays put, so its value cannot depend on the others.
        done = done | (xp.abs(ratio + tol) <= tol)
        if bool(xp.all(done)) or k == max_iter - 1:
            break
        low = xp.where(~done & (ratio <= 0.0), t, low)
        high = xp.where(~done & (ratio > 0.0), t, high)
        step = t + xp.clip(-(ratio + tol) / slope, -2.0, 2.0)
        middle = xp.where(xp.isfinite(high), 0.5 * (low + high), low + 2.0)
        step = xp.where((step > low) & (step < high), step, middle)
        # Unless rough, the last evaluation is of a tilt that is known to be feasible.
        t = xp.where(done, t, step if rough or k < max_iter - 2 else low)
    return tau, now


def _log_ratio(now: _Tilted, top: Array, tau: Array, eta: float) -> tuple[Array, Array]:
    """Return ``log(eta KL / <u, E v>)`` and its positive derivative in log tau."""
    xp = namespace(tau)
    # Far below rounding, and its inverse times a tilt is still finite.
    floor = full_like((1,), float(xp.finfo(tau.dtype).smallest_normal) ** 0.25, tau)
    kl, inner = xp.maximum(now.kl, floor), xp.maximum(top + now.mean, floor)
    slope = tau * now.variance * (tau / kl - 1.0 / inner)
    ratio = math.log(eta) + xp.log(kl) - xp.log(inner)
    return ratio, xp.where(slope > 1e-3, slope, xp.full_like(slope, 1e-3))
