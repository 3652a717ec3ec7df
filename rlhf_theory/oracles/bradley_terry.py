"""Bradley-Terry labels."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_theory.arrays import Array, sigmoid
from rlhf_theory.core import RewardModel
from rlhf_theory.data import Contexts
from rlhf_theory.errors import check_positive


@dataclass(frozen=True, eq=False)
class BradleyTerry:
    """Labels ``P(a1 beats a2 | x) = sigma(s (r(x, a1) - r(x, a2)))``.

    Attributes
    ----------
    reward
        The true reward.
    scale
        ``s``, positive. A learner that does not know it estimates ``s theta*``, and its gaps are
        in units of ``s r``; one that does passes it to the estimator as ``scale``.
    """

    reward: RewardModel
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def prob(self, contexts: Contexts, a1: Array, a2: Array) -> Array:
        """Return the probability that ``a1`` wins, shape ``(R, B)``."""
        r = self.reward.rewards
        return sigmoid(self.scale * (contexts.at(r, a1) - contexts.at(r, a2)))

    def probabilities(self, contexts: Contexts) -> Array:
        """Return ``P(a beats b | x)`` for all pairs, shape ``(R, B, A, A)``."""
        r = self.reward.rewards(contexts)
        return sigmoid(self.scale * (r[..., :, None] - r[..., None, :]))

    def logits(self, contexts: Contexts) -> Array:
        """Return ``s (r(x, a) - r(x, b))`` for all pairs, shape ``(R, B, A, A)``."""
        r = self.scale * self.reward.rewards(contexts)
        return r[..., :, None] - r[..., None, :]
