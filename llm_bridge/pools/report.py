"""What pools of responses approximate, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PoolReport:
    """What pools approximate, per prompt.

    Attributes
    ----------
    distinct
        Distinct responses, shape ``(N,)``.
    ess
        Effective sample size in draws, shape ``(N,)``.
    covered
        Probability of the pool's responses under the reference model, shape ``(N,)``: 1 where the
        pool holds everything that the model can say, next to 0 for long responses.
    furthest
        Largest ``KL(pi || pi0)`` of any policy over the pool, in nats, shape ``(N,)``: what
        re-ranking the pool can reach at most.
    """

    distinct: np.ndarray
    ess: np.ndarray
    covered: np.ndarray
    furthest: np.ndarray

    @property
    def overall(self) -> dict[str, float]:
        """Numbers over all prompts, by name."""
        return {
            "prompts": float(self.distinct.size),
            "distinct_mean": float(self.distinct.mean()),
            "distinct_min": float(self.distinct.min()),
            "ess_mean": float(self.ess.mean()),
            "ess_min": float(self.ess.min()),
            "covered_mean": float(self.covered.mean()),
            "covered_min": float(self.covered.min()),
            "furthest_mean": float(self.furthest.mean()),
        }

    def __str__(self) -> str:
        o = self.overall
        return (
            f"{o['prompts']:.0f} prompts with {o['distinct_mean']:.1f} distinct responses each (at "
            f"least {o['distinct_min']:.0f}), worth {o['ess_mean']:.1f} draws from pi0 (at least "
            f"{o['ess_min']:.1f}). They hold {o['covered_mean']:.1%} of the reference model's "
            f"probability; a policy over them can be {o['furthest_mean']:.1f} nats from pi0."
        )
