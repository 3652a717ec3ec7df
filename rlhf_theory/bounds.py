r"""Right-hand sides of theorems and confidence radii: numbers in, numbers out.

Arguments that may differ between replicas are arrays of shape ``(R,)``; everything else is a plain
number. ``V = lambda I + sum z z^T`` is unnormalised throughout.
"""

from __future__ import annotations

import math

from scipy.special import chdtri

from rlhf_theory.arrays import Array, namespace, sigmoid
from rlhf_theory.errors import check_nonnegative, check_positive, check_probability


def curvature(m: Array) -> Array:
    """Return ``gamma_M = 1 / (2 + e^M + e^-M)``, the least slope of the logistic on ``[-M, M]``.

    ``m`` is a number or an array; ``M = 0`` gives 1/4. ``M`` is the largest ``|<z, theta>|`` over
    the ball, ``B max |z|``: with ``|phi| <= 1`` that is up to ``2 B``, not ``B``.

    Source: theory sheet 1.1 and 10.1.
    """
    if isinstance(m, int | float):
        tail = math.exp(-abs(m))
        return tail / (1.0 + tail) ** 2
    return sigmoid(m) * sigmoid(-m)


def fixed_noise(dim: int, delta: float) -> float:
    r"""Return the noise level ``G`` for a design that is fixed in advance.

    .. math:: G^2 = \tfrac14 \bigl(d + 2 \sqrt{d \log(1/\delta)} + 2 \log(1/\delta)\bigr)

    Source: Hsu, Kakade and Zhang (2012), ECP 17, Theorem 2.1; R1 of theory sheet 10.2.
    """
    check_probability("delta", delta)
    log = math.log(1.0 / delta)
    return 0.5 * math.sqrt(dim + 2.0 * math.sqrt(dim * log) + 2.0 * log)


def adaptive_noise(log_det: Array, dim: int, lam: float, delta: float) -> Array:
    r"""Return the noise level ``G`` for any predictable design and all times at once.

    .. math:: G^2 = \tfrac14 \bigl(2 \log(1/\delta) + \log\det V - d \log\lambda\bigr)

    Parameters
    ----------
    log_det
        ``log det V``, shape ``(R,)``.
    dim, lam, delta
        ``d``, the positive ``lambda`` inside ``V``, failure probability.

    Source: Abbasi-Yadkori, Pal and Szepesvari (2011), Theorem 1; R2 of theory sheet 10.3.
    """
    check_probability("delta", delta)
    check_positive("lam", lam)
    square = 2.0 * math.log(1.0 / delta) + log_det - dim * math.log(lam)
    # Rounding may push log det V below d log lambda where there are no data.
    return 0.5 * _root(square)


def _root(square: Array) -> Array:
    if isinstance(square, int | float):
        return math.sqrt(max(square, 0.0))
    xp = namespace(square)
    return xp.sqrt(xp.where(square > 0, square, xp.zeros_like(square)))


def global_radius(noise: Array, gamma: Array, lam: float, theta_bound: float) -> Array:
    r"""Return the radius in ``V`` for the MLE over the ball ``|theta| <= B``, by its excess loss.

    .. math:: G / \gamma_M + \sqrt{G^2 / \gamma_M^2 + 4 \lambda B^2}

    ``noise`` is `fixed_noise` or `adaptive_noise`.

    Source: R1, R2 of theory sheet 10.2, 10.3 (derived there); [2301.11270], Lemma 3.1 for the form.
    """
    ratio = noise / gamma
    return ratio + (ratio * ratio + 4.0 * lam * theta_bound**2) ** 0.5


def fixed_radius(noise: Array, gamma: Array, lam: float, theta_bound: float) -> Array:
    r"""Return the radius for a fixed design, half as long as `global_radius`.

    .. math:: \sqrt{G^2 / \gamma_M^2 + 4 \lambda B^2}

    Source: R1' of theory sheet 10.2 (first-order optimality of the constrained MLE).
    """
    ratio = noise / gamma
    return (ratio * ratio + 4.0 * lam * theta_bound**2) ** 0.5


