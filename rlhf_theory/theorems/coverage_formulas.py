"""Radii as the claim of the study of coverage says them, worked out a second way.

Nothing here is of the rules under study: the design is summed pair by pair, and every formula is
written out from the claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.stats import chi2

from rlhf_theory.data import Contexts
from rlhf_theory.problems import FiniteProblem
from rlhf_theory.theorems.card import Sweep


@dataclass(frozen=True, eq=False)
class Collected:
    """What was compared so far.

    Attributes
    ----------
    phi
        Features of all actions, shape ``(1, X, A, d)`` or ``(R, X, A, d)``.
    gram
        Sum of ``z z^T``, shape ``(R, d, d)`` once there are comparisons.
    labels
        Number ``n`` of comparisons in every replica.
    """

    phi: np.ndarray
    gram: np.ndarray
    labels: int = 0

    @classmethod
    def none(cls, problem: FiniteProblem) -> Self:
        """Return that nothing was compared."""
        return cls(problem.phi, np.zeros((1, problem.dim, problem.dim)))

    def add(self, x: Contexts, a1: np.ndarray, a2: np.ndarray) -> Self:
        """Return the same with one comparison more per context, ``(R, m)`` of them."""
        replica = np.arange(self.phi.shape[0])[:, None]
        z = self.phi[replica, x.ids, a1] - self.phi[replica, x.ids, a2]
        gram = self.gram + np.einsum("rmi,rmj->rij", z, z)
        return type(self)(self.phi, gram, self.labels + z.shape[1])

    @property
    def longest(self) -> float:
        """``max |z|`` over all pairs that could be compared."""
        z = self.phi[..., :, None, :] - self.phi[..., None, :, :]
        return float(np.linalg.norm(z, axis=-1).max())


def formulas(collected: Collected, norm: float, sweep: Sweep) -> Mapping[str, np.ndarray]:
    """Return radius or threshold per rule, shape ``(R,)``; R4, an integral, is not among them."""
    n, d, lam, longest = (
        collected.labels,
        collected.gram.shape[-1],
        sweep["lam"],
        collected.longest,
    )
    log = np.log(1.0 / sweep["delta"])
    gamma = 1.0 / (2.0 + np.exp(norm * longest) + np.exp(-norm * longest))
    v = collected.gram + lam * np.eye(d)
    log_det = np.log(np.linalg.eigvalsh(v)).sum(axis=-1)
    fixed = np.sqrt(d + 2.0 * np.sqrt(d * log) + 2.0 * log) / 2.0 / gamma
    adaptive = np.sqrt(2.0 * log + log_det - d * np.log(lam)) / 2.0 / gamma
    ball = 4.0 * lam * norm**2
    ratio = log + d * max(1.0, 1.0 + np.log(2.0 * norm * n * longest / d))
    found = {
        "R1": fixed + np.sqrt(fixed**2 + ball),
        "R1′": np.sqrt(fixed**2 + ball),
        "R2": adaptive + np.sqrt(adaptive**2 + ball),
        "R2′": (adaptive + np.sqrt(adaptive**2 + 4.0 * ball)) / 2.0,
        "R3": ratio,
        "R3 in H": np.sqrt((2.0 + 2.0 * norm * longest) * ratio + ball),
        "R5": chi2.isf(sweep["delta"], d) / 2.0,
    }
    return {name: np.broadcast_to(value, log_det.shape) for name, value in found.items()}
