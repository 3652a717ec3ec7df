"""What reward models are trained to minimise: functions of rewards, for every array library."""

from __future__ import annotations

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.errors import ShapeError, check_shape
from rlhf_theory.losses.scalars import softplus


def comparison_loss(first: Array, second: Array, label: Array) -> Array:
    r"""Return the Bradley-Terry loss of comparisons.

    .. math:: -p \log\sigma(r_1 - r_2) - (1 - p) \log\sigma(r_2 - r_1)

    Parameters
    ----------
    first, second
        Rewards of both responses, shape ``(n,)``.
    label
        Probability ``p`` that the first is better, shape ``(n,)``; 0 or 1 for hard labels.

    Returns
    -------
    Array of shape ``(n,)``.
    """
    u = first - second
    return label * softplus(-u) + (1.0 - label) * softplus(u)


def ranking_loss(rewards: Array, present: Array | None = None) -> Array:
    r"""Return the K-wise pairwise loss of rankings: all pairs of a prompt, counted as one.

    .. math:: -\frac{1}{\binom K2} \sum_{i < j} \log\sigma(r_i - r_j)

    This is not the Plackett-Luce likelihood of the ranking, whose maximum is more efficient; both
    have the same limit.

    Parameters
    ----------
    rewards
        Rewards of the responses, the best first, shape ``(n, K)``; with ``K = 2`` the Bradley-Terry
        loss.
    present
        Booleans, shape ``(n, K)``, where groups have different sizes; what is absent must be
        finite, and ``K`` counts what is present. Groups of fewer than two have loss 0.

    Returns
    -------
    Array of shape ``(n,)``.

    Source: [2203.02155] (InstructGPT), equation (1); theory sheet 3.3 for the efficiency.
    """
    check_shape("rewards", rewards, (None, None), "(n, K)")
    xp = namespace(rewards)
    n, k = rewards.shape
    total, count = xp.zeros_like(rewards[:, 0]), xp.zeros_like(rewards[:, 0])
    if present is not None and present.shape != rewards.shape:
        message = f"present must have the shape {(n, k)} of rewards; got {tuple(present.shape)}."
        raise ShapeError(message)
    here = xp.ones_like(rewards) if present is None else xp.astype(present, rewards.dtype)
    for i in range(k - 1):
        loss = softplus(rewards[:, i + 1 :] - rewards[:, i : i + 1])
        both = here[:, i + 1 :] * here[:, i : i + 1]
        total = total + xp.sum(both * loss, axis=-1)
        count = count + xp.sum(both, axis=-1)
    return total / xp.where(count > 0, count, xp.ones_like(count))
