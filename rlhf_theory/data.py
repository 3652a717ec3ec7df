"""Comparisons, repeated ones counted.

Where contexts are finite a table over (context, pair) holds them, so that a round costs the same at
round 10 000 as at round 10; a list of visited pairs while most of that table would be empty; and a
growing list where contexts never repeat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self, runtime_checkable

from rlhf_theory.all_pairs import AllDifferences, AllSkewRows
from rlhf_theory.arrays import (
    Array,
    check_finite,
    expand_rows,
    full_like,
    namespace,
    one_hot,
    tally,
)
from rlhf_theory.contexts import Contexts
from rlhf_theory.designs import Design, LaplacianRows, Possible, Rows, pair_slots, skew_rows
from rlhf_theory.errors import ShapeError, check_shape
from rlhf_theory.queries import Comparisons, PairQuery

__all__ = [
    "Comparisons",
    "Contexts",
    "Design",
    "LaplacianRows",
    "PairFrame",
    "PairList",
    "PairQuery",
    "PairTable",
    "Pairs",
    "PreferenceData",
    "Rows",
    "check_counts",
    "check_labels",
    "check_present",
    "pair_slots",
    "skew_rows",
]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Features ``(R, n, 2, d)`` and ``log_pi0`` ``(R, n, 2)`` of compared actions."""

    phi: Array
    log_pi0: Array


@runtime_checkable
class PreferenceData(Protocol):
    """Comparisons, repeated ones counted."""

    @property
    def pairs(self) -> Pairs:
        """The compared actions."""
        ...

    @property
    def count(self) -> Array:
        """How often each pair was compared, shape ``(R, n)``."""
        ...

    @property
    def wins(self) -> Array:
        """How often the first action won, shape ``(R, n)``; soft labels may be fractions."""
        ...

    @property
    def n_labels(self) -> Array:
        """Labels used per replica, shape ``(R,)``; a pair with a1 = a2 is none."""
        ...

    @property
    def differences(self) -> Design:
        """The design of ``z = phi(x, a1) - phi(x, a2)``."""
        ...

    @property
    def skew(self) -> Design:
        """The design of the bilinear preference, see `skew_rows`."""
        ...

    def add(self, record: Comparisons) -> PreferenceData:
        """Return the data with comparisons added, perhaps in another form that suits more."""
        ...

    def reweighted(self, count: Array, wins: Array) -> Self:
        """Return the same pairs with other counts and wins, shape ``(R, n)``."""
        ...


def check_labels(record: Comparisons) -> None:
    """Raise ``ValueError`` unless labels lie in [0, 1] and pi0 can play the actions."""
    contexts, a1, a2, y = record.query.contexts, record.query.a1, record.query.a2, record.y
    _, b, n_actions, _ = contexts.shape
    for name, value in (("a1", a1), ("a2", a2), ("y", y)):
        check_shape(name, value, (None, b), "(R, B)")
    xp = namespace(y)
    if not bool(xp.all((y >= 0.0) & (y <= 1.0))):
        message = "Labels y must lie in [0, 1] (1 where a1 won); got values outside, or NaN."
        raise ValueError(message)
    if not bool(xp.all((a1 >= 0) & (a1 < n_actions) & (a2 >= 0) & (a2 < n_actions))):
        message = f"Actions must lie in 0 .. {n_actions - 1}; got values outside."
        raise ValueError(message)
    if not contexts.all_present:
        for name, action in (("a1", a1), ("a2", a2)):
            check_present(name, contexts.at(lambda c: c.log_pi0, action))


def check_present(name: str, log_pi0: Array) -> None:
    """Raise ``ValueError`` unless all compared actions have mass under the reference policy."""
    if not bool(namespace(log_pi0).all(log_pi0 > -math.inf)):
        message = (
            f"{name} must be actions that pi0 can play; got some with log_pi0 = -inf. Data need a "
            "reference policy with mass wherever they compare."
        )
        raise ValueError(message)


def check_counts(count: Array, wins: Array, n: int) -> None:
    """Raise ``ValueError`` unless ``0 <= wins <= count``, both of shape ``(R, n)``."""
    check_shape("count", count, (None, n), "(R, n)")
    xp = namespace(count, wins)
    if count.shape != wins.shape:
        message = (
            f"wins must have the shape {tuple(count.shape)} of count; got {tuple(wins.shape)}."
        )
        raise ShapeError(message)
    # A little slack: soft labels are sums of fractions.
    if not bool(xp.all((wins >= 0.0) & (wins <= count + 1e-9 * (1.0 + count)))):
        message = "wins must lie between 0 and count; got values outside, or NaN."
        raise ValueError(message)


