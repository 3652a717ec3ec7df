"""Both sides of the offline theorem, exactly: what a pessimistic policy loses, and its bound."""

from __future__ import annotations

import math

from rlhf_theory.arrays import Array, full_like, namespace
from rlhf_theory.core import ConfidenceSet
from rlhf_theory.data import Contexts
from rlhf_theory.evaluation.gaps import over_contexts
from rlhf_theory.features import centred, mean_shift
from rlhf_theory.policies import expectation


def log_ratio_reward(truth: Array, log_pi_hat: Array, log_pi0: Array, eta: float) -> Array:
    r"""Return ``g = r* + eta log(pi0 / pi_hat)``, of which both sides of the theorem are made.

    For every policy, whatever it was planned with,

    .. math:: J(\pi) - J(\hat\pi) + \eta\, E_x \mathrm{KL}(\pi \Vert \hat\pi)
              = E_\pi[g] - J(\hat\pi), \qquad J(\hat\pi) = E_{\hat\pi}[g].

    Parameters
    ----------
    truth
        ``r*``, up to a constant per context, shape ``(R, B, A)``.
    log_pi_hat, log_pi0
        The policy and the reference policy, shape ``(R, B, A)``; an action that only pi0 can play
        has ``+inf``, one that neither can ``-inf``.
    eta
        Weight of the KL.

    Returns
    -------
    Array of shape ``(R, B, A)``.

    Source: identity I2 of the theory sheet, without its Gibbs policy.
    """
    xp = namespace(truth, log_pi_hat)
    present = log_pi0 > -math.inf
    ratio = xp.where(present, log_pi0, xp.zeros_like(log_pi0)) - log_pi_hat
    absent = full_like(ratio.shape, -math.inf, ratio)
    return xp.where(present, truth + eta * ratio, absent)


def comparator_loss(log_pi: Array, log_pi_hat: Array, g: Array, weights: Array) -> Array:
    r"""Return the left side of the offline theorem for a comparator.

    .. math:: J(\pi) - J(\hat\pi) + \eta\, E_x \mathrm{KL}(\pi \Vert \hat\pi)

    Parameters
    ----------
    log_pi, log_pi_hat
        Comparator and policy, shape ``(R, B, A)``.
    g
        `log_ratio_reward` of the policy, shape ``(R, B, A)``.
    weights
        Probabilities of the contexts, shape ``(R, B)``.

    Returns
    -------
    Array of shape ``(R,)``, of either sign.

    Source: [2312.11456], offline theorem; theory sheet 1.2.
    """
    return over_contexts(expectation(log_pi, g) - expectation(log_pi_hat, g), weights)


def expected_bound(
    confidence: ConfidenceSet, contexts: Contexts, weights: Array, log_pi: Array
) -> Array:
    r"""Return the right side of the offline theorem for Option I.

    The width of the set in the direction :math:`E_x[\varphi(x,\pi) - \varphi(x,\pi_0)]`; for an
    ellipsoid :math:`2 \beta` times its norm in :math:`\Sigma^{-1}`. Shape ``(R,)``.

    Source: [2312.11456], offline theorem, Option I; theory sheet 1.2.
    """
    v = mean_shift(contexts, weights, log_pi)[:, None, :]
    return (confidence.upper(v) - confidence.lower(v))[:, 0]


def reward_interval(confidence: ConfidenceSet, contexts: Contexts) -> tuple[Array, Array]:
    """Return the least and largest ``<theta, phi - phi(x, pi0)>`` in a set, ``(R, B, A)`` each."""
    psi = centred(contexts)
    return confidence.lower(psi), confidence.upper(psi)


def pointwise_bound(lower: Array, upper: Array, weights: Array, log_pi: Array) -> Array:
    r"""Return the right side of the offline theorem for Option II.

    The mean width of the set, :math:`E_{x, a \sim \pi}` of the width in the direction
    :math:`\varphi(x,a) - \varphi(x,\pi_0)`; for an ellipsoid :math:`2 \beta` times the mean norm.

    Parameters
    ----------
    lower, upper
        `reward_interval` of the set, shape ``(R, B, A)``.
    weights
        Probabilities of the contexts, shape ``(R, B)``.
    log_pi
        The comparator, shape ``(R, B, A)``.

    Returns
    -------
    Array of shape ``(R,)``.

    Source: [2312.11456], offline theorem, Option II; theory sheet 1.2.
    """
    return over_contexts(expectation(log_pi, upper - lower), weights)


def comparator_excess(width: Array, g: Array, weights: Array, log_pi_hat: Array) -> Array:
    r"""Return by how much a policy breaks the bound of Option II against the worst comparator.

    Both sides are linear in the comparator, so the supremum over all policies is

    .. math:: E_x \max_a \bigl[ r^* + \eta \log(\pi_0 / \hat\pi) - w \bigr] - J(\hat\pi),

    with ``w`` the width of the set: at most 0 if and only if the bound holds for every policy.
    Nothing is assumed of how the policy was planned.

    Parameters
    ----------
    width
        Upper minus lower end of `reward_interval`, shape ``(R, B, A)``: twice the bonus.
    g
        `log_ratio_reward` of the policy, shape ``(R, B, A)``.
    weights
        Probabilities of the contexts, shape ``(R, B)``.
    log_pi_hat
        The policy, shape ``(R, B, A)``.

    Returns
    -------
    Array of shape ``(R,)``.

    Source: theory sheet 1.2 (the bound holds for every comparator on the confidence event).
    """
    xp = namespace(width, g)
    return over_contexts(xp.max(g - width, axis=-1) - expectation(log_pi_hat, g), weights)


def bonus_constant(error: Array, log_pi_star: Array, weights: Array, eta: float) -> Array:
    r"""Return what an error of the reward that is small against ``eta`` costs.

    .. math:: J(\pi^*) - J(O(r^* + e)) = \frac{1}{2\eta} E_x \mathrm{Var}_{\pi^*}(e) + O(e^3)

    Parameters
    ----------
    error
        ``e``, shape ``(R, B, A)``: for Option II minus the bonus; for Option I
        ``-<beta Sigma^-1 v / |v|, phi>`` with ``v = E[phi(x, pi*) - phi(x, pi0)]``.
    log_pi_star
        The optimal policy, shape ``(R, B, A)``.
    weights
        Probabilities of the contexts, shape ``(R, B)``.
    eta
        Weight of the KL, positive.

    Returns
    -------
    Array of shape ``(R,)``. With the independent error of the estimate the gap of a pessimist has
    the mean ``tr(F^-1 C*) / (2 eta n)`` plus this, up to terms of higher order in ``1 / sqrt(n)``.

    Source: identity I4 of the theory sheet, for an error with a mean.
    """
    mean = expectation(log_pi_star, error)
    spread = expectation(log_pi_star, (error - mean[..., None]) ** 2)
    return over_contexts(spread, weights) / (2.0 * eta)
