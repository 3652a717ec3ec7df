"""What a learner asks, and what it gets back: pairs of actions, and comparisons of them.

A law of labels owns both: its query, and the record that answers it. Pairs are the first law.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_theory.arrays import Array, namespace
from rlhf_theory.contexts import Contexts


@dataclass(frozen=True, eq=False)
class PairQuery:
    """The question which of two actions is better.

    Attributes
    ----------
    contexts
        ``B`` contexts per replica, the very ones that the problem gave out.
    a1, a2
        Actions, integers of shape ``(R, B)``.
    """

    contexts: Contexts
    a1: Array
    a2: Array

    def answered(self, y: Array) -> Comparisons:
        """Return the record with labels ``y``, shape ``(R, B)``: 1 where ``a1`` won."""
        return Comparisons(self, y)


@dataclass(frozen=True, eq=False)
class Comparisons:
    """A query with its labels.

    Attributes
    ----------
    query
        What was asked.
    y
        Labels in [0, 1], shape ``(R, B)``: 1 where ``a1`` won; soft labels may be fractions.
    """

    query: PairQuery
    y: Array

    @property
    def labels(self) -> Array:
        """Labels given per replica, shape ``(R,)``: a pair with ``a1 = a2`` is none."""
        xp = namespace(self.query.a1, self.y)
        compared = xp.astype(self.query.a1 != self.query.a2, self.y.dtype)
        return xp.sum(compared, axis=-1)
