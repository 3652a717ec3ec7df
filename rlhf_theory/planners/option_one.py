r"""GSHF Option I: pessimism for the expected feature, planned exactly through its dual.

The primal maximises over policies

.. math::

    \langle\hat\theta, v_\pi\rangle - \beta \lVert v_\pi\rVert_{\Sigma^{-1}}
    - \eta\,\mathrm{KL}(\pi \Vert \pi_0), \qquad
    v_\pi = E_x[\varphi(x,\pi) - \nu(x)],

which has a kink where :math:`v_\pi = 0`. The dual is smooth, over one ellipsoid in ``d`` variables,

.. math::

    \min_{\lVert\theta-\hat\theta\rVert_\Sigma\le\beta} f(\theta), \qquad
    f(\theta) = \eta\, E_x \log E_{\pi_0} e^{\langle\theta,\varphi(x,\cdot)-\nu(x)\rangle/\eta},

and the Gibbs policy of its minimiser solves the primal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rlhf_theory.arrays import (
    Array,
    damping,
    full_like,
    inner,
    log_softmax,
    logsumexp,
    matvec,
    namespace,
    null_projector,
)
from rlhf_theory.core import Policy, Problem, Solution
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_positive
from rlhf_theory.features import mean_feature
from rlhf_theory.planners.gibbs import GibbsPolicy
from rlhf_theory.policies import ReferencePolicy
from rlhf_theory.randomness import Key
from rlhf_theory.rewards import LinearReward
from rlhf_theory.roles import planner
from rlhf_theory.trust_region import ball_minimum

_HINT = (
    "Raise `max_iter` of OptionOne, or eta: with a tiny eta the dual is nearly piecewise linear."
)


@runtime_checkable
class ConfidenceEllipsoid(Protocol):
    """The parameters with ``|theta - center|_sigma <= beta``."""

    @property
    def center(self) -> Array:
        """The estimate, shape ``(R, d)``."""
        ...

    @property
    def sigma(self) -> Array:
        """Positive definite matrix, not normalised by ``n``, shape ``(R, d, d)``."""
        ...

    @property
    def beta(self) -> Array:
        """Radius, shape ``(R,)``."""
        ...


@dataclass(frozen=True, eq=False)
class ExpectedLowerBound:
    """What Option I plans with: ``min E_x <theta, phi(x, pi) - nu(x)>`` over an ellipsoid.

    No reward model: the minimum is taken once for the whole policy, not per action.

    Attributes
    ----------
    confidence
        The ellipsoid.
    reference
        The policy whose mean feature is ``nu(x)``, pi0 unless set. Only the average of ``nu`` over
        contexts matters here.
    """

    confidence: ConfidenceEllipsoid
    reference: Policy = field(default_factory=ReferencePolicy)

    def features(self, contexts: Contexts) -> Array:
        """Return ``phi(x, a) - nu(x)``, shape ``(R, B, A, d)``."""

        def measured(c: Contexts) -> Array:
            nu = mean_feature(c, self.reference.log_probs(c))
            return c.phi - nu[:, :, None, :]

        return contexts.lookup(measured)


@planner("option-one")
@dataclass(frozen=True, kw_only=True)
class OptionOne:
    r"""Plan exactly for an `ExpectedLowerBound`: ``pi = O(<theta_p, phi>, eta, pi0)``.

    ``residual`` is in units of reward: the duality gap, which bounds what the policy can lose in
    the primal, or the change of a reward in the last full Newton step, whichever is larger.
    ``warm`` is ``theta_p``, shape ``(R, d)``. With ``beta = 0`` the policy is the Gibbs policy of
    the centre. Measured from pi0, it is pi0 where ``|center|_sigma <= beta``.

    Attributes
    ----------
    n_contexts
        Contexts drawn for ``E_x`` where they are not finite.
    tol
        Largest residual.
    max_iter
        Newton iterations.

    Source: [2312.11456], Algorithm 1, Option I; theory sheet 1.2 for the dual.
    """

    n_contexts: int = 1024
    tol: float = 1e-10
    max_iter: int = 200

    def __post_init__(self) -> None:
        check_positive("n_contexts", self.n_contexts)
        check_positive("tol", self.tol)
        check_positive("max_iter", self.max_iter)

    def __call__(
        self,
        model: ExpectedLowerBound,
        problem: Problem,
        key: Key,
        start: Policy | None = None,  # noqa: ARG002
    ) -> Solution[Policy]:
        """Return the policy of Option I for the problem's ``eta``."""
        contexts, weights = problem.population(key.child("population"), self.n_contexts)
        dual = _Dual.of(model, contexts, weights, problem.eta)
        w, residual, n_iter = self._minimise(dual)
        theta = dual.theta(w)
        policy = problem.tabulate(GibbsPolicy(LinearReward(theta), problem.eta))
        return Solution(policy, residual, residual <= self.tol, n_iter, _HINT, theta)

    def _minimise(self, dual: _Dual) -> tuple[Array, Array, int]:
        """Return the minimiser, its residual and the iterations.

        Each step minimises the quadratic model over the whole ball. The dual is generalised
        self-concordant with the constant m, the largest range of a reward's change over eta, so
        the step log(1 + m) / m never increases it, with the ball or without (Bach 2010, EJS 4).
        """
        xp = namespace(dual.center)
        w = dual.start()
        value, gradient, hessian = dual.derivatives(w)
        residual = full_like((w.shape[0],), math.inf, w)
        for n_iter in range(1, self.max_iter + 1):  # noqa: B007
            step = ball_minimum(hessian, gradient, w, dual.beta, dual.null) - w
            change = dual.reward_range(step)
            # A replica that has converged stays put, so its value cannot depend on the others.
            left = residual > self.tol
            w = xp.where(left[:, None], _advance(dual, w, step, value, gradient, change), w)
            value, gradient, hessian = dual.derivatives(w)
            gap = xp.maximum(dual.gap(w, gradient), change)
            residual = xp.where(left, gap, residual)
            if bool(xp.all(residual <= self.tol)):
                break
        return w, residual, n_iter


