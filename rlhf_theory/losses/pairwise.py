"""What losses of pairs have in common: data are checked before they compute, and most have a beta.

A loss need not be built on these classes: `PairLoss` says what one has to have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from rlhf_theory.arrays import Array
from rlhf_theory.errors import check_positive
from rlhf_theory.losses.comparisons import Comparisons, Law, checked


class Pairwise(ABC):
    """A loss of pairs that needs the reference and takes nothing more, unless it says so."""

    name: ClassVar[str]
    takes: ClassVar[Literal["pairs", "groups"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    accepts: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def law(self) -> Law:
        """What the minimiser takes from the law of the pairs."""

    def __call__(self, c: Comparisons) -> Array:
        """Return the loss of each comparison; ``ValueError`` for what `checked` refuses."""
        return self._values(checked(self, c))

    @abstractmethod
    def _values(self, c: Comparisons) -> Array:
        """Return the loss of each comparison, in the shape of its arrays."""


@dataclass(frozen=True)
class OfBeta(Pairwise):
    """A loss of pairs whose first setting is ``beta``, positive; what it means the loss says."""

    beta: float

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
