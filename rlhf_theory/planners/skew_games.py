"""KL-regularised skew games: best replies, distances to them, and the Newton step.

A game is a skew matrix ``S`` over ``N = k A`` actions of ``k`` players, a field ``h`` and a weight
``eta``; its equilibrium is the fixed point ``pi = BR(pi) = softmax((h + S pi) / eta)``, normalised
per player. One antisymmetric payoff is one player; two players with payoff ``M`` have
``S = [[0, M], [-M^T, 0]]``. The gap of ``pi`` is ``eta KL(pi || BR(pi))``, summed over players.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlhf_theory.arrays import Array, as_like, eye_like, full_like, logsumexp, namespace, select

# Stands for log 0 where -inf would make NaN: its exponential is 0 exactly.
_ABSENT = -1e6
# A rising action gets this times eta / max |S| at once: with less mass than that, others hardly
# react to it and its logarithm moves linearly; beyond, its mass does.
_SHARE = 1.0
# A falling action loses up to this part of its mass linearly, and the rest exponentially, by a
# factor of at most e^_FALL in one step.
_LINEAR_FALL = 0.95
_FALL = 20.0
# What is tried where a whole Newton step does not help.
_SHORTER = (0.5, 0.25, 0.1, 0.03)
_MIXTURES = (0.5, 0.1, 0.02)


@dataclass(frozen=True, eq=False)
class SkewGames:
    """Games ``pi = softmax((field + skew pi) / eta)``; the first axis counts games.

    Attributes
    ----------
    skew
        Skew-symmetric matrices, shape ``(G, N, N)``, ``N = k A``; zero at absent actions.
    field
        ``eta log pi0`` of each player, shape ``(G, k, A)``; zero at absent actions.
    present
        Which actions there are, shape ``(G, k, A)``; None where all are.
    size
        ``max |skew|``, shape ``(G,)``.
    """

    skew: Array
    field: Array
    present: Array | None
    size: Array

    @classmethod
    def of(cls, skew: Array, log_pi0: Array, eta: float) -> SkewGames:
        """Return the games of reference policies ``log_pi0`` ``(G, k, A)``; -inf: absent."""
        xp = namespace(skew, log_pi0)
        present = log_pi0 > _ABSENT
        if bool(xp.all(present)):
            return cls(skew, eta * log_pi0, None, xp.max(xp.abs(skew), axis=(-2, -1)))
        flat = xp.reshape(present, (skew.shape[0], -1))
        skew = xp.where(flat[:, :, None] & flat[:, None, :], skew, xp.zeros_like(skew))
        field = eta * xp.where(present, log_pi0, xp.zeros_like(log_pi0))
        return cls(skew, field, present, xp.max(xp.abs(skew), axis=(-2, -1)))

    def normalised(self, log_p: Array) -> Array:
        """Return ``log_p - log sum exp(log_p)`` per player; absent actions get `_ABSENT`."""
        xp = namespace(log_p)
        if self.present is None:
            top = log_p - xp.max(log_p, axis=-1, keepdims=True)
            return top - xp.log(xp.sum(xp.exp(top), axis=-1, keepdims=True))
        absent = full_like((1, 1, 1), _ABSENT, log_p)
        log_p = xp.where(self.present, log_p, absent)
        return xp.where(self.present, log_p - logsumexp(log_p, keepdims=True), absent)

    def replies(self, log_p: Array, eta: Array) -> tuple[Array, Array]:
        """Return ``pi`` and the logarithm of ``BR(pi)``, both ``(G, k, A)``."""
        xp = namespace(log_p)
        p = xp.exp(log_p)
        payoff = xp.matmul(self.skew, xp.reshape(p, (p.shape[0], -1, 1)))
        total = self.field + xp.reshape(payoff, p.shape)
        return p, self.normalised(total / eta[:, None, None])

    def rows(self, index: Array) -> SkewGames:
        """Return some of the games."""
        xp = namespace(self.skew)
        present = None if self.present is None else xp.take(self.present, index, axis=0)
        return SkewGames(
            xp.take(self.skew, index, axis=0),
            xp.take(self.field, index, axis=0),
            present,
            xp.take(self.size, index, axis=0),
        )


class Point(NamedTuple):
    """Log-policies ``(G, k, A)``, probabilities, log-replies, and distances between them."""

    log_p: Array
    p: Array
    reply: Array
    kl: Array
    jeffreys: Array


def point(games: SkewGames, log_p: Array, eta: Array) -> Point:
    """Return the best replies at ``log_p`` and how far from it they are."""
    xp = namespace(log_p)
    p, reply = games.replies(log_p, eta)
    gap = reply - log_p
    q = xp.exp(reply)
    # KL as a sum of terms that are never negative, p (e^gap - 1 - gap); see policies.kl.
    near = gap <= 1.0
    small = xp.where(near, gap, xp.zeros_like(gap))
    term = xp.where(near, p * (xp.expm1(small) - small), q - p * (1.0 + gap))
    return Point(
        log_p,
        p,
        reply,
        xp.sum(term, axis=(-2, -1)),
        xp.sum((q - p) * gap, axis=(-2, -1)),
    )


def choose(mask: Array, x: Point, y: Point) -> Point:
    """Return the points ``x`` where ``mask``, else ``y``."""
    return Point(*(select(mask, a, b) for a, b in zip(x, y, strict=True)))


def newton_step(games: SkewGames, at: Point, eta: Array) -> Array:
    """Return the Newton step for ``log pi = log BR(pi)`` in ``log pi``, shape ``(G, k, A)``.

    Its matrix ``I - D S D / eta``, ``D = diag(sqrt(pi))``, is the identity plus a skew matrix:
    never singular.
    """
    xp = namespace(at.p)
    g, k, a = at.p.shape
    n = k * a
    root = xp.sqrt(xp.reshape(at.p, (g, n)))
    # The unknown is u = D dlogp.
    scaled = root / xp.sqrt(eta)[:, None]
    skew = scaled[:, :, None] * games.skew * scaled[:, None, :]
    # Beyond double precision the identity is lost beside the skew part, and with it the guarantee.
    top = xp.max(xp.abs(skew), axis=(-2, -1), keepdims=True)
    lost = 8.0 * xp.finfo(root.dtype).eps * top
    matrix = xp.where(lost > 1.0, lost, xp.ones_like(lost)) * eye_like(n, root) - skew
    gap = xp.reshape(at.reply - at.log_p, (g, n, 1))
    # One border per player keeps sum p dlogp = 0.
    players = as_like(np.kron(np.eye(k), np.ones((a, 1))), root)
    border = root[:, :, None] * players
    x = xp.linalg.solve(matrix, xp.concat([root[:, :, None] * gap, border], axis=2))
    reduced = xp.matmul(xp.matrix_transpose(border), x)
    c = -xp.linalg.solve(reduced[:, :, 1:], reduced[:, :, :1])
    u = x[:, :, :1] + xp.matmul(x[:, :, 1:], c)
    # Back from u to dlogp without dividing by sqrt(p), which may be 0.
    response = xp.matmul(games.skew, root[:, :, None] * u) / eta[:, None, None]
    return xp.reshape(gap + response + xp.matmul(players, c), (g, k, a))


def moved(games: SkewGames, log_p: Array, step: Array, eta: Array, part: float) -> Array:
    """Return the multiplicative update along a part of the Newton step.

    Best replies magnify errors in the mass by ``max |S| / eta``, so mass moves linearly, ``pi (1 +
    dlogp)``, wherever it is large enough to matter. A logarithm moves linearly where it is not.
    """
    xp = namespace(log_p)
    d = part * step
    zero = xp.zeros_like(d)
    rise = xp.where(d > 0.0, d, zero)
    share = xp.log(_SHARE * eta / (eta + games.size))[:, None, None]
    up = xp.maximum(xp.log1p(rise), xp.minimum(rise, share - log_p))
    fall = xp.where(d < 0.0, d, zero)
    beyond = xp.where(fall < -_LINEAR_FALL, fall + _LINEAR_FALL, zero)
    linear = xp.where(fall < -_LINEAR_FALL, zero - _LINEAR_FALL, fall)
    down = xp.log1p(linear) + xp.where(beyond > -_FALL, beyond, zero - _FALL)
    return games.normalised(log_p + xp.where(d > 0.0, up, down))


def best_of(games: SkewGames, at: Point, step: Array, eta: Array, mask: Array, new: Point) -> Point:
    """Return, where ``mask``, the best of shorter steps and mixtures towards the best reply."""
    xp = namespace(at.log_p)
    candidates = [moved(games, at.log_p, step, eta, part) for part in _SHORTER]
    candidates += [
        games.normalised(xp.logaddexp(at.log_p + math.log1p(-t), at.reply + math.log(t)))
        for t in _MIXTURES
    ]
    for log_p in candidates:
        trial = point(games, log_p, eta)
        new = choose(mask & (trial.kl < new.kl), trial, new)
    return new
