"""Both sides of the offline theorem, exactly: what a pessimistic policy loses, and its bound."""

from __future__ import annotations

import math

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.core import ConfidenceSet
from rlhf_theory.data import Contexts
from rlhf_theory.evaluation.gaps import over_contexts
from rlhf_theory.features import centred, mean_feature, reference_feature
from rlhf_theory.policies import expectation


def comparator_loss(log_pi: Array, log_pi_hat: Array, error: Array, weights: Array) -> Array:
    r"""Return the left side of the offline theorem for a comparator.

    .. math:: J(\pi) - J(\hat\pi) + \eta\, E_x \mathrm{KL}(\pi \Vert \hat\pi)
              = E_\pi[r^* - \hat r] - E_{\hat\pi}[r^* - \hat r]

    Parameters
    ----------
    log_pi, log_pi_hat
        Comparator, and the Gibbs policy of the reward ``r_hat``, shape ``(R, B, A)``.
    error
        ``r* - r_hat``, up to a constant per context, shape ``(R, B, A)``.
    weights
        Probabilities of the contexts, shape ``(R, B)``.

    Returns
    -------
    Array of shape ``(R,)``, of either sign.

    Source: [2409.02392], Proposition 2; identity I2 of the theory sheet.
    """
    difference = expectation(log_pi, error) - expectation(log_pi_hat, error)
    return over_contexts(difference, weights)


def expected_bound(
    confidence: ConfidenceSet, contexts: Contexts, weights: Array, log_pi: Array
) -> Array:
    r"""Return the right side of the offline theorem for Option I.

    The width of the set in the direction :math:`E_x[\varphi(x,\pi) - \varphi(x,\pi_0)]`; for an
    ellipsoid :math:`2 \beta` times its norm in :math:`\Sigma^{-1}`. Shape ``(R,)``.

    Source: [2312.11456], offline theorem, Option I; theory sheet 1.2.
    """
    xp = namespace(contexts.like)
    gap = mean_feature(contexts, log_pi) - reference_feature(contexts)
    v = xp.sum(weights[..., None] * gap, axis=1)[:, None, :]
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


def comparator_excess(
    lower: Array, upper: Array, truth: Array, weights: Array, log_pi_hat: Array, log_pi0: Array
) -> Array:
    r"""Return by how much Option II breaks its bound against the worst comparator.

    Both sides are linear in the comparator, so the supremum over all policies is

    .. math:: E_x \max_a \bigl[ r^* - \hat r - w \bigr] - E_{\hat\pi}[r^* - \hat r],

    with ``w`` the width of the set: at most 0 if and only if the bound holds for every policy.

    Parameters
    ----------
    lower, upper
        `reward_interval` of the set; ``r_hat`` is the lower end.
    truth
        ``r*`` measured from pi0, ``<theta*, phi - phi(x, pi0)>``, shape ``(R, B, A)``.
    weights
        Probabilities of the contexts, shape ``(R, B)``.
    log_pi_hat, log_pi0
        The policy, and the reference policy, which tells what actions there are.

    Returns
    -------
    Array of shape ``(R,)``.

    Source: theory sheet 1.2 (the bound holds for every comparator on the confidence event).
    """
    xp = namespace(lower, truth)
    over = truth - upper
    over = xp.where(log_pi0 > -math.inf, over, xp.full_like(over, -math.inf))
    worst = xp.max(over, axis=-1) - expectation(log_pi_hat, truth - lower)
    return over_contexts(worst, weights)