def adaptive_radius(noise: Array, gamma: Array, lam: float, theta_bound: float) -> Array:
    r"""Return the radius for any predictable design, about half as long as `global_radius`.

    .. math:: \tfrac12 \bigl(G / \gamma_M + \sqrt{G^2 / \gamma_M^2 + 16 \lambda B^2}\bigr)

    Source: R2' of theory sheet 10.3.
    """
    ratio = noise / gamma
    return 0.5 * (ratio + (ratio * ratio + 16.0 * lam * theta_bound**2) ** 0.5)


def ridge_radius(noise: Array, gamma: Array, ridge: float, theta_bound: float) -> Array:
    r"""Return the radius for the minimiser of ``L + (ridge / 2) |theta|^2``.

    .. math:: (G + \sqrt{\lambda \gamma_M}\, B) / \gamma_M
              \quad\text{in}\quad V' = \sum z z^\top + (\lambda / \gamma_M) I

    with ``G`` evaluated with ``V'``. Valid where the ridge estimate lies in the ball.

    Source: the ridge form of R2, theory sheet 10.3.
    """
    return (noise + (ridge * gamma) ** 0.5 * theta_bound) / gamma


def likelihood_ratio_threshold(
    labels: Array, dim: int, theta_bound: float, z_max: Array, delta: float
) -> Array:
    r"""Return the likelihood-ratio threshold on ``L(theta) - L(theta_hat)`` within the ball.

    .. math:: \log(1/\delta) + d \log\max(e, 2 e B n z_{max} / d)

    Parameters
    ----------
    labels
        Number ``n`` of labels, shape ``(R,)``.
    dim, theta_bound, delta
        ``d``, ``B``, failure probability.
    z_max
        Bound on ``|z|``, shape ``(R,)`` or a number.

    Source: Lee, Yun and Jun (2024), unified confidence sequences; R3 of theory sheet 10.4.
    """
    check_probability("delta", delta)
    xp = namespace(labels)
    inside = (2.0 * math.e * theta_bound / dim) * labels * z_max
    floor = xp.full_like(inside, math.e)
    return math.log(1.0 / delta) + dim * xp.log(xp.maximum(inside, floor))


def hessian_radius(threshold: Array, theta_bound: float, z_max: Array, lam: float) -> Array:
    r"""Return the radius in ``H(theta_hat) + lambda I`` that a threshold on ``L`` implies.

    .. math:: \sqrt{(2 + 2 B z_{max})\,\tau + 4 \lambda B^2}

    for ``theta_hat`` the MLE over the ball and ``tau`` a threshold on
    ``L(theta) - L(theta_hat)``, by likelihood ratio or mixture.

    Source: R3 and R4 of theory sheet 10.4 (self-concordance).
    """
    return ((2.0 + 2.0 * theta_bound * z_max) * threshold + 4.0 * lam * theta_bound**2) ** 0.5


def laplace_log_evidence(
    loss: Array, square_norm: Array, log_det: Array, prior_variance: float
) -> Array:
    r"""Return Laplace's ``log Int e^{-L} dQ`` for the prior ``Q = N(0, s^2 I)``.

    .. math:: -L(\theta_m) - |\theta_m|^2 / (2 s^2) - \tfrac12 \log\det(I + s^2 H)

    Parameters
    ----------
    loss, square_norm
        ``L`` (without the prior) and ``|theta|^2`` at the penalised minimiser, shape ``(R,)``.
    log_det
        ``log det(I + s^2 H)`` there, ``H`` without the prior.
    prior_variance
        ``s^2``.

    Source: theory sheet 10.5.
    """
    check_positive("prior_variance", prior_variance)
    return -loss - square_norm / (2.0 * prior_variance) - 0.5 * log_det


