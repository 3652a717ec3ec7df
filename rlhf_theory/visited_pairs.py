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
from rlhf_theory.data import PairFrame, Pairs, PairTable, check_counts
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
    frame
        The cells; as for a `PairTable`.
    cell
        Numbers of the visited cells, ascending, shape ``(R, n)``; the number of cells itself pads.
    count, wins
        Shape ``(R, n)``; padding has count 0.
    """

    frame: PairFrame
    cell: Array
    count: Array
    wins: Array

    @classmethod
    def empty(cls, table: Contexts, n_replicas: int) -> VisitedPairs:
        """Return a list without comparisons."""
        zero = full_like((n_replicas, 0), 0.0, table.like)
        index = arange_like(0, table.like)
        cell = namespace(index).broadcast_to(index[None, :], (n_replicas, 0))
        return cls(PairFrame(table), cell, zero, zero)

    @property
    def n_labels(self) -> Array:
        """Labels used per replica, shape ``(R,)``."""
        return namespace(self.count).sum(self.count, axis=-1)

    @cached_property
    def pairs(self) -> Pairs:
        """The compared actions; padding repeats the first cell."""
        xp = namespace(self.count)
        f, n_pairs = self.frame, max(self.frame.n_pairs, 1)
        cell = xp.where(self.cell < f.n_cells, self.cell, xp.zeros_like(self.cell))
        context, pair = cell // n_pairs, cell % n_pairs
        flat = xp.reshape(pair, (-1,))
        parts_phi, parts_lp = [], []
        for side in (f.first, f.second):
            index = context * f.n_actions + xp.reshape(xp.take(side, flat), pair.shape)
            parts_phi.append(take_rows(_flat(f.table.phi), index))
            parts_lp.append(take_rows(_flat(f.table.log_pi0), index))
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
        f = self.frame
        cell, valid, won = f.cells(contexts, a1, a2, y)
        if f.n_pairs == 0:
            return self
        xp = namespace(self.count, cell)
        r, n_cells = self.count.shape[0], f.n_cells
        cell = xp.where(a1 != a2, cell, n_cells * xp.ones_like(cell))
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
        n_cells = self.frame.n_cells
        full = PairTable.empty(self.frame.table, self.count.shape[0])
        return full.reweighted(
            tally(self.cell, n_cells + 1, self.count)[:, :n_cells],
            tally(self.cell, n_cells + 1, self.wins)[:, :n_cells],
        )


def _flat(values: Array) -> Array:
    """Merge the context and action axes."""
    xp = namespace(values)
    r, x, a = values.shape[:3]
    return xp.reshape(values, (r, x * a, *values.shape[3:]))
