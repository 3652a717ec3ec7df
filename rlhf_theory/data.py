"""Contexts, comparisons and the designs (linear operators) that they define.

Data are counted pairs. Where contexts are finite a table over (context, pair) holds them, so that a
round costs the same at round 10 000 as at round 10; elsewhere a list grows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from rlhf_theory.arrays import (
    Array,
    as_like,
    expand_rows,
    full_like,
    inner,
    int_like,
    namespace,
    take_rows,
    tally,
)
from rlhf_theory.errors import ShapeError, check_shape

__all__ = [
    "Contexts",
    "Design",
    "LaplacianRows",
    "PairList",
    "PairTable",
    "Pairs",
    "PreferenceData",
    "Rows",
    "skew_rows",
]


# --------------------------------------------------------------------------- contexts


class Contexts:
    """Contexts as a learner sees them: features and reference policy of every action.

    Parameters
    ----------
    phi
        Features, shape ``(R, B, A, d)``; ``(1, B, A, d)`` where all replicas share them.
    log_pi0
        Log-probabilities of the reference policy, shape ``(R, B, A)`` or ``(1, B, A)``; ``-inf``
        marks an absent action, whose features must be finite.
    ids
        Integers that tell repeated contexts, shape ``(R, B)``; None where contexts never repeat.
    source
        Anything that an oracle or policy of the bridge needs back; the theory never looks at it.
    """

    def __init__(
        self, phi: Array, log_pi0: Array, ids: Array | None = None, source: Any = None
    ) -> None:
        check_shape("phi", phi, (None, None, None, None), "(R, B, A, d)")
        r, b, a, _ = phi.shape
        check_shape("log_pi0", log_pi0, (None, b, a), "(R, B, A)")
        if len({r, log_pi0.shape[0]} - {1}) > 1:
            message = f"phi and log_pi0 disagree on R: got {r} and {log_pi0.shape[0]}."
            raise ShapeError(message)
        self._phi, self._log_pi0 = phi, log_pi0
        self.ids, self.source = ids, source
        self.table: Contexts | None = None

    @classmethod
    def rows(cls, table: Contexts, ids: Array) -> Contexts:
        """Return the contexts ``ids`` ``(R, B)`` of a finite table; features are gathered lazily."""
        new = cls.__new__(cls)
        new._phi = new._log_pi0 = None
        new.ids, new.source, new.table = ids, table.source, table
        return new

    @property
    def phi(self) -> Array:
        """Features, shape ``(R, B, A, d)``."""
        if self._phi is None:
            self._phi = take_rows(self._the_table.phi, self.ids)
        return self._phi

    @property
    def log_pi0(self) -> Array:
        """Log-probabilities of the reference policy, shape ``(R, B, A)``."""
        if self._log_pi0 is None:
            self._log_pi0 = take_rows(self._the_table.log_pi0, self.ids)
        return self._log_pi0

    @property
    def _the_table(self) -> Contexts:
        if self.table is None:
            message = "These contexts have neither features nor a table."
            raise ShapeError(message)
        return self.table

    @property
    def like(self) -> Array:
        """An array that tells library, device and dtype; never gathers."""
        return self._phi if self._phi is not None else self._the_table.like

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(R, B, A, d)``; ``R`` is 1 where everything is shared."""
        if self.table is not None and self.ids is not None:
            _, _, a, d = self.table.shape
            r = max(self.ids.shape[0], self.table.shape[0])
            return (r, self.ids.shape[1], a, d)
        r, b, a, d = self._phi.shape
        return (max(r, self._log_pi0.shape[0]), b, a, d)

    def lookup(self, f: Callable[[Contexts], Array]) -> Array:
        """Return ``f(self)`` of shape ``(R, B, ...)``; computed once per row of a finite table."""
        if self.table is None:
            return f(self)
        return take_rows(f(self.table), self.ids)

    def at(self, f: Callable[[Contexts], Array], actions: Array) -> Array:
        """Return ``f(self)[r, b, actions[r, b]]`` for ``f`` of shape ``(R, B, A, ...)``."""
        table = self if self.table is None else self.table
        values = f(table)
        xp = namespace(values, actions)
        x, a = values.shape[1], values.shape[2]
        flat = xp.reshape(values, (values.shape[0], x * a, *values.shape[3:]))
        ids = self.ids
        if self.table is None or ids is None:
            ids = int_like(np.arange(x)[None, :], actions)
        return take_rows(flat, ids * a + actions)

    def block(self, first: int, stop: int) -> Contexts:
        """Return replicas ``first .. stop - 1``; what is shared stays shared."""
        return Contexts(
            _rows_of(self.phi, first, stop),
            _rows_of(self.log_pi0, first, stop),
            None if self.ids is None else _rows_of(self.ids, first, stop),
            self.source,
        )


