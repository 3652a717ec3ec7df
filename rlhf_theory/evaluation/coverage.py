"""How well data cover a policy: coverage coefficients, Fisher matrices, the fast-rate constant."""

from __future__ import annotations

import math

from rlhf_theory.arrays import Array, full_like, inner, namespace, sigmoid, solve
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_positive
from rlhf_theory.evaluation.gaps import over_contexts
from rlhf_theory.features import mean_feature, mean_shift
from rlhf_theory.policies import expectation


def concentrability(log_pi: Array, log_ref: Array, weights: Array) -> Array:
    r"""Return the concentrability coefficient of a policy.

    .. math:: C^\pi = E_{x,\, a \sim \pi}\bigl[\pi(a|x) / \pi_{ref}(a|x)\bigr]
              = 1 + 2 D_{\chi^2}(\pi \Vert \pi_{ref}), \qquad
              D_{\chi^2}(P \Vert Q) = \tfrac12 E_Q[(P/Q - 1)^2]

    Parameters
    ----------
    log_pi, log_ref
        Log-probabilities, shape ``(R, B, A)``.
    weights
        Probabilities of the contexts, shape ``(R, B)``.

    Returns
    -------
    Array of shape ``(R,)``, at least 1; infinite where the policy acts and the reference does not.

    Source: [2407.13399], section 3; theory sheet 6.1.
    """
    xp = namespace(log_pi, log_ref)
    absent = log_pi == -math.inf
    log_ratio = xp.where(absent, xp.zeros_like(log_pi), log_pi) - log_ref
    ratio = xp.exp(xp.where(absent, xp.zeros_like(log_ratio), log_ratio))
    return over_contexts(expectation(log_pi, ratio), weights)


def coverage_coefficient(
    contexts: Contexts, weights: Array, log_pi: Array, sigma: Array, pairs: float | Array
) -> Array:
    r"""Return the coverage coefficient of a policy, the expectation inside the norm.

    .. math:: C^* = \sqrt{n}\,
              \bigl\lVert E_x[\varphi(x,\pi) - \varphi(x,\pi_0)] \bigr\rVert_{\Sigma^{-1}}

    Parameters
    ----------
    contexts, weights
        Contexts and their probabilities ``(R, B)``.
    log_pi
        The policy that should be covered, shape ``(R, B, A)``.
    sigma
        Unnormalised design matrix ``lambda I + sum z z^T``, shape ``(R, d, d)``.
    pairs
        Number ``n`` of comparisons in ``sigma``, a number or shape ``(R,)``.

    Returns
    -------
    Array of shape ``(R,)``.

    Source: [2312.11456], corollary of the offline theorem (Option I); theory sheet 1.2.
    """
    xp = namespace(contexts.like, sigma)
    v = mean_shift(contexts, weights, log_pi)
    square = xp.sum(v * solve(sigma, v), axis=-1)
    return pairs**0.5 * xp.sqrt(xp.where(square > 0, square, xp.zeros_like(square)))


def pairwise_coverage_coefficient(
    contexts: Contexts,
    weights: Array,
    log_pi: Array,
    log_ref: Array,
    sigma: Array,
    pairs: float | Array,
) -> Array:
    r"""Return the pointwise coverage coefficient, the expectation outside the norm.

    .. math:: \sqrt{n}\, E_{x,\, a_1 \sim \pi,\, a_2 \sim \pi_{ref}}
              \lVert \varphi(x,a_1) - \varphi(x,a_2) \rVert_{\Sigma^{-1}}

    At least `coverage_coefficient` with the same reference, by Jensen. Arguments as there;
    ``log_ref`` ``(R, B, A)`` is the law of the second action. Shape ``(R,)``.

    Source: the talk's corollary of the offline theorem; theory sheet 1.2 and 12.5.
    """
    phi = contexts.phi
    xp = namespace(phi, sigma)
    inverse = xp.linalg.inv(sigma)[:, None, :, :]
    p, q = xp.exp(log_pi), xp.exp(log_ref)
    total = 0.0
    # One first action at a time: differences are formed, so nothing cancels, and nothing of shape
    # (R, B, A, A, d) is ever held.
    for a in range(phi.shape[2]):
        z = phi[:, :, a : a + 1, :] - phi
        square = xp.sum(xp.matmul(z, inverse) * z, axis=-1)
        norm = xp.sqrt(xp.where(square > 0, square, xp.zeros_like(square)))
        total = total + p[:, :, a] * xp.sum(q * norm, axis=-1)
    return pairs**0.5 * over_contexts(total, weights)


