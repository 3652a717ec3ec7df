"""Feature tables: the reference feature ``nu``, centring and normalisation."""

from __future__ import annotations

import math

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.data import Contexts, skew_rows
from rlhf_theory.designs import longest_difference


def mean_feature(contexts: Contexts, log_probs: Array) -> Array:
    """Return ``E_{a ~ pi} phi(x, a)``, shape ``(R, B, d)``, for ``log_probs`` ``(R, B, A)``."""
    phi = contexts.phi
    xp = namespace(phi, log_probs)
    return xp.matmul(xp.exp(log_probs)[..., None, :], phi)[..., 0, :]


def reference_feature(contexts: Contexts) -> Array:
    """Return ``nu(x) = E_{a ~ pi0} phi(x, a)``, shape ``(R, B, d)``."""
    return mean_feature(contexts, contexts.log_pi0)


def mean_shift(contexts: Contexts, weights: Array, log_probs: Array) -> Array:
    """Return ``E_x [phi(x, pi) - phi(x, pi0)]``, shape ``(R, d)``.

    ``log_probs`` are those of ``pi``, ``(R, B, A)``; ``weights`` the probabilities of the contexts,
    ``(R, B)``.
    """
    xp = namespace(contexts.like, log_probs)
    gap = mean_feature(contexts, log_probs) - reference_feature(contexts)
    return xp.sum(weights[..., None] * gap, axis=1)


def centred(contexts: Contexts) -> Array:
    """Return ``phi(x, a) - phi(x, pi0)``, shape ``(R, B, A, d)``; computed once per finite table.

    Comparisons reveal rewards up to a constant per context, so everything that is uncertain is
    measured from the reference policy.
    """
    return contexts.lookup(lambda c: c.phi - reference_feature(c)[:, :, None, :])


def feature_bound(contexts: Contexts) -> Array:
    """Return ``max |z|`` over pairs of present actions of one context, shape ``(R,)``."""
    return longest_difference(contexts.phi, contexts.log_pi0 > -math.inf)


def game_features(contexts: Contexts) -> Array:
    """Return ``psi(x, a, b)`` of the bilinear preference for all pairs, ``(R, B, A, A, p)``.

    ``p = d (d + 1) / 2``; antisymmetric in ``a, b``; see `designs.skew_rows`.
    """
    phi = contexts.phi
    xp = namespace(phi)
    r, b, a, d = phi.shape
    first = xp.broadcast_to(phi[:, :, :, None, :], (r, b, a, a, d))
    second = xp.broadcast_to(phi[:, :, None, :, :], (r, b, a, a, d))
    return skew_rows(xp.stack([first, second], axis=-2))


def mean_game_features(contexts: Contexts, log_pi1: Array) -> Array:
    """Return ``psi(x, pi1, a) = E_{a1 ~ pi1} psi(x, a1, a)``, shape ``(R, B, A, p)``.

    Its mean over ``a ~ pi1`` is 0.
    """
    phi = contexts.phi
    xp = namespace(phi, log_pi1)
    r = max(phi.shape[0], log_pi1.shape[0])
    _, b, a, d = phi.shape
    # psi is bilinear in (1, phi), and E (1, phi) = (1, E phi).
    mean = xp.broadcast_to(mean_feature(contexts, log_pi1)[:, :, None, :], (r, b, a, d))
    return skew_rows(xp.stack([mean, xp.broadcast_to(phi, (r, b, a, d))], axis=-2))