def _advance(
    dual: _Dual, w: Array, step: Array, value: Array, gradient: Array, change: Array
) -> Array:
    """Return the next iterate: the longest of some steps that decreases enough."""
    xp = namespace(w)
    m = change / dual.eta
    safe = damping(m, 1e-12)
    slope = xp.sum(gradient * step, axis=-1)
    # Far from the solution full steps save many cautious ones; close by they are nearly safe, and
    # the values no longer tell one from the other.
    length, found = safe, m <= 0.5
    length = xp.where(found, xp.ones_like(safe), safe)
    size = 1.0
    while not bool(xp.all(found)) and size > 1e-4:
        trial = xp.where(found, length, size + 0.0 * length)
        lower = dual.value(w + trial[:, None] * step) <= value + 0.25 * trial * slope
        accepted = ~found & lower & (trial > safe)
        length = xp.where(accepted, trial, length)
        found = found | accepted | (trial <= safe)
        size *= 0.4
    return w + length[:, None] * step


@dataclass(frozen=True, eq=False)
class _Dual:
    """The dual in the coordinates ``theta = center + W w``, where the ellipsoid is a ball.

    Attributes
    ----------
    psi
        ``W^T (phi - nu)``, shape ``(R|1, B, A, d)`` in general with ``R`` rows.
    base
        ``<center, phi - nu> / eta + log pi0``, shape ``(R, B, A)``.
    null
        Projector on the directions along which no reward changes, shape ``(R, d, d)``.
    """

    center: Array
    whiten: Array
    beta: Array
    psi: Array
    present: Array
    base: Array
    weights: Array
    null: Array
    eta: float

    @classmethod
    def of(cls, model: ExpectedLowerBound, contexts: Contexts, weights: Array, eta: float) -> _Dual:
        """Whiten by a square root of ``sigma``."""
        center, sigma, beta = model.confidence.center, model.confidence.sigma, model.confidence.beta
        xp = namespace(center, sigma)
        # Symmetric square root by eigenvectors: the standard has no triangular solve.
        values, vectors = xp.linalg.eigh(sigma)
        whiten = vectors / xp.sqrt(values)[:, None, :]
        features = model.features(contexts)
        present = xp.astype(contexts.log_pi0 > -math.inf, center.dtype)
        _, b, a, d = features.shape
        flat = xp.reshape(features, (features.shape[0], b * a, d))
        psi = xp.reshape(xp.matmul(flat, whiten), (center.shape[0], b, a, d))
        base = inner(features, center) / eta + contexts.log_pi0
        rows = xp.reshape(psi * present[..., None], (center.shape[0], b * a, d))
        gram = xp.matmul(xp.matrix_transpose(rows), rows)
        null, _ = null_projector(gram)
        return cls(center, whiten, beta, psi, present, base, weights, null, eta)

    def theta(self, w: Array) -> Array:
        """Return the parameters, shape ``(R, d)``."""
        return self.center + matvec(self.whiten, w)

    def start(self) -> Array:
        """Return the nearest point to the parameter 0, or the centre if that has a lower value.

        Measured from pi0 the parameter 0 is the minimiser without the ellipsoid: where it lies
        inside, this start is the answer.
        """
        xp = namespace(self.center)
        inward = -xp.linalg.solve(self.whiten, self.center[..., None])[..., 0]
        norm = xp.sqrt(xp.sum(inward * inward, axis=-1))
        far = norm > self.beta
        shrink = xp.where(far, self.beta / xp.where(far, norm, xp.ones_like(norm)), 1.0)
        w = inward * shrink[:, None]
        w = w - matvec(self.null, w)
        better = self.value(w) <= self.value(xp.zeros_like(w))
        return xp.where(better[:, None], w, xp.zeros_like(w))

    def _logits(self, w: Array) -> Array:
        return self.base + inner(self.psi, w) / self.eta

    def value(self, w: Array) -> Array:
        """Return ``f``, shape ``(R,)``."""
        xp = namespace(w)
        return self.eta * xp.sum(self.weights * logsumexp(self._logits(w)), axis=-1)

    def derivatives(self, w: Array) -> tuple[Array, Array, Array]:
        """Return value ``(R,)``, gradient ``(R, d)`` and Hessian ``(R, d, d)``."""
        xp = namespace(w)
        logits = self._logits(w)
        p = xp.exp(log_softmax(logits))
        value = self.eta * xp.sum(self.weights * logsumexp(logits), axis=-1)
        mean = xp.matmul(p[..., None, :], self.psi)[..., 0, :]
        gradient = xp.sum(self.weights[..., None] * mean, axis=1)
        # Centred before it is squared: the curvature of nearly deterministic policies survives.
        scale = xp.sqrt(p * self.weights[..., None] / self.eta)
        rows = scale[..., None] * (self.psi - mean[:, :, None, :])
        rows = xp.reshape(rows, (rows.shape[0], rows.shape[1] * rows.shape[2], rows.shape[3]))
        hessian = xp.matmul(xp.matrix_transpose(rows), rows)
        gradient = gradient - matvec(self.null, gradient)
        return value, gradient, hessian

    def reward_range(self, step: Array) -> Array:
        """Return the largest range over actions of the change of a reward, shape ``(R,)``."""
        xp = namespace(step)
        change = inner(self.psi, step) * self.present
        return xp.max(xp.max(change, axis=-1) - xp.min(change, axis=-1), axis=-1)

    def gap(self, w: Array, gradient: Array) -> Array:
        """Return the primal minus the dual value, shape ``(R,)``.

        ``<w, g> + beta |g|`` with the gradient ``g`` of the dual, written as a sum of squares:
        ``|g| / (2 beta) (|w + beta g / |g||^2 + beta^2 - |w|^2)``.
        """
        xp = namespace(w)
        size = xp.sqrt(xp.sum(gradient * gradient, axis=-1))
        unit = gradient / xp.where(size > 0, size, xp.ones_like(size))[:, None]
        off = w + self.beta[:, None] * unit
        norm = xp.sqrt(xp.sum(w * w, axis=-1))
        inside = (self.beta - norm) * (self.beta + norm)
        inside = xp.where(inside > 0, inside, xp.zeros_like(inside))
        total = xp.sum(off * off, axis=-1) + inside
        beta = xp.where(self.beta > 0, self.beta, xp.ones_like(self.beta))
        return xp.where(self.beta > 0, 0.5 * size * total / beta, xp.zeros_like(size))