def fisher_of_sampling(
    contexts: Contexts,
    weights: Array,
    log_p1: Array,
    log_p2: Array,
    theta_star: Array,
    scale: float = 1.0,
) -> Array:
    r"""Return the Fisher information of one Bradley-Terry label under a sampling law.

    .. math:: F = E_{x,\, a_1 \sim p_1,\, a_2 \sim p_2}
              \bigl[ s^2 \sigma'(s \langle z, \theta^* \rangle)\, z z^\top \bigr], \qquad
              z = \varphi(x,a_1) - \varphi(x,a_2)

    By exact enumeration of contexts and pairs. Counts every drawn pair, also ``a1 = a2`` (z = 0),
    which gives no label: divide by the probability of a true pair for the information per label.

    Parameters
    ----------
    contexts, weights
        Contexts and their probabilities, shape ``(R, B)`` or ``(1, B)``.
    log_p1, log_p2
        Laws of the two actions, independent given the context, shape ``(R, B, A)``.
    theta_star
        True parameters, shape ``(R, d)`` or ``(1, d)``.
    scale
        Known scale ``s`` of the labels; the information is about ``theta``, not ``s theta``.

    Returns
    -------
    Array of shape ``(R, d, d)`` (1 where every argument is shared).

    Source: identity I4 of the theory sheet.
    """
    check_positive("scale", scale)
    phi = contexts.phi
    xp = namespace(phi, theta_star)
    r = inner(phi, theta_star)
    p = sigmoid(scale * (r[..., :, None] - r[..., None, :]))
    pair = xp.exp(log_p1)[..., :, None] * xp.exp(log_p2)[..., None, :]
    pair = scale * scale * weights[..., None, None] * pair * p * (1.0 - p)
    # sum_ab W_ab z z^T = Phi^T (diag(S 1) - S) Phi with S = W + W^T: z is never formed.
    both = pair + xp.matrix_transpose(pair)
    lap = xp.sum(both, axis=-1)[..., None] * phi - xp.matmul(both, phi)
    full = xp.sum(xp.matmul(xp.matrix_transpose(phi), lap), axis=1)
    return 0.5 * (full + xp.matrix_transpose(full))


def policy_covariance(contexts: Contexts, weights: Array, log_pi: Array) -> Array:
    """Return ``E_x Cov_pi(phi)``, shape ``(R, d, d)``, for a policy ``(R, B, A)``."""
    phi = contexts.phi
    xp = namespace(phi, log_pi)
    rest = phi - mean_feature(contexts, log_pi)[:, :, None, :]
    mass = (weights[..., None] * xp.exp(log_pi))[..., None]
    per_context = xp.matmul(xp.matrix_transpose(mass * rest), rest)
    return xp.sum(per_context, axis=1)


def fast_rate_constant(
    fisher: Array, contexts: Contexts, weights: Array, log_pi_star: Array, eta: float
) -> Array:
    r"""Return the limit of ``n E[gap]`` of the plug-in policy.

    .. math:: \frac{\operatorname{tr}(F^{-1} C^*)}{2 \eta}, \qquad
              C^* = E_x \operatorname{Cov}_{\pi^*}(\varphi(x, \cdot))

    For the greedy plug-in (MLE, then the Gibbs oracle) and ``gap = J(pi*) - J(pi_hat)``.

    Parameters
    ----------
    fisher
        Fisher information per drawn pair, `fisher_of_sampling`, shape ``(R, d, d)``.
    contexts, weights
        Contexts and their probabilities, shape ``(R, B)``.
    log_pi_star
        The optimal policy, shape ``(R, B, A)``.
    eta
        Weight of the KL, positive.

    Returns
    -------
    Array of shape ``(R,)``, by the pseudo-inverse; infinite where the optimal policy varies in a
    direction that the sampling law never sees.

    Source: identity I4 of the theory sheet, derived there.
    """
    check_positive("eta", eta)
    xp = namespace(fisher, contexts.like)
    spread = policy_covariance(contexts, weights, log_pi_star)
    values, vectors = xp.linalg.eigh(fisher)
    floor = 10.0 * fisher.shape[-1] * float(xp.finfo(fisher.dtype).eps)
    seen = values > floor * values[:, -1:]
    # The covariance along each eigenvector of F.
    along = xp.sum(vectors * xp.matmul(spread, vectors), axis=-2)
    zero = xp.zeros_like(along)
    total = xp.sum(xp.where(seen, along, zero) / xp.where(seen, values, zero + 1.0), axis=-1)
    leak = xp.sum(xp.where(seen, zero, along), axis=-1)
    covered = leak <= 1e-10 * xp.sum(along, axis=-1)
    unbounded = full_like(total.shape, math.inf, total)
    return xp.where(covered, total / (2.0 * eta), unbounded)
