"""Comparisons of a finite problem with very many pairs: only those that were visited are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from rlhf_theory.arrays import (
    Array,
    arange_like,
    expand_rows,
    full_like,
    namespace,
    take_rows,
    tally,
)
from rlhf_theory.contexts import Contexts
from rlhf_theory.data import Pairs, PairTable, check_counts, check_labels, pair_slots
from rlhf_theory.designs import Design, Rows, skew_rows
from rlhf_theory.errors import check_shape

__all__ = ["VisitedPairs"]


@dataclass(frozen=True, eq=False)
class VisitedPairs:
    """A sorted list of the (context, pair) cells that some comparison visited.

    The cells are those of a `PairTable`; memory and time grow with the cells visited, not with the
    number of cells, and repeated comparisons still cost nothing.

    Attributes
    ----------
    table
        All contexts.
    cell
        Numbers of the visited cells, ascending, shape ``(R, n)``; the number of cells itself pads.
    count, wins
        Shape ``(R, n)``; padding has count 0.
    """

    table: Contexts
    cell: Array
    count: Array
    wins: Array

    @classmethod
    def empty(cls, table: Contexts, n_replicas: int) -> VisitedPairs:
        """Return a list without comparisons."""
        zero = full_like((n_replicas, 0), 0.0, table.like)
        index = arange_like(0, table.like)
        cell = namespace(index).broadcast_to(index[None, :], (n_replicas, 0))
        return cls(table, cell, zero, zero)

    @property
    def _sizes(self) -> tuple[int, int, int]:
        """Actions, pairs per context, and cells."""
        _, x, a, _ = self.table.shape
        pairs = a * (a - 1) // 2
        return a, pairs, x * pairs

    @property
    def n_labels(self) -> Array:
        """Labels used per replica, shape ``(R,)``."""
        return namespace(self.count).sum(self.count, axis=-1)

    @cached_property
    def pairs(self) -> Pairs:
        """The compared actions; padding repeats the first cell."""
        xp = namespace(self.count)
        a, n_pairs, n_cells = self._sizes
        cell = xp.where(self.cell < n_cells, self.cell, xp.zeros_like(self.cell))
        first, second, _ = pair_slots(a, self.table.like)
        context, pair = cell // max(n_pairs, 1), cell % max(n_pairs, 1)
        flat = xp.reshape(pair, (-1,))
        parts_phi, parts_lp = [], []
        for side in (first, second):
            index = context * a + xp.reshape(xp.take(side, flat), pair.shape)
            parts_phi.append(take_rows(_flat(self.table.phi), index))
            parts_lp.append(take_rows(_flat(self.table.log_pi0), index))
        return Pairs(xp.stack(parts_phi, axis=2), xp.stack(parts_lp, axis=2))

    @cached_property
    def differences(self) -> Design:
        """The design of ``z = phi(x, a1) - phi(x, a2)``."""
        return Rows(self.pairs.phi[:, :, 0, :] - self.pairs.phi[:, :, 1, :])

    @cached_property
    def skew(self) -> Design:
        """The design of the bilinear preference."""
        return Rows(skew_rows(self.pairs.phi))

    def add(self, contexts: Contexts, a1: Array, a2: Array, y: Array) -> VisitedPairs:
        """Return the data with comparisons ``(R, B)`` added; ``y = 1`` where ``a1`` won."""
        check_labels(contexts, a1, a2, y)
        if contexts.ids is None:
            message = "This problem has finitely many contexts: contexts need ids; got None."
            raise ValueError(message)
        xp = namespace(self.count, y)
        a, n_pairs, n_cells = self._sizes
        if n_pairs == 0:
            return self
        r = self.count.shape[0]
        _, _, slot = pair_slots(a, self.table.like)
        pair = xp.reshape(xp.take(slot, xp.reshape(a1 * a + a2, (-1,))), a1.shape)
        cell = xp.where(a1 != a2, contexts.ids * n_pairs + pair, n_cells * xp.ones_like(pair))
        valid = xp.astype(a1 != a2, self.count.dtype)
        won = xp.where(a1 < a2, y, 1.0 - y) * valid
        # Merge by sorting: equal neighbours share a place.
        everything = xp.concat([self.cell, expand_rows(cell, r)], axis=1)
        count = xp.concat([self.count, expand_rows(valid, r)], axis=1)
        wins = xp.concat([self.wins, expand_rows(won, r)], axis=1)
        order = xp.argsort(everything, axis=-1, stable=True)
        ranked = xp.take_along_axis(everything, order, axis=-1)
        count = xp.take_along_axis(count, order, axis=-1)
        wins = xp.take_along_axis(wins, order, axis=-1)
        fresh = xp.astype(ranked[:, 1:] != ranked[:, :-1], xp.int64)
        fresh = xp.concat([xp.ones_like(ranked[:, :1]), fresh], axis=1)
        place = xp.cumulative_sum(fresh, axis=-1) - 1
        used = xp.where(ranked < n_cells, place + 1, xp.zeros_like(place))
        size = int(xp.max(used))
        total = ranked.shape[1]
        # A double holds every cell number below 2^53 exactly.
        starts = tally(place, total, xp.astype(fresh * ranked, count.dtype))[:, :size]
        filled = arange_like(size, starts)[None, :] < xp.max(used, axis=-1, keepdims=True)
        number = xp.astype(starts, xp.int64)
        return replace(
            self,
            cell=xp.where(filled, number, n_cells * xp.ones_like(number)),
            count=xp.where(filled, tally(place, total, count)[:, :size], xp.zeros_like(starts)),
            wins=xp.where(filled, tally(place, total, wins)[:, :size], xp.zeros_like(starts)),
        )

    def reweighted(self, count: Array, wins: Array) -> VisitedPairs:
        """Return the same pairs with other counts and wins, shape ``(R, n)``."""
        check_shape("count", count, (None, self.count.shape[1]), "(R, n)")
        check_counts(count, wins)
        return replace(self, count=count, wins=wins)

    def tabulated(self) -> PairTable:
        """Return the same comparisons as a full table."""
        _, _, n_cells = self._sizes
        full = PairTable.empty(self.table, self.count.shape[0])
        return full.reweighted(
            tally(self.cell, n_cells + 1, self.count)[:, :n_cells],
            tally(self.cell, n_cells + 1, self.wins)[:, :n_cells],
        )


def _flat(values: Array) -> Array:
    """Merge the context and action axes."""
    xp = namespace(values)
    r, x, a = values.shape[:3]
    return xp.reshape(values, (r, x * a, *values.shape[3:]))
