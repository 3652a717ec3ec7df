"""Rows multiplied by the known scale of the labels."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_theory.arrays import Array
from rlhf_theory.data import Design
from rlhf_theory.errors import check_positive


@dataclass(frozen=True, eq=False)
class ScaledRows:
    """The rows ``s z``: labels ``sigma(s <z, theta>)`` are unscaled labels of this design."""

    design: Design
    scale: float

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    @property
    def n_params(self) -> int:
        """Number of parameters ``p``."""
        return self.design.n_params

    @property
    def possible(self) -> Array | None:
        """The sum of ``s^2 z z^T`` over every row that data could ever have, None where unknown."""
        plain = self.design.possible
        return None if plain is None else (self.scale * self.scale) * plain

    @property
    def like(self) -> Array:
        """An array that tells library, device and dtype."""
        return self.design.like

    def margins(self, theta: Array) -> Array:
        """Return ``<s z_i, theta>``, shape ``(R, n)``."""
        return self.scale * self.design.margins(theta)

    def adjoint(self, w: Array) -> Array:
        """Return ``sum_i w_i s z_i``, shape ``(R, p)``."""
        return self.scale * self.design.adjoint(w)

    def gram(self, w: Array) -> Array:
        """Return ``sum_i w_i s^2 z_i z_i^T``, shape ``(R, p, p)``."""
        return (self.scale * self.scale) * self.design.gram(w)

    @property
    def z_max(self) -> Array:
        """Largest ``|s z_i|``, shape ``(R,)`` or ``(1,)``; 0 without rows."""
        return self.scale * self.design.z_max


def scaled(design: Design, scale: float) -> Design:
    """Return the design of ``s z``; the design itself for ``s = 1``."""
    return design if scale == 1.0 else ScaledRows(design, scale)
