"""Planning with the chi-squared plus KL regulariser: exact, by one scalar equation per context."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_theory.arrays import Array, full_like, log_softmax, namespace
from rlhf_theory.core import Policy, Problem, RewardModel, Solution
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_positive
from rlhf_theory.policies import FunctionPolicy, SolvedPolicy
from rlhf_theory.randomness import Key
from rlhf_theory.roles import planner

_HINT = "The rewards may not be finite, or eta is tiny against their range."


def log_omega(y: Array) -> Array:
    r"""Return ``t = log w`` for the root ``w`` of ``w + log w = y``.

    ``w`` is :math:`W_0(e^y)` with Lambert's W, the Wright omega function; its logarithm neither
    overflows for large ``y`` nor underflows for very negative ones.

    Parameters
    ----------
    y
        Any shape; ``-inf`` gives ``-inf``.
    """
    xp = namespace(y)
    finite = xp.where(y == -math.inf, xp.zeros_like(y), y)
    # t + e^t - y is convex and increasing, and both starts lie right of its root, so Newton falls
    # to it monotonically; quadratic convergence makes eight steps enough for doubles.
    above = xp.where(finite > 1.0, finite, xp.ones_like(finite))
    t = xp.where(finite > 1.0, xp.log(above), xp.where(finite < 0.0, finite, 0.0 * finite))
    for _ in range(8):
        w = xp.exp(t)
        t = t - (t + w - finite) / (1.0 + w)
    return xp.where(y == -math.inf, y, t)


def chi_squared_log_probs(
    rewards: Array, log_pi0: Array, eta: float, *, max_iter: int = 60
) -> tuple[Array, Array]:
    r"""Return the maximiser of a reward under chi-squared plus KL regularisation.

    .. math::

        \max_\pi\; E_\pi r - \eta [D_{\chi^2}(\pi\Vert\pi_0) + \mathrm{KL}(\pi\Vert\pi_0)],
        \qquad D_{\chi^2}(P \Vert Q) = \tfrac12 E_Q[(P/Q - 1)^2].

    The ratio ``w = pi / pi0`` solves ``w + log w = (r - c) / eta``, with ``c`` such that the
    probabilities sum to one.

    Parameters
    ----------
    rewards, log_pi0
        Shape ``(R, B, A)``; actions with ``log_pi0 = -inf`` stay absent.
    eta
        Weight of the regulariser, positive (``beta`` of the paper).
    max_iter
        Newton iterations on ``c``.

    Returns
    -------
    Log-probabilities ``(R, B, A)`` and how far the probabilities were from summing to one before
    they were normalised, ``(R, B)``.

    Source: [2407.13399], section 3.2 (link function ``z + log z``).
    """
    check_positive("eta", eta)
    xp = namespace(rewards, log_pi0)
    rewards, log_pi0 = xp.broadcast_arrays(rewards, log_pi0)
    absent = log_pi0 == -math.inf
    far = full_like((1,), math.inf, rewards)
    # Measured from the best action: with a tiny eta nothing large cancels near it.
    best = xp.max(xp.where(absent, -far, rewards), axis=-1, keepdims=True)
    scaled = (rewards - best) / eta
    # The sum of pi0 w increases with s = -c / eta and is convex. Two values of s where it is at
    # least 1: all ratios are at least 1, or one action has probability 1. Newton falls from there.
    lowest = xp.min(xp.where(absent, far, scaled), axis=-1)
    safe_lp = xp.where(absent, xp.zeros_like(log_pi0), log_pi0)
    # exp overflows beyond 709; an action that rare never gives the smaller start.
    inverse = xp.exp(xp.where(safe_lp < -700.0, full_like((1,), 700.0, safe_lp), -safe_lp))
    certain = xp.min(xp.where(absent, far, inverse - safe_lp - scaled), axis=-1)
    s = xp.minimum(1.0 - lowest, certain)
    eps = float(xp.finfo(s.dtype).eps)
    for _ in range(max_iter):
        log_w = log_omega(scaled + s[..., None])
        pi = xp.exp(log_pi0 + log_w)
        excess = xp.sum(pi, axis=-1) - 1.0
        slope = xp.sum(pi / (1.0 + xp.exp(log_w)), axis=-1)
        # Below rounding nothing moves any more: every context stays put on its own.
        move = xp.where(xp.abs(excess) > 8.0 * eps, excess / slope, xp.zeros_like(excess))
        s = s - move
        if bool(xp.all(xp.abs(move) <= 4.0 * eps * (1.0 + xp.abs(s)))):
            break
    log_pi = log_pi0 + log_omega(scaled + s[..., None])
    off = xp.abs(xp.sum(xp.exp(log_pi), axis=-1) - 1.0)
    return log_softmax(log_pi), off


@planner("chi-squared")
@dataclass(frozen=True)
class ChiSquared:
    """Plan with the problem's ``eta`` times (chi-squared + KL) in place of ``eta`` times KL.

    The chi-squared part keeps the ratio ``pi / pi0`` below about ``range(r) / eta + 1``, where the
    Gibbs policy allows its exponential. ``residual`` is the largest error of a sum of
    probabilities.

    Attributes
    ----------
    tol
        Largest residual.

    Source: [2407.13399], Theorem 3.1; here with an estimated reward instead of the direct loss.
    """

    tol: float = 1e-10

    def __post_init__(self) -> None:
        check_positive("tol", self.tol)

    def __call__(
        self,
        model: RewardModel,
        problem: Problem,
        key: Key,
        start: Policy | None = None,  # noqa: ARG002
    ) -> Solution[Policy]:
        """Return the policy of the problem's ``eta``."""
        eta = problem.eta

        def plan(c: Contexts) -> tuple[Array, Array]:
            return chi_squared_log_probs(model.rewards(c), c.log_pi0, eta)

        x, _ = problem.population(key.child("population"), 64)
        log_pi, off = plan(x)
        xp = namespace(off)
        residual = xp.broadcast_to(xp.max(off, axis=-1), (problem.n_replicas,))
        anywhere = FunctionPolicy(lambda c: plan(c)[0])
        policy = problem.tabulate(SolvedPolicy(x, log_pi, anywhere))
        return Solution(policy, residual, residual <= self.tol, 0, _HINT)
