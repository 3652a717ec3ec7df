"""Marginal likelihoods of logistic models under a Gaussian prior."""

from __future__ import annotations

import math

from rlhf_theory.arrays import Array, eye_like, logsumexp, namespace
from rlhf_theory.bounds import laplace_log_evidence
from rlhf_theory.core import Solution
from rlhf_theory.data import Design
from rlhf_theory.errors import check_positive
from rlhf_theory.estimators.ball_mle import ball_mle
from rlhf_theory.estimators.mle import fisher_information, neg_log_likelihood
from rlhf_theory.randomness import Key


def _mode(
    design: Design, count: Array, wins: Array, variance: float, start: Solution[Array] | None
) -> Solution[Array]:
    check_positive("prior_variance", variance)
    # |theta_m| <= s sqrt(2 n log 2), so this ball never binds; but the search of `ball_mle` takes
    # any nearby estimate as its start, such as the MLE that the caller has.
    far = 1e6 * math.sqrt(variance)
    # The evidence is flat at the mode: an error of 1e-6 there costs n times its square.
    return ball_mle(design, count, wins, bound=far, ridge=1.0 / variance, start=start, tol=1e-6)


def laplace_evidence(
    design: Design,
    count: Array,
    wins: Array,
    prior_variance: float,
    start: Solution[Array] | None = None,
) -> Solution[Array]:
    """Return Laplace's approximation of ``log Int e^{-L} dN(0, s^2 I)``, shape ``(R,)``.

    Parameters
    ----------
    design, count, wins
        The comparisons, ``(R, n)``; without any the answer is exactly 0.
    prior_variance
        ``s^2``, positive.
    start
        Any estimate nearby, such as the MLE: the search for the mode starts there.

    Source: theory sheet 10.5.
    """
    mode = _mode(design, count, wins, prior_variance, start)
    theta = mode.value
    xp = namespace(theta)
    loss = neg_log_likelihood(theta, design, count, wins)
    hessian = fisher_information(theta, design, count)
    inflated = prior_variance * hessian + eye_like(design.n_params, hessian)
    log_det = xp.linalg.slogdet(inflated).logabsdet
    value = laplace_log_evidence(loss, xp.sum(theta * theta, axis=-1), log_det, prior_variance)
    return Solution(value, mode.residual, mode.converged, mode.n_iter, mode.hint, mode.warm)


def importance_evidence(
    design: Design,
    count: Array,
    wins: Array,
    prior_variance: float,
    n_draws: int = 400,
    start: Solution[Array] | None = None,
) -> Solution[Array]:
    """Return ``log Int e^{-L} dN(0, s^2 I)`` by importance sampling, shape ``(R,)``.

    Draws come in pairs ``theta_m +- e`` from the normal law around the Laplace point with the
    curvature there; the same draws for every replica and call, so that a replica does not depend
    on its company. Arguments as for `laplace_evidence`; ``n_draws`` is rounded up to even.

    Source: theory sheet 10.5.
    """
    mode = _mode(design, count, wins, prior_variance, start)
    theta = mode.value
    xp = namespace(theta)
    p = design.n_params
    precision = fisher_information(theta, design, count, 1.0 / prior_variance)
    values, vectors = xp.linalg.eigh(precision)
    pairs = -(-n_draws // 2)
    noise = Key(0).child("evidence").normal(1, pairs, p, like=theta)
    scale = xp.sqrt(values)
    log_weights = []
    for k in range(pairs):
        e = noise[:, k, :]
        shift = xp.matmul(vectors, (e / scale)[..., None])[..., 0]
        square = 0.5 * xp.sum(e * e, axis=-1)
        for draw in (theta + shift, theta - shift):
            loss = neg_log_likelihood(draw, design, count, wins, 1.0 / prior_variance)
            log_weights.append(square - loss)
    total = logsumexp(xp.stack(log_weights, axis=-1)) - math.log(2 * pairs)
    value = total - 0.5 * p * math.log(prior_variance) - xp.sum(xp.log(scale), axis=-1)
    return Solution(value, mode.residual, mode.converged, mode.n_iter, mode.hint, mode.warm)
