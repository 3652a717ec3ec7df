"""How far a preference is from one that a reward explains."""

from __future__ import annotations

from rlhf_theory.arrays import Array, namespace


def cyclic_part(logit: Array) -> Array:
    """Return what no reward explains of skew logits ``(R, B, A, A)``, same shape.

    ``L - (s_a - s_b)`` with ``s_a = (1 / A) sum_b L_ab``, the least-squares potential (Hodge
    decomposition with uniform weights); zero for Bradley-Terry.

    Source: Jiang, Lim, Yao and Ye (2011), Statistical ranking and combinatorial Hodge theory.
    """
    xp = namespace(logit)
    s = xp.mean(logit, axis=-1)
    return logit - (s[..., :, None] - s[..., None, :])


def intransitivity_index(logit: Array) -> Array:
    """Return ``|L_cyc|_F / |L|_F`` per context, shape ``(R, B)``; 0 where ``L = 0``, in [0, 1]."""
    xp = namespace(logit)
    cyc = cyclic_part(logit)
    total = xp.sum(logit * logit, axis=(-2, -1))
    some = xp.where(total > 0, total, xp.ones_like(total))
    return xp.sqrt(xp.sum(cyc * cyc, axis=(-2, -1)) / some)