def _rows_of(x: Array, first: int, stop: int) -> Array:
    return x if x.shape[0] == 1 else x[first:stop, ...]


# --------------------------------------------------------------------------- designs


@runtime_checkable
class Design(Protocol):
    """The rows ``z`` of a linear model, as an operator; ``p`` is the number of parameters."""

    @property
    def n_params(self) -> int:
        """Number of parameters ``p``."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every row that data could ever have is in the design (finite tables)."""
        ...

    @property
    def like(self) -> Array:
        """An array that tells library, device and dtype."""
        ...

    def margins(self, theta: Array) -> Array:
        """Return ``<z_i, theta>``, shape ``(R, n)``, for ``theta`` ``(R, p)``."""
        ...

    def adjoint(self, w: Array) -> Array:
        """Return ``sum_i w_i z_i``, shape ``(R, p)``, for ``w`` ``(R, n)``."""
        ...

    def gram(self, w: Array) -> Array:
        """Return ``sum_i w_i z_i z_i^T``, shape ``(R, p, p)``, for ``w`` ``(R, n)``."""
        ...

    @property
    def z_max(self) -> Array:
        """Largest ``|z_i|``, shape ``(R,)`` or ``(1,)``; 0 without rows."""
        ...


# Above this many numbers the products z z^T are not kept, nor the incidence matrix of pairs.
_MAX_PRODUCTS = 20_000_000
_MAX_INCIDENCE = 20_000


@dataclass(frozen=True, eq=False)
class Rows:
    """A design that holds its rows.

    Attributes
    ----------
    z
        Shape ``(R, n, p)``, or ``(1, n, p)`` where all replicas share it.
    complete
        Whether every row that data could ever have is here.
    """

    z: Array
    complete: bool = False

    @property
    def n_params(self) -> int:
        """Number of parameters ``p``."""
        return int(self.z.shape[-1])

    @property
    def like(self) -> Array:
        """An array that tells library, device and dtype."""
        return self.z

    @cached_property
    def _half(self) -> tuple[np.ndarray, np.ndarray, Array]:
        """Upper half of a symmetric matrix as a list, and where its full entries stand in it."""
        p = self.n_params
        i, j = np.triu_indices(p)
        where = np.zeros((p, p), dtype=np.int64)
        where[i, j] = where[j, i] = np.arange(i.size)
        return i, j, int_like(where.ravel(), self.z)

    @cached_property
    def _products(self) -> Array:
        """The products ``z_i z_j``, ``i <= j``, shape ``(n, p (p + 1) / 2)``; shared designs."""
        xp = namespace(self.z)
        i, j, _ = self._half
        z = self.z[0, ...]
        return xp.take(z, int_like(i, z), axis=1) * xp.take(z, int_like(j, z), axis=1)

    def margins(self, theta: Array) -> Array:
        """Return ``<z_i, theta>``, shape ``(R, n)``."""
        return inner(self.z, theta)

    def adjoint(self, w: Array) -> Array:
        """Return ``sum_i w_i z_i``, shape ``(R, p)``."""
        xp = namespace(w, self.z)
        if self.z.shape[0] == 1:
            return xp.matmul(w, self.z[0, ...])
        return xp.matmul(w[:, None, :], self.z)[:, 0, :]

    def gram(self, w: Array) -> Array:
        """Return ``sum_i w_i z_i z_i^T``, shape ``(R, p, p)``."""
        xp = namespace(w, self.z)
        n, p = self.z.shape[1], self.n_params
        if self.z.shape[0] == 1 and n * p * (p + 1) // 2 <= _MAX_PRODUCTS:
            half = xp.matmul(w, self._products)
            return xp.reshape(xp.take(half, self._half[2], axis=1), (w.shape[0], p, p))
        zt = xp.matrix_transpose(self.z)
        full = xp.matmul(zt * w[:, None, :], self.z)
        return 0.5 * (full + xp.matrix_transpose(full))

    @cached_property
    def z_max(self) -> Array:
        """Largest ``|z_i|``, shape ``(R,)`` or ``(1,)``; 0 without rows."""
        xp = namespace(self.z)
        if self.z.shape[1] == 0:
            return full_like((self.z.shape[0],), 0.0, self.z)
        return xp.sqrt(xp.max(xp.sum(self.z * self.z, axis=-1), axis=-1))


