"""Likelihood-ratio confidence sets within a ball, with exact bounds on linear functions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rlhf_theory.arrays import Array, damping, expand_rows, eye_like, full_like, namespace, sigmoid
from rlhf_theory.core import Solution
from rlhf_theory.data import Design
from rlhf_theory.errors import check_positive, check_shape
from rlhf_theory.estimators.ball import QuadraticModel, least_linear
from rlhf_theory.estimators.mle import neg_log_likelihood

_HINT = "The bounds stay valid, only longer than they need be: raise `max_iter`."

# Small matrices are handled together up to this many (replicas times directions).
_CHUNK = 2048


@dataclass(frozen=True, eq=False)
class LikelihoodSet:
    r"""The set :math:`\{|\theta| \le B,\ L(\theta) - L(\hat\theta) \le \tau\}`.

    ``L`` is the negative log-likelihood, a sum over comparisons, without ridge. Exact bounds cost
    a small convex program per linear function: prefer an ellipsoid inside tight loops.

    Attributes
    ----------
    center
        ``theta_hat``, the MLE over the ball, shape ``(R, p)``.
    design
        Rows ``z_i``.
    count, wins
        Comparisons and wins of each row, shape ``(R, n)``.
    threshold
        ``tau``, shape ``(R,)``; 0 gives the estimate alone. Negative (only a mixture with mass
        outside the ball can say so): the set is empty, and bounds are those of the estimate.
    bound
        ``B``, positive.
    tol
        Accepted gap between primal and dual bound, as a share of the set's width.
    max_iter
        Evaluations of the likelihood per linear function.
    """

    center: Array
    design: Design
    count: Array
    wins: Array
    threshold: Array
    bound: float
    tol: float = 1e-8
    max_iter: int = 60

    def __post_init__(self) -> None:
        check_positive("bound", self.bound)
        n_replicas, p = self.count.shape[0], self.design.n_params
        check_shape("center", self.center, (n_replicas, p), "(R, p)")
        check_shape("threshold", self.threshold, (n_replicas,), "(R,)")

    def rescaled(self, multiplier: float) -> LikelihoodSet:
        """Return the set whose width is multiplied where ``L`` is quadratic: threshold squared."""
        return replace(self, threshold=multiplier * multiplier * self.threshold)

    def excess(self, theta: Array) -> Array:
        """Return ``L(theta) - L(theta_hat)``, shape ``(R,)``, for ``theta`` ``(R|1, p)``."""
        theta = expand_rows(theta, self.count.shape[0])
        at_center = neg_log_likelihood(self.center, self.design, self.count, self.wins)
        return neg_log_likelihood(theta, self.design, self.count, self.wins) - at_center

    def contains(self, theta: Array) -> Array:
        """Return whether ``theta`` ``(R|1, p)`` lies in the set, shape ``(R,)``."""
        xp = namespace(theta)
        norm = xp.sqrt(xp.sum(theta * theta, axis=-1))
        # The solvers that make estimates are accurate to about 1e-9.
        return (self.excess(theta) <= self.threshold) & (norm <= self.bound * (1.0 + 1e-9))

    def lower(self, v: Array) -> Array:
        """Return the minimum of ``<v, theta>``, shape ``(R, ...)``, for ``v`` ``(R|1, ..., p)``.

        A dual bound, so never above the minimum, whether or not the solver has converged.
        """
        return self.minimum(v).value

    def upper(self, v: Array) -> Array:
        """Return the maximum of ``<v, theta>``, shape ``(R, ...)``; never below it."""
        return -self.minimum(-v).value

    def minimum(self, v: Array) -> Solution[Array]:
        r"""Minimise ``<v, theta>`` over the set, for many ``v`` at once.

        Each step replaces ``L`` by its quadratic model, solves that problem exactly over the ball,
        and moves towards its answer, damped by ``log(1 + m) / m`` with ``m`` the largest change of
        a margin. For any multiplier and any ``theta``, convexity of ``L`` gives the dual bound

        .. math:: \min \langle v, \cdot\rangle \ge
                  \lambda \bigl(L(\theta) - c - \langle\nabla L(\theta), \theta\rangle\bigr)
                  - B\, |v + \lambda \nabla L(\theta)|, \qquad c = L(\hat\theta) + \tau,

        so the certificate does not depend on how ``theta`` was found.

        Parameters
        ----------
        v
            Linear functions, shape ``(R, ..., p)`` or ``(1, ..., p)``.

        Returns
        -------
        Solution of shape ``(R, ...)`` with the dual bound; residual, shape ``(R,)``: the largest
        gap to the primal bound, as a share of the width of the set in that direction.
        """
        xp = namespace(v, self.center)
        middle, p = v.shape[1:-1], v.shape[-1]
        size = math.prod(middle)
        n_replicas = self.center.shape[0]
        flat = expand_rows(xp.reshape(v, (v.shape[0], size, p)), n_replicas)
        if size == 0:
            zero = full_like((n_replicas,), 0.0, self.center)
            return Solution(full_like((n_replicas, *middle), 0.0, zero), zero, zero == 0.0)
        width = max(1, _CHUNK // n_replicas)
        starts = range(0, size, width)
        parts = [_minimum(self, flat[:, i : min(i + width, size), :]) for i in starts]
        value = xp.concat([part[0] for part in parts], axis=1)
        gap = xp.concat([part[1] for part in parts], axis=1)
        done = xp.concat([part[2] for part in parts], axis=1)
        n_iter = max(part[3] for part in parts)
        value = xp.reshape(value, (n_replicas, *middle))
        return Solution(value, xp.max(gap, axis=1), xp.all(done, axis=1), n_iter, _HINT)


@dataclass(frozen=True, eq=False)
class _State:
    """The likelihood at one parameter per replica."""

    margins: Array
    loss: Array
    gradient: Array
    hessian: Array


@dataclass(frozen=True, eq=False)
class _Likelihood:
    """The negative log-likelihood with its derivatives; the wins enter through ``target``."""

    design: Design
    count: Array
    target: Array

    def __call__(self, theta: Array, u: Array) -> _State:
        """Return the state at ``theta`` ``(R, p)`` with margins ``u`` ``(R, n)``."""
        xp = namespace(theta, u)
        prob = sigmoid(u)
        # softplus(u) = max(u, 0) - log sigma(|u|): one transcendental function less.
        soft = xp.where(u > 0, u, 0.0 * u) - xp.log(xp.maximum(prob, 1.0 - prob))
        weighted = self.count * prob
        loss = xp.sum(self.count * soft, axis=-1) - _inner(self.target, theta)
        gradient = self.design.adjoint(weighted) - self.target
        return _State(u, loss, gradient, self.design.gram(weighted * (1.0 - prob)))


def _inner(x: Array, y: Array) -> Array:
    return namespace(x, y).sum(x * y, axis=-1)


def _dual_bound(
    bound: float, v: Array, theta: Array, over: Array, gradient: Array, price: Array
) -> Array:
    """Return the dual bound of `LikelihoodSet.minimum`; ``over`` is ``L(theta) - c``."""
    xp = namespace(v)
    w = v + price[..., None] * gradient
    return price * (over - _inner(gradient, theta)) - bound * xp.sqrt(_inner(w, w))


def _predicted(hessian: Array, v: Array, threshold: Array, bound: float) -> tuple[Array, Array]:
    """Return a first multiplier and the width of the ellipsoid around the estimate, ``(R, N)``."""
    xp = namespace(hessian, v)
    shape = hessian + (2.0 / bound**2) * threshold[..., None] * eye_like(v.shape[-1], v)
    turned = xp.matrix_transpose(xp.linalg.solve(shape, xp.matrix_transpose(v)))
    spread, root = xp.sqrt(_inner(v, turned)), xp.sqrt(2.0 * threshold)
    return root / spread, root * spread


def _minimum(s: LikelihoodSet, v: Array) -> tuple[Array, Array, Array, int]:
    """Return dual bounds, relative gaps, done ``(R, N)``, and iterations; ``v`` is (R, N, p)."""
    xp = namespace(v)
    eps = float(xp.finfo(v.dtype).eps)
    likelihood = _Likelihood(s.design, s.count, s.design.adjoint(s.wins))
    length = xp.sqrt(_inner(v, v))
    one, zero = xp.ones_like(length), xp.zeros_like(length)
    # The unit of everything below is <v / |v|, theta>.
    v = xp.where(length[..., None] > 0, v / xp.where(length > 0, length, one)[..., None], 1.0 + v)
    point = s.threshold[:, None] + zero <= 0
    tau = xp.where(point, one, s.threshold[:, None] + zero)

    norm = xp.sqrt(_inner(s.center, s.center))[:, None]
    safe = xp.where(norm > s.bound, norm, xp.full_like(norm, s.bound))
    center = s.center * (s.bound / safe)
    state = likelihood(center, s.design.margins(center))
    base = neg_log_likelihood(s.center, s.design, s.count, s.wins)[:, None]
    level = base + tau
    multiplier, width = _predicted(state.hessian, v, tau[:, :1], s.bound)

    # Where even the far point of the ball is in the set, it is the answer.
    ends = [-s.bound * v[:, j, :] for j in range(v.shape[1])]
    far = [neg_log_likelihood(end, s.design, s.count, s.wins) for end in ends]
    easy = xp.stack(far, axis=1) <= level
    at_center = _inner(v, s.center[:, None, :])
    best = xp.where(point, at_center, -s.bound * one)
    reach = xp.where(easy & ~point, -s.bound * one, at_center)
    done = easy | point | (length == 0)
    # Sums over many comparisons limit how well the level can be met.
    enough = xp.maximum(0.5 * s.tol * one, 1e3 * eps * (1.0 + xp.abs(level) / tau))
    slack = 1e-10 * tau + 4.0 * eps * xp.abs(level)

    theta = xp.broadcast_to(center[:, None, :], v.shape)
    states = [state] * v.shape[1]
    gap = zero
    for n_iter in range(1, s.max_iter + 1):  # noqa: B007
        loss = xp.stack([state.loss for state in states], axis=1)
        gradient = xp.stack([state.gradient for state in states], axis=1)
        hessian = xp.stack([state.hessian for state in states], axis=1)
        dual = _dual_bound(s.bound, v, theta, loss - level, gradient, 1.0 / multiplier)
        best = xp.where(done, best, xp.maximum(best, dual))
        # Drawn back towards the estimate, theta is in the set: a primal bound.
        above = loss - base > tau
        pull = xp.where(above, tau / xp.where(above, loss - base, one), one)
        inside = at_center + pull * (_inner(v, theta) - at_center)
        reach = xp.where(done, reach, xp.minimum(reach, inside))
        gap = xp.where(easy | point, zero, (reach - best) / width)
        done = done | (gap <= enough)
        if bool(xp.all(done)):
            break
        model = QuadraticModel.at(theta, loss, gradient, hessian, v)
        x, new = least_linear(model, level, s.bound, multiplier, slack)
        multiplier = xp.where(done, multiplier, new)
        pieces = []
        for j, old in enumerate(states):
            still = theta[:, j, :]
            if not bool(xp.all(done[:, j])):
                still, states[j] = _move(likelihood, s.design, old, still, x[:, j, :], done[:, j])
            pieces.append(still)
        theta = xp.stack(pieces, axis=1)
    return best * length, gap, done, n_iter


def _move(
    likelihood: _Likelihood, design: Design, state: _State, theta: Array, goal: Array, done: Array
) -> tuple[Array, _State]:
    """Return ``theta`` moved towards ``goal`` as far as the quadratic model can be trusted."""
    xp = namespace(theta, goal)
    step = goal - theta
    du = design.margins(step)
    change = xp.max(xp.abs(du), axis=-1)
    # What has converged stays put, so its value cannot depend on its company.
    damp = xp.where(done, xp.zeros_like(change), damping(change, 1e-12))[:, None]
    theta = theta + damp * step
    return theta, likelihood(theta, state.margins + damp * du)
