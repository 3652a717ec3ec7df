"""Features for problems that need none: rewards and preferences of texts, trained models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NoFeatures:
    """One feature that is 0 for every response: nothing is read, nothing is learnt from it.

    Attributes
    ----------
    device
        Where the zeros are.
    """

    device: str = "cpu"

    def rows(self, prompts: Sequence[object], responses: Sequence[object]) -> torch.Tensor:
        """Return zeros, shape ``(n, 1)``."""
        if len(prompts) != len(responses):
            message = f"Give one prompt per response; got {len(prompts)} and {len(responses)}."
            raise ValueError(message)
        return torch.zeros((len(responses), 1), dtype=torch.float64, device=self.device)