class PairFrame:
    """The (context, pair ``i < j``) cells of a finite problem; computed once per problem."""

    def __init__(self, table: Contexts) -> None:
        self.table = table
        _, self.n_contexts, self.n_actions, _ = table.shape
        self.n_pairs = self.n_actions * (self.n_actions - 1) // 2
        self.n_cells = self.n_contexts * self.n_pairs
        self.first, self.second, self.slot = pair_slots(self.n_actions, table.like)

    def cells(self, record: Comparisons) -> tuple[Array, Array, Array]:
        """Return where comparisons ``(R, B)`` stand, which count, and those the first action won.

        Cell ``x A (A - 1) / 2 + pair`` for context ``x``; 1 where ``a1 != a2``, else 0; the label
        of the pair in ascending order of actions, 0 where ``a1 = a2``.
        """
        check_labels(record)
        contexts, a1, a2, y = record.query.contexts, record.query.a1, record.query.a2, record.y
        if contexts.ids is None:
            message = "This problem has finitely many contexts: contexts need ids; got None."
            raise ValueError(message)
        xp = namespace(a1, y)
        valid = xp.astype(a1 != a2, self.table.like.dtype)
        won = xp.where(a1 < a2, y, 1.0 - y) * valid
        if self.n_pairs == 0:
            return xp.zeros_like(a1), valid, won
        pair = xp.take(self.slot, xp.reshape(a1 * self.n_actions + a2, (-1,)))
        return contexts.ids * self.n_pairs + xp.reshape(pair, a1.shape), valid, won

    def _select(self, values: Array, index: Array) -> Array:
        xp = namespace(values)
        taken = xp.take(values, index, axis=2)
        return xp.reshape(taken, (taken.shape[0], self.n_contexts * self.n_pairs, *taken.shape[3:]))

    @cached_property
    def pairs(self) -> Pairs:
        """The compared actions of all cells."""
        xp = namespace(self.table.phi)
        phi, lp = self.table.phi, self.table.log_pi0
        return Pairs(
            xp.stack([self._select(phi, self.first), self._select(phi, self.second)], axis=2),
            xp.stack([self._select(lp, self.first), self._select(lp, self.second)], axis=2),
        )

    @cached_property
    def phi(self) -> Array:
        """Features with which an absent action adds no direction that data could not see."""
        phi, log_pi0 = self.table.phi, self.table.log_pi0
        if self.table.all_present:
            return phi
        # Those of the likeliest action: pairs with an absent action repeat pairs that can occur.
        xp = namespace(phi)
        likeliest = one_hot(xp.argmax(log_pi0, axis=-1), self.n_actions, phi)
        stand_in = xp.matmul(likeliest[..., None, :], phi)
        return xp.where((log_pi0 > -math.inf)[..., None], phi, stand_in)

    @cached_property
    def differences(self) -> Design:
        """The design of ``z = phi(x, a1) - phi(x, a2)``."""
        phi = self.phi
        a, d = self.n_actions, phi.shape[-1]
        # Rows are one matrix product over replicas where they are shared and small; the Laplacian
        # form wins with many actions or features, and where each replica has its own.
        if phi.shape[0] == 1 and a * d <= 8 * (a + d):
            return Rows(
                self._select(phi, self.first) - self._select(phi, self.second), complete=True
            )
        return LaplacianRows(phi)

    @cached_property
    def skew(self) -> Design:
        """The design of the bilinear preference."""
        sides = [self._select(self.phi, self.first), self._select(self.phi, self.second)]
        return Rows(skew_rows(namespace(self.phi).stack(sides, axis=2)), complete=True)

    @cached_property
    def all_differences(self) -> Possible:
        """What is known of all rows of `differences`, for data that hold few of them."""
        return AllDifferences(self.phi)

    @cached_property
    def all_skew(self) -> Possible:
        """What is known of all rows of `skew`, for data that hold few of them."""
        return AllSkewRows(self.phi)


