"""Few comparisons of a finite problem with many pairs: only those that were visited are kept."""

from __future__ import annotations

import math
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
from rlhf_theory.queries import Comparisons


@dataclass(frozen=True, eq=False)
class VisitedPairs:
    """A sorted list of the (context, pair) cells that some comparison visited.

    The cells are those of a `PairTable`; memory and time grow with the cells visited, not with the
    number of cells, and repeated comparisons still cost nothing. Directions that no cell sees, and
    the length of the longest row, are those of all cells: what is said of a fit depends on the
    problem and its data, not on the form of the data.

    Attributes
    ----------
    frame
        The cells; as for a `PairTable`.
    cell
        Numbers of the visited cells, ascending, shape ``(R, n)``; the number of cells itself pads.
    count, wins
        Shape ``(R, n)``; padding has count 0.
    room
        Comparisons per replica that may still be asked for before a table takes over. They are
        counted as asked, also those of pairs seen before and of equal actions: a number that all
        replicas share. Were it the cells visited, a replica's results would depend on its block.
    """

    frame: PairFrame
    cell: Array
    count: Array
    wins: Array
    room: float = math.inf

    @classmethod
    def empty(cls, table: Contexts, n_replicas: int, room: float = math.inf) -> VisitedPairs:
        """Return a list without comparisons; see `VisitedPairs` for ``room``."""
        zero = full_like((n_replicas, 0), 0.0, table.like)
        index = arange_like(0, table.like)
        cell = namespace(index).broadcast_to(index[None, :], (n_replicas, 0))
        return cls(PairFrame(table), cell, zero, zero, room)

    @property
    def n_labels(self) -> Array:
        """Labels used per replica, shape ``(R,)``."""
        return namespace(self.count).sum(self.count, axis=-1)

    @cached_property
    def pairs(self) -> Pairs:
        """The compared actions; padding repeats the first cell."""
        xp, table = namespace(self.count), self.frame.table
        return Pairs(
            xp.stack([take_rows(_flat(table.phi), side) for side in self._actions], axis=2),
            xp.stack([take_rows(_flat(table.log_pi0), side) for side in self._actions], axis=2),
        )

    @cached_property
    def _actions(self) -> tuple[Array, Array]:
        """Both compared actions of every cell, numbered through the contexts, ``(R, n)`` each."""
        xp = namespace(self.cell)
        f, n_pairs = self.frame, max(self.frame.n_pairs, 1)
        cell = xp.where(self.cell < f.n_cells, self.cell, xp.zeros_like(self.cell))
        context, pair = cell // n_pairs, cell % n_pairs
        flat = xp.reshape(pair, (-1,))
        first, second = (xp.reshape(xp.take(s, flat), pair.shape) for s in (f.first, f.second))
        return context * f.n_actions + first, context * f.n_actions + second

    @cached_property
    def differences(self) -> Design:
        """The design of ``z = phi(x, a1) - phi(x, a2)``."""
        first, second = (take_rows(_flat(self.frame.table.phi), side) for side in self._actions)
        return Rows(first - second, among=self.frame.all_differences)

    @cached_property
    def skew(self) -> Design:
        """The design of the bilinear preference."""
        return Rows(skew_rows(self.pairs.phi), among=self.frame.all_skew)

    def add(self, record: Comparisons) -> VisitedPairs | PairTable:
        """Return the data with comparisons ``(R, B)`` added.

        A table from the comparison on that leaves no ``room``.
        """
        f, a1, a2 = self.frame, record.query.a1, record.query.a2
        room = self.room - a1.shape[1]
        if room <= 0:
            return self.tabulated().add(record)
        cell, valid, won = f.cells(record)
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
            room=room,
        )

    def reweighted(self, count: Array, wins: Array) -> VisitedPairs:
        """Return the same pairs with other counts and wins, shape ``(R, n)``."""
        check_counts(count, wins, self.count.shape[1])
        return replace(self, count=count, wins=wins)

    def tabulated(self) -> PairTable:
        """Return the same comparisons as a full table."""
        n_cells = self.frame.n_cells
        count, wins = (
            tally(self.cell, n_cells + 1, v)[:, :n_cells] for v in (self.count, self.wins)
        )
        return PairTable(self.frame, count, wins)


def _flat(values: Array) -> Array:
    """Merge the context and action axes."""
    xp = namespace(values)
    r, x, a = values.shape[:3]
    return xp.reshape(values, (r, x * a, *values.shape[3:]))