def mixture_threshold(log_evidence: Array, loss: Array, delta: float) -> Array:
    r"""Return the mixture threshold on ``L(theta) - L(theta_hat)``.

    .. math:: -\log \int e^{-L}\,dQ + \log(1/\delta) - L(\hat\theta)

    Valid at all times at once, for any prior fixed in advance and any predictable design
    (Ville's inequality); ``loss`` is ``L(theta_hat)``, shape ``(R,)``.

    Source: R4 of theory sheet 10.5.
    """
    check_probability("delta", delta)
    return -log_evidence + math.log(1.0 / delta) - loss


def class_threshold(size: float, delta: float) -> float:
    """Return ``log(size / delta)``: `mixture_threshold` for a finite class, uniform prior.

    A threshold on ``L(theta) - L(theta_hat)``, ``theta_hat`` the best member of the class.

    Source: R4 of theory sheet 10.5.
    """
    check_probability("delta", delta)
    check_positive("size", size)
    return math.log(size / delta)


def version_space_radius(size: float, delta: float) -> float:
    r"""Return ``beta = sqrt(4 log(size / delta))`` of the version space of preferences.

    The set ``sum_i (P - P_hat)^2 <= beta^2 / 2`` around the MLE of a finite class contains the
    truth at all times with probability at least ``1 - delta``.

    Source: [2402.07314], Algorithm 1; the constant is derived in theory sheet 2.2.
    """
    return math.sqrt(4.0 * class_threshold(size, delta))


def pessimistic_mle_radius(
    dim: int, gamma: float, lam: float, theta_bound: float, delta: float
) -> float:
    r"""Return the radius of the pessimistic MLE as its paper states it, with ``C = 1``.

    .. math:: \sqrt{(d + \log(1/\delta)) / \gamma^2 + \lambda B^2}

    The paper's form is this over ``sqrt(n)``, with ``lambda`` of the normalised matrix. The
    constant ``C`` is not explicit there: `fixed_radius` has a proof, this has the paper's shape.

    Source: [2301.11270], Lemma 3.1; theory sheet 3.1, 3.2.
    """
    check_probability("delta", delta)
    check_positive("gamma", gamma)
    return math.sqrt((dim + math.log(1.0 / delta)) / gamma**2 + lam * theta_bound**2)


def wilks_threshold(dim: int, delta: float) -> float:
    """Return half the ``1 - delta`` quantile of chi-squared with ``d`` df, a threshold.

    The square root of twice it is the radius in ``H(theta_hat)``. Asymptotic, at one time that is
    fixed in advance.

    Source: Wilks (1938); R5 of theory sheet 10.6.
    """
    check_probability("delta", delta)
    return 0.5 * float(chdtri(dim, delta))


def elliptical_potential(rounds: float, lam: float, dim: int, z_max: float = 2.0) -> float:
    r"""Return ``d log(1 + T z_max^2 / (lambda d))``.

    Bounds ``sum_t log(1 + |v_t|^2_{Sigma_t^-1})`` when round ``t`` adds a matrix of at least
    ``v_t v_t^T`` and trace at most ``z_max^2`` to ``Sigma_1 = lambda I``.

    Source: theory sheet 1.3.
    """
    check_positive("lam", lam)
    check_nonnegative("rounds", rounds)
    return dim * math.log1p(rounds * z_max**2 / (lam * dim))


def elliptical_potential_rounds(rounds: float, lam: float, dim: int, z_max: float = 2.0) -> float:
    r"""Return ``d log(1 + T z_max^2 / (lambda d)) / log 2``.

    Bounds the number of rounds with ``|v_t|_{Sigma_t^-1} > 1``; once ``T`` exceeds it, one round
    has a width of at most 1. Population covariances, one ``E z z^T`` per round.

    Source: theory sheet 1.3 (t0 rule).
    """
    return elliptical_potential(rounds, lam, dim, z_max) / math.log(2.0)
