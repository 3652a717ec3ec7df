"""KTO on responses that are called good or bad one by one, with nothing to compare them with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from rlhf_theory.errors import check_positive


@dataclass(frozen=True)
class UnpairedKTO:
    r"""Kahneman-Tversky optimisation of single responses, desirable or not.

    .. math:: \lambda_D \bigl[1 - \sigma(\beta (\log\tfrac{\pi}{\pi_{ref}}(y) - z_0))\bigr]
              \text{ or }
              \lambda_U \bigl[1 - \sigma(\beta (z_0 - \log\tfrac{\pi}{\pi_{ref}}(y)))\bigr]

    For one desirable and one undesirable response, in this order, the sum is
    `rlhf_theory.losses.KTO`. For other numbers of them the paper chooses the weights so that
    :math:`\lambda_D n_D / (\lambda_U n_U)` is between 1 and 3/2.

    Examples have a ``target`` for each response: 1 where it is desirable, else 0.

    Attributes
    ----------
    beta
        Positive; a slope, no weight of the KL.
    desirable, undesirable
        ``lambda_D`` and ``lambda_U``, positive.

    Source: [2402.01306], equation 7.
    """

    beta: float
    desirable: float = 1.0
    undesirable: float = 1.0

    name: ClassVar[str] = "kto"
    takes: ClassVar[str] = "labelled"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "z0"})
    accepts: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for name in ("beta", "desirable", "undesirable"):
            check_positive(name, getattr(self, name))

    def __call__(
        self, log_pi: torch.Tensor, log_ref: torch.Tensor, good: torch.Tensor, z0: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of each response, shape ``(n,)``; ``good`` is 1 or 0."""
        gain = torch.where(good > 0.5, log_pi - log_ref - z0, z0 - (log_pi - log_ref))
        weight = good * self.desirable + (1.0 - good) * self.undesirable  # in their precision
        # 1 - sigma(u) = sigma(-u), without the cancellation.
        return weight * torch.sigmoid(-self.beta * gain)
