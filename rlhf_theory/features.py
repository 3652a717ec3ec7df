"""Feature tables: the reference feature ``nu``, centring and normalisation."""

from __future__ import annotations

import math

from rlhf_theory.arrays import Array, full_like, namespace
from rlhf_theory.data import Contexts

__all__ = ["centred", "feature_bound", "mean_feature", "reference_feature"]


def mean_feature(contexts: Contexts, log_probs: Array) -> Array:
    """Return ``E_{a ~ pi} phi(x, a)``, shape ``(R, B, d)``, for ``log_probs`` ``(R, B, A)``."""
    phi = contexts.phi
    xp = namespace(phi, log_probs)
    return xp.matmul(xp.exp(log_probs)[..., None, :], phi)[..., 0, :]


def reference_feature(contexts: Contexts) -> Array:
    """Return ``nu(x) = E_{a ~ pi0} phi(x, a)``, shape ``(R, B, d)``."""
    return mean_feature(contexts, contexts.log_pi0)


def centred(contexts: Contexts) -> Array:
    """Return ``phi(x, a) - phi(x, pi0)``, shape ``(R, B, A, d)``; computed once per finite table.

    Comparisons reveal rewards up to a constant per context, so everything that is uncertain is
    measured from the reference policy.
    """
    return contexts.lookup(lambda c: c.phi - reference_feature(c)[:, :, None, :])


def feature_bound(contexts: Contexts) -> Array:
    """Return ``max |z|`` over pairs of present actions of one context, shape ``(R,)``."""
    phi = contexts.phi
    xp = namespace(phi)
    cross = xp.matmul(phi, xp.matrix_transpose(phi))
    square = xp.sum(phi * phi, axis=-1)
    distance = square[..., :, None] + square[..., None, :] - 2.0 * cross
    present = contexts.log_pi0 > -math.inf
    both = present[..., :, None] & present[..., None, :]
    distance = xp.where(both, distance, full_like((1,), 0.0, phi))
    largest = xp.max(distance, axis=(-3, -2, -1))
    return xp.sqrt(xp.where(largest > 0, largest, xp.zeros_like(largest)))
