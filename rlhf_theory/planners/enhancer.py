"""The enhancer: the policy around the main agent whose mean feature is most uncertain."""

from __future__ import annotations

import math
from typing import Unpack

from rlhf_theory.arrays import Array, check_finite, namespace
from rlhf_theory.core import Solution
from rlhf_theory.errors import ShapeError, check_positive, check_shape
from rlhf_theory.planners.enhancer_search import Enhancement, Search, search
from rlhf_theory.planners.tilting import Space, whiten
from rlhf_theory.randomness import Key

__all__ = [
    "Enhancement",
    "Search",
    "constrained_enhancer",
    "most_uncertain",
    "penalised_enhancer",
    "pointwise_bound",
]


def constrained_enhancer(
    features: Array,
    log_pi1: Array,
    weights: Array,
    sigma: Array,
    beta: Array,
    eta: float,
    *,
    key: Key,
    **how: Unpack[Search],
) -> Solution[Enhancement]:
    r"""Maximise the bonus over the policies that may still be optimal.

    .. math::

        \max_{\pi'} \Gamma(\pi'), \quad \eta\, E_x KL(\pi' \Vert \pi_1) \le \Gamma(\pi'), \qquad
        \Gamma(\pi') = \beta \lVert E\varphi(\pi') - E\varphi(\pi_1) \rVert_{\Sigma^{-1}}

    by alternation: for a direction ``u`` the best policy is the largest feasible tilt of ``pi1``
    along ``<u, phi>``; for a policy the best direction is the gradient of the norm. The bonus
    never decreases and no iterate leaves the set. The problem is not concave, so the search starts
    from many directions.

    Parameters
    ----------
    features
        ``phi``, shape ``(R, B, A, d)`` or ``(1, B, A, d)``. Any constant per context drops out. The
        features ``psi(x, pi1, a)`` of a preference game, with mean 0 under ``pi1``, serve as well.
    log_pi1
        The main agent, shape ``(R, B, A)`` or ``(1, B, A)``; ``-inf`` marks absent actions.
    weights
        Law of the contexts, shape ``(R, B)`` or ``(1, B)``.
    sigma
        Matrix of the confidence ellipsoid, positive definite, shape ``(R, d, d)``.
    beta
        Its radius, shape ``(R,)``; where it is 0 the answer is ``pi1``.
    eta
        Weight of the KL, positive.
    key
        Address of the random starts.
    **how
        Other starts, and when to stop: see `Search`.

    Returns
    -------
    Solution of an `Enhancement`. The residual is the share of the bonus that the next direction
    still gains, ``1 - <u, g> / Gamma``; the maximum is global only as far as the starts reach.

    Raises
    ------
    ValueError
        No start at all, eta that is not positive, negative radii, shapes that do not fit.

    Source: [2405.07863], equation (8); [2312.11456], Algorithm 2, Option I.
    """
    prepared = _check(features, log_pi1, weights, sigma, beta, eta)
    return search("constrained", prepared, eta, key, **how)


def penalised_enhancer(
    features: Array,
    log_pi1: Array,
    weights: Array,
    sigma: Array,
    beta: Array,
    eta: float,
    *,
    key: Key,
    **how: Unpack[Search],
) -> Solution[Enhancement]:
    r"""Maximise the bonus minus the divergence, ``Gamma(pi') - eta E_x KL(pi' || pi1)``.

    A power iteration on the equivalent problem
    :math:`\max_{\lVert u \rVert_\Sigma \le \beta} \eta E_x \log E_{\pi_1}
    \exp(\langle u, \varphi - \varphi(\pi_1) \rangle / \eta)`; the objective never decreases.
    Arguments, result and errors as in `constrained_enhancer`.

    Source: theory sheet 1.4; the bound on the exploitability of a preference game, 2.3.
    """
    prepared = _check(features, log_pi1, weights, sigma, beta, eta)
    return search("penalised", prepared, eta, key, **how)


def most_uncertain(
    features: Array,
    log_pi1: Array,
    weights: Array,
    sigma: Array,
    beta: Array,
    *,
    key: Key,
    **how: Unpack[Search],
) -> Solution[Enhancement]:
    """Maximise the bonus over all policies: the enhancer of the information ratio.

    The power iteration ``u = Sigma^-1 v``, ``pi2 = argmax_a <u, phi>``. Other arguments, result and
    errors as in `constrained_enhancer`; ``beta`` only scales the bonus.

    Source: [2402.07314], enhancer of the online algorithm, for a linear class.
    """
    prepared = _check(features, log_pi1, weights, sigma, beta, 1.0)
    return search("free", prepared, 1.0, key, **how)


def pointwise_bound(
    features: Array, log_pi1: Array, weights: Array, sigma: Array, beta: Array
) -> Array:
    """Return ``beta E_x max_a |phi(x, a) - phi(x, pi1)|_{Sigma^-1}``, shape ``(R,)``.

    A closed form above every bonus around ``pi1``. Arguments as in `constrained_enhancer`.
    """
    space, _ = _check(features, log_pi1, weights, sigma, beta, 1.0)
    xp = namespace(space.v)
    shape = (space.v.shape[0], *space.log_pi1.shape[2:])
    norm = xp.reshape(xp.sqrt(xp.sum(space.v * space.v, axis=-1)), shape)
    present = space.log_pi1[:, 0, ...] > -math.inf
    largest = xp.max(xp.where(present, norm, xp.zeros_like(norm)), axis=-1)
    return xp.sum(space.weights[:, 0, :] * largest, axis=-1)


def _check(
    features: Array, log_pi1: Array, weights: Array, sigma: Array, beta: Array, eta: float
) -> tuple[Space, Array]:
    check_positive("eta", eta)
    check_shape("features", features, (None, None, None, None), "(R, B, A, d)")
    _, b, a, d = features.shape
    check_shape("log_pi1", log_pi1, (None, b, a), "(R, B, A)")
    check_shape("weights", weights, (None, b), "(R, B)")
    check_shape("sigma", sigma, (None, d, d), "(R, d, d)")
    check_shape("beta", beta, (None,), "(R,)")
    rows = {x.shape[0] for x in (features, log_pi1, weights, sigma, beta)} - {1}
    if len(rows) > 1:
        message = f"All arrays must have R or 1 rows; got {sorted(rows)} for R."
        raise ShapeError(message)
    xp = namespace(features, beta)
    if not bool(xp.all((beta >= 0.0) & xp.isfinite(beta))):
        message = "beta must be finite and at least 0; got negative, infinite or NaN entries."
        raise ValueError(message)
    check_finite("features", features)
    check_finite("sigma", sigma)
    if bool(xp.any(xp.isnan(log_pi1))):
        message = "log_pi1 must be log-probabilities; it has NaN entries."
        raise ValueError(message)
    return whiten(features, log_pi1, weights, sigma, beta)