@dataclass(frozen=True, eq=False)
class PairTable:
    """Counts over all (context, pair ``i < j``) of a finite problem.

    Row ``x A (A - 1) / 2 + pair`` compares the actions ``i < j`` of context ``x``.

    Attributes
    ----------
    frame
        What does not change with the counts.
    count, wins
        Shape ``(R, n)`` with ``n = X A (A - 1) / 2``.
    """

    frame: PairFrame
    count: Array
    wins: Array

    @classmethod
    def empty(cls, table: Contexts, n_replicas: int) -> PairTable:
        """Return the table without comparisons."""
        frame = PairFrame(table)
        zero = full_like((n_replicas, frame.n_contexts * frame.n_pairs), 0.0, table.like)
        return cls(frame, zero, zero)

    @property
    def pairs(self) -> Pairs:
        """The compared actions."""
        return self.frame.pairs

    @property
    def n_labels(self) -> Array:
        """Labels used per replica, shape ``(R,)``."""
        return namespace(self.count).sum(self.count, axis=-1)

    @property
    def differences(self) -> Design:
        """The design of ``z = phi(x, a1) - phi(x, a2)``."""
        return self.frame.differences

    @property
    def skew(self) -> Design:
        """The design of the bilinear preference."""
        return self.frame.skew

    def add(self, record: Comparisons) -> PairTable:
        """Return the data with comparisons ``(R, B)`` added."""
        f = self.frame
        index, valid, won = f.cells(record)
        if f.n_pairs == 0:
            return self
        size, r = f.n_cells, self.count.shape[0]
        return replace(
            self,
            count=self.count + tally(index, size, expand_rows(valid, r)),
            wins=self.wins + tally(index, size, expand_rows(won, r)),
        )

    def tabulated(self) -> PairTable:
        """Return the data themselves: they are a full table."""
        return self

    def reweighted(self, count: Array, wins: Array) -> PairTable:
        """Return the same pairs with other counts and wins, shape ``(R, n)``."""
        check_counts(count, wins, self.count.shape[1])
        if not self.frame.table.all_present:
            compared, lp = count[..., None] > 0.0, self.pairs.log_pi0
            check_present("pairs", namespace(lp).where(compared, lp, namespace(lp).zeros_like(lp)))
        return replace(self, count=count, wins=wins)


@dataclass(frozen=True, eq=False)
class PairList:
    """A growing list of comparisons, one row each, for contexts that never repeat.

    Attributes
    ----------
    pairs
        The compared actions.
    count, wins
        Shape ``(R, n)``; count is 0 where ``a1 = a2``.
    """

    pairs: Pairs
    count: Array
    wins: Array

    @classmethod
    def empty(cls, n_replicas: int, dim: int, like: Array) -> Self:
        """Return a list without comparisons."""
        zero = full_like((n_replicas, 0), 0.0, like)
        return cls(
            Pairs(
                full_like((n_replicas, 0, 2, dim), 0.0, like),
                full_like((n_replicas, 0, 2), 0.0, like),
            ),
            zero,
            zero,
        )

    @property
    def n_labels(self) -> Array:
        """Labels used per replica, shape ``(R,)``."""
        return namespace(self.count).sum(self.count, axis=-1)

    @cached_property
    def differences(self) -> Design:
        """The design of ``z = phi(x, a1) - phi(x, a2)``."""
        return Rows(self.pairs.phi[:, :, 0, :] - self.pairs.phi[:, :, 1, :])

    @cached_property
    def skew(self) -> Design:
        """The design of the bilinear preference."""
        return Rows(skew_rows(self.pairs.phi))

    def add(self, record: Comparisons) -> Self:
        """Return the data with comparisons ``(R, B)`` added."""
        check_labels(record)
        contexts, a1, a2, y = record.query.contexts, record.query.a1, record.query.a2, record.y
        xp = namespace(self.count, y)
        r = self.count.shape[0]
        phi = xp.stack([contexts.at(lambda c: c.phi, a1), contexts.at(lambda c: c.phi, a2)], axis=2)
        check_finite("phi of the compared actions", phi)
        lp = xp.stack(
            [contexts.at(lambda c: c.log_pi0, a1), contexts.at(lambda c: c.log_pi0, a2)], axis=2
        )
        valid = expand_rows(xp.astype(a1 != a2, self.count.dtype), r)
        return replace(
            self,
            pairs=Pairs(
                xp.concat([self.pairs.phi, expand_rows(phi, r)], axis=1),
                xp.concat([self.pairs.log_pi0, expand_rows(lp, r)], axis=1),
            ),
            count=xp.concat([self.count, valid], axis=1),
            wins=xp.concat([self.wins, expand_rows(y, r) * valid], axis=1),
        )

    def reweighted(self, count: Array, wins: Array) -> Self:
        """Return the same pairs with other counts and wins, shape ``(R, n)``."""
        check_counts(count, wins, self.count.shape[1])
        return replace(self, count=count, wins=wins)