@dataclass(frozen=True, eq=False)
class LaplacianRows:
    """Differences ``phi(x, i) - phi(x, j)`` of all pairs ``i < j``, never formed.

    With ``W`` the symmetric matrix of the weights of one context, ``sum w z z^T`` is
    ``Phi^T (diag(W 1) - W) Phi``: cheaper than the rows with many actions or many features.

    Attributes
    ----------
    phi
        Shape ``(R, X, A, d)`` or ``(1, X, A, d)``.
    """

    phi: Array
    complete: bool = True

    @property
    def n_params(self) -> int:
        """Number of parameters ``p``."""
        return int(self.phi.shape[-1])

    @property
    def like(self) -> Array:
        """An array that tells library, device and dtype."""
        return self.phi

    @cached_property
    def _index(self) -> tuple[Array, Array, Array, Array, Array | None]:
        a = self.phi.shape[2]
        i, j = np.triu_indices(a, k=1)
        # Where a pair stands in the list, and its sign; the diagonal takes any pair with sign 0.
        slot, sign = np.zeros((a, a), dtype=np.int64), np.zeros((a, a))
        slot[i, j] = slot[j, i] = np.arange(i.size)
        sign[i, j], sign[j, i] = 1.0, -1.0
        like = self.phi
        incidence = None
        if i.size * a <= _MAX_INCIDENCE:
            dense = np.zeros((i.size, a))
            dense[np.arange(i.size), i], dense[np.arange(i.size), j] = 1.0, -1.0
            incidence = as_like(dense, like)
        return (
            int_like(i, like),
            int_like(j, like),
            int_like(slot.ravel(), like),
            as_like(sign, like),
            incidence,
        )

    def _square(self, w: Array) -> Array:
        """Return the weights as matrices, any value on the diagonal, shape ``(R, X, A, A)``."""
        xp = namespace(w)
        x, a = self.phi.shape[1], self.phi.shape[2]
        slot = self._index[2]
        if a == 1:
            return full_like((w.shape[0], x, 1, 1), 0.0, w)
        per_context = xp.reshape(w, (w.shape[0], x, a * (a - 1) // 2))
        return xp.reshape(xp.take(per_context, slot, axis=-1), (w.shape[0], x, a, a))

    def margins(self, theta: Array) -> Array:
        """Return ``<z_i, theta>``, shape ``(R, n)``."""
        xp = namespace(theta, self.phi)
        i, j, _, _, incidence = self._index
        r = inner(self.phi, theta)
        n_replicas, x, a = r.shape
        if incidence is not None:
            flat = xp.reshape(r, (n_replicas * x, a))
            diff = xp.matmul(flat, xp.matrix_transpose(incidence))
        else:
            diff = xp.take(r, i, axis=-1) - xp.take(r, j, axis=-1)
        return xp.reshape(diff, (n_replicas, x * (a * (a - 1) // 2)))

    def adjoint(self, w: Array) -> Array:
        """Return ``sum_i w_i z_i``, shape ``(R, p)``."""
        xp = namespace(w, self.phi)
        x, a, d = self.phi.shape[1:]
        _, _, _, sign, incidence = self._index
        if incidence is not None:
            per_action = xp.matmul(xp.reshape(w, (w.shape[0] * x, a * (a - 1) // 2)), incidence)
        else:
            per_action = xp.sum(self._square(w) * sign, axis=-1)
        flat = xp.reshape(per_action, (w.shape[0], 1, x * a))
        table = xp.reshape(self.phi, (self.phi.shape[0], x * a, d))
        if table.shape[0] == 1:
            return xp.matmul(flat[:, 0, :], table[0, ...])
        return xp.matmul(flat, table)[:, 0, :]

    def gram(self, w: Array) -> Array:
        """Return ``sum_i w_i z_i z_i^T``, shape ``(R, p, p)``."""
        xp = namespace(w, self.phi)
        x, a, d = self.phi.shape[1:]
        square = self._square(w) * xp.abs(self._index[3])
        degree = xp.sum(square, axis=-1)
        lap = degree[..., None] * self.phi - xp.matmul(square, self.phi)
        table = xp.reshape(self.phi, (self.phi.shape[0], x * a, d))
        full = xp.matmul(xp.matrix_transpose(table), xp.reshape(lap, (lap.shape[0], x * a, d)))
        return 0.5 * (full + xp.matrix_transpose(full))

    @cached_property
    def z_max(self) -> Array:
        """Largest ``|z_i|``, shape ``(R,)`` or ``(1,)``; 0 with one action."""
        xp = namespace(self.phi)
        gram = xp.matmul(self.phi, xp.matrix_transpose(self.phi))
        square = xp.sum(self.phi * self.phi, axis=-1)
        distance = square[..., :, None] + square[..., None, :] - 2.0 * gram
        largest = xp.max(distance, axis=(-3, -2, -1))
        return xp.sqrt(xp.where(largest > 0, largest, xp.zeros_like(largest)))


def skew_rows(phi_pair: Array) -> Array:
    r"""Return the features of the bilinear preference for pairs of actions.

    With :math:`f = (1, \varphi)` and :math:`W` skew, :math:`R(x,a,b) = f_a^\top W f_b` is linear in
    the entries :math:`W_{ij}`, ``i < j``, with features
    :math:`\psi_{ij} = f_i(a) f_j(b) - f_j(a) f_i(b)`.

    Parameters
    ----------
    phi_pair
        Features of both actions, shape ``(R, n, 2, d)``.

    Returns
    -------
    Array of shape ``(R, n, d (d + 1) / 2)``; the first ``d`` columns are ``phi_b - phi_a``.
    """
    xp = namespace(phi_pair)
    ones = full_like((*phi_pair.shape[:-1], 1), 1.0, phi_pair)
    f = xp.concat([ones, phi_pair], axis=-1)
    i, j = np.triu_indices(f.shape[-1], k=1)
    fi, fj = xp.take(f, int_like(i, f), axis=-1), xp.take(f, int_like(j, f), axis=-1)
    return fi[:, :, 0, :] * fj[:, :, 1, :] - fj[:, :, 0, :] * fi[:, :, 1, :]


# --------------------------------------------------------------------------- comparisons


@dataclass(frozen=True, eq=False)
class Pairs:
    """Features ``(R, n, 2, d)`` and reference log-probabilities ``(R, n, 2)`` of compared actions."""

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

    def add(self, contexts: Contexts, a1: Array, a2: Array, y: Array) -> Self:
        """Return the data with comparisons ``(R, B)`` added; ``y = 1`` where ``a1`` won."""
        ...

    def reweighted(self, count: Array, wins: Array) -> Self:
        """Return the same pairs with other counts and wins, shape ``(R, n)``."""
        ...


def _check_labels(contexts: Contexts, a1: Array, a2: Array, y: Array) -> None:
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


def _check_counts(count: Array, wins: Array) -> None:
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


class _Frame:
    """What does not change with the counts of a `PairTable`; computed once per problem."""

    def __init__(self, table: Contexts) -> None:
        self.table = table
        _, self.n_contexts, self.n_actions, _ = table.shape
        a = self.n_actions
        i, j = np.triu_indices(a, k=1)
        slot = np.zeros((a, a), dtype=np.int64)
        slot[i, j] = slot[j, i] = np.arange(i.size)
        like = table.like
        self.n_pairs = int(i.size)
        self.first, self.second = int_like(i, like), int_like(j, like)
        self.slot = int_like(slot.ravel(), like)

    def _select(self, values: Array, index: Array) -> Array:
        xp = namespace(values)
        taken = xp.take(values, index, axis=2)
        return xp.reshape(taken, (taken.shape[0], self.n_contexts * self.n_pairs, *taken.shape[3:]))

    @cached_property
    def pairs(self) -> Pairs:
        xp = namespace(self.table.phi)
        phi, lp = self.table.phi, self.table.log_pi0
        return Pairs(
            xp.stack([self._select(phi, self.first), self._select(phi, self.second)], axis=2),
            xp.stack([self._select(lp, self.first), self._select(lp, self.second)], axis=2),
        )

    @cached_property
    def differences(self) -> Design:
        phi = self.table.phi
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
        return Rows(skew_rows(self.pairs.phi), complete=True)


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

    frame: _Frame
    count: Array
    wins: Array

    @classmethod
    def empty(cls, table: Contexts, n_replicas: int) -> PairTable:
        """Return the table without comparisons."""
        frame = _Frame(table)
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

    def add(self, contexts: Contexts, a1: Array, a2: Array, y: Array) -> PairTable:
        """Return the data with comparisons ``(R, B)`` added; ``y = 1`` where ``a1`` won."""
        _check_labels(contexts, a1, a2, y)
        if contexts.ids is None:
            message = "This problem has finitely many contexts: contexts need ids; got None."
            raise ValueError(message)
        xp = namespace(self.count, y)
        f = self.frame
        if f.n_pairs == 0:
            return self
        slot = xp.reshape(xp.take(f.slot, xp.reshape(a1 * f.n_actions + a2, (-1,))), a1.shape)
        index = contexts.ids * f.n_pairs + slot
        valid = xp.astype(a1 != a2, self.count.dtype)
        won = xp.where(a1 < a2, y, 1.0 - y) * valid
        size = f.n_contexts * f.n_pairs
        r = self.count.shape[0]
        return replace(
            self,
            count=self.count + tally(index, size, expand_rows(valid, r)),
            wins=self.wins + tally(index, size, expand_rows(won, r)),
        )

    def reweighted(self, count: Array, wins: Array) -> PairTable:
        """Return the same pairs with other counts and wins, shape ``(R, n)``."""
        check_shape("count", count, (None, self.count.shape[1]), "(R, n)")
        _check_counts(count, wins)
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
    def empty(cls, n_replicas: int, dim: int, like: Array) -> PairList:
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

    def add(self, contexts: Contexts, a1: Array, a2: Array, y: Array) -> PairList:
        """Return the data with comparisons ``(R, B)`` added; ``y = 1`` where ``a1`` won."""
        _check_labels(contexts, a1, a2, y)
        xp = namespace(self.count, y)
        r = self.count.shape[0]
        phi = xp.stack([contexts.at(lambda c: c.phi, a1), contexts.at(lambda c: c.phi, a2)], axis=2)
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

    def reweighted(self, count: Array, wins: Array) -> PairList:
        """Return the same pairs with other counts and wins, shape ``(R, n)``."""
        check_shape("count", count, (None, self.count.shape[1]), "(R, n)")
        _check_counts(count, wins)
        return replace(self, count=count, wins=wins)
