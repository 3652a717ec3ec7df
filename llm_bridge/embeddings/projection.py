"""Frozen features, and their projection for preferences that are learnt over few of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llm_bridge.language.models import Ids
from rlhf_theory.data import Contexts


class FrozenFeatures(Protocol):
    """Features that no longer change: rows of prompts and responses to rows of numbers."""

    def rows(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> torch.Tensor:
        """Return features, shape ``(n, d)``."""
        ...


@dataclass(frozen=True, eq=False)
class ProjectedFeatures:
    """Frozen features after a centring and a linear map.

    Attributes
    ----------
    features
        Features of ``d`` numbers.
    mean
        What is subtracted, shape ``(d,)``.
    axes
        Orthonormal columns, shape ``(d, k)``.
    """

    features: FrozenFeatures
    mean: torch.Tensor
    axes: torch.Tensor

    def rows(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> torch.Tensor:
        """Return features, shape ``(n, k)``."""
        return self.apply(self.features.rows(prompts, responses))

    def apply(self, phi: torch.Tensor) -> torch.Tensor:
        """Project features ``(..., d)`` that are already there."""
        return (phi.to(self.mean) - self.mean) @ self.axes


def preference_axes(
    contexts: Contexts, weights: torch.Tensor, dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean feature and the principal axes of differences within contexts.

    Parameters
    ----------
    contexts
        Contexts that all replicas share, as torch tensors.
    weights
        Their law, shape ``(1, N)``.
    dim
        Number of axes.

    Returns
    -------
    Arrays of shape ``(d,)`` and ``(d, dim)``; the widest axis first.
    """
    phi, p = contexts.phi[0], torch.exp(contexts.log_pi0[0])
    mass = weights[0, :, None] * p
    nu = torch.einsum("nk,nkd->nd", p, phi)
    # One matrix product of rows: the tensor of all products would be d times as large.
    rows = (torch.sqrt(mass)[..., None] * (phi - nu[:, None, :])).flatten(0, 1)
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    axes = torch.flip(vectors, dims=(1,))[:, :dim]
    # The sign of an axis is the library's choice: make it ours, its largest entry positive.
    largest = torch.take_along_dim(axes, axes.abs().argmax(dim=0, keepdim=True), dim=0)
    return torch.einsum("nk,nkd->d", mass, phi), axes * torch.sign(largest)
