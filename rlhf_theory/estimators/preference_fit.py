"""Maximum likelihood for general preferences: the bilinear (skew) logit model."""

from __future__ import annotations

from rlhf_theory.arrays import Array
from rlhf_theory.core import Solution
from rlhf_theory.data import PreferenceData
from rlhf_theory.estimators.mle import logistic_mle


def bilinear_mle(
    data: PreferenceData,
    *,
    ridge: float = 0.0,
    bound: float | None = None,
    scale: float = 1.0,
    start: Solution[Array] | None = None,
) -> Solution[Array]:
    r"""Fit ``P(a beats b | x) = sigma(R(x, a, b))`` with a bilinear, skew ``R``.

    .. math:: R(x, a, b) = f_a^\top W f_b, \qquad f = (1, \varphi(x, \cdot)), \quad W^\top = -W

    linear in the entries ``W_ij``, ``i < j``, with the rows of ``data.skew``. With the constant in
    ``f`` it contains every linear Bradley-Terry reward: ``r = <theta, phi>`` is
    ``W_0j = -theta_j`` and 0 elsewhere.

    Parameters
    ----------
    data
        Comparisons.
    ridge
        Penalty on the entries of ``W``; 0 gives the minimum-norm MLE where it exists. Where phi
        spans fewer than ``A - 1`` dimensions in every context, some entries of ``W`` are never
        seen, and stay 0.
    bound
        Minimise over ``|theta| <= bound``; None for the whole space.
    scale
        Known scale ``s`` of the labels.
    start
        The solution of a similar fit, one round earlier.

    Returns
    -------
    Solution with the parameters of `rewards.SkewBilinear`, shape ``(R, d (d + 1) / 2)``; residual
    and ``converged`` as for `logistic_mle`.

    Source: [2402.07314], MLE of the preference model; theory sheet 2.2 and 2.3.
    """
    return logistic_mle(
        data.skew,
        data.count,
        data.wins,
        ridge=ridge,
        bound=bound,
        scale=scale,
        start=start,
    )
