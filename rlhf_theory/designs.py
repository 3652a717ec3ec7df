"""Designs: the rows ``z`` of linear models as operators, so that solvers never see their form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from rlhf_theory.arrays import Array, as_like, eye_like, full_like, inner, int_like, namespace


class Possible(Protocol):
    """What is known of every row that data could ever have, whether they are kept or not."""

    @property
    def possible(self) -> Array | None:
        """The sum of ``z z^T`` over every row that data could ever have, ``(R|1, p, p)``.

        None where contexts never repeat, so that nobody knows them.
        """
        ...

    @property
    def z_max(self) -> Array:
        """Largest ``|z_i|``, shape ``(R,)`` or ``(1,)``; 0 without rows."""
        ...


@runtime_checkable
class Design(Possible, Protocol):
    """The rows ``z`` of a linear model, as an operator; ``p`` is the number of parameters."""

    @property
    def n_params(self) -> int:
        """Number of parameters ``p``."""
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


def pair_slots(n: int, like: Array, *, diagonal: bool = False) -> tuple[Array, Array, Array]:
    """Return the first and second action of every pair ``i < j``, and the pair of ``i n + j``.

    The last has ``n^2`` entries, symmetric, 0 on the diagonal; with ``diagonal`` there are pairs
    ``i = j`` too.
    """
    i, j = np.triu_indices(n, k=0 if diagonal else 1)
    slot = np.zeros((n, n), dtype=np.int64)
    slot[i, j] = slot[j, i] = np.arange(i.size)
    return int_like(i, like), int_like(j, like), int_like(slot.ravel(), like)


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
    among
        What is known of every row that data could ever have, where these are some of them.
    """

    z: Array
    complete: bool = False
    among: Possible | None = None

    @property
    def n_params(self) -> int:
        """Number of parameters ``p``."""
        return int(self.z.shape[-1])

    @property
    def like(self) -> Array:
        """An array that tells library, device and dtype."""
        return self.z

    @cached_property
    def _half(self) -> tuple[Array, Array, Array]:
        """Upper half of a symmetric matrix as a list, and where its full entries stand in it."""
        return pair_slots(self.n_params, self.z, diagonal=True)

    @cached_property
    def _products(self) -> Array:
        """The products ``z_i z_j``, ``i <= j``, shape ``(n, p (p + 1) / 2)``; shared designs."""
        xp = namespace(self.z)
        i, j, _ = self._half
        z = self.z[0, ...]
        return xp.take(z, i, axis=1) * xp.take(z, j, axis=1)

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
    def possible(self) -> Array | None:
        """The sum of ``z z^T`` over every row that data could ever have; None where unknown."""
        if self.among is not None:
            return self.among.possible
        return self.gram(full_like((1, self.z.shape[1]), 1.0, self.z)) if self.complete else None

    @cached_property
    def z_max(self) -> Array:
        """Largest ``|z_i|`` of what data could have where known, else of the rows here."""
        xp = namespace(self.z)
        if self.among is not None:
            return self.among.z_max
        if self.z.shape[1] == 0:
            return full_like((self.z.shape[0],), 0.0, self.z)
        return xp.sqrt(xp.max(xp.sum(self.z * self.z, axis=-1), axis=-1))


@dataclass(frozen=True, eq=False)
class _Pairing:
    """Where the pairs ``i < j`` of ``A`` actions stand.

    Attributes
    ----------
    first, second
        The actions of every pair.
    sign
        1 above the diagonal, -1 below, shape ``(A, A)``.
    entry
        For every entry of an ``(A, A)`` matrix its place in the list of all pairs followed by all
        diagonal entries.
    incidence
        1 and -1 at the actions of every pair, shape ``(pairs, A)``; None where it would be large.
    """

    first: Array
    second: Array
    sign: Array
    entry: Array
    incidence: Array | None


def _pairing(n_actions: int, like: Array) -> _Pairing:
    i, j = np.triu_indices(n_actions, k=1)
    entry = np.diag(i.size + np.arange(n_actions))
    entry[i, j] = entry[j, i] = np.arange(i.size)
    sign = np.triu(np.ones((n_actions, n_actions)), 1)
    incidence = None
    if i.size * n_actions <= _MAX_INCIDENCE:
        dense = np.zeros((i.size, n_actions))
        dense[np.arange(i.size), i], dense[np.arange(i.size), j] = 1.0, -1.0
        incidence = as_like(dense, like)
    return _Pairing(
        int_like(i, like),
        int_like(j, like),
        as_like(sign - sign.T, like),
        int_like(entry.ravel(), like),
        incidence,
    )


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

    @property
    def n_params(self) -> int:
        """Number of parameters ``p``."""
        return int(self.phi.shape[-1])

    @property
    def like(self) -> Array:
        """An array that tells library, device and dtype."""
        return self.phi

    @cached_property
    def _index(self) -> _Pairing:
        return _pairing(self.phi.shape[2], self.phi)

    @cached_property
    def _items(self) -> bool:
        """Whether the actions are items of their own: one shared context, features one-hot.

        Then ``Phi`` is the identity, and the products with it would be most of the work.
        """
        n_rows, x, a, d = self.phi.shape
        if (n_rows, x, a) != (1, 1, d):
            return False
        return bool(namespace(self.phi).all(self.phi[0, 0, ...] == eye_like(d, self.phi)))

    def _per_context(self, w: Array) -> Array:
        """Return the weights of the pairs of every context, shape ``(R, X, A (A - 1) / 2)``."""
        x, a = self.phi.shape[1], self.phi.shape[2]
        return namespace(w).reshape(w, (w.shape[0], x, a * (a - 1) // 2))

    def _square(self, w: Array) -> Array:
        """Return the weights as symmetric matrices, 0 on the diagonal, ``(R, X, A, A)``."""
        xp = namespace(w)
        a = self.phi.shape[2]
        pairs = self._per_context(w)
        padded = xp.concat([pairs, full_like((*pairs.shape[:2], a), 0.0, w)], axis=-1)
        return xp.reshape(xp.take(padded, self._index.entry, axis=-1), (*pairs.shape[:2], a, a))

    def margins(self, theta: Array) -> Array:
        """Return ``<z_i, theta>``, shape ``(R, n)``."""
        xp = namespace(theta, self.phi)
        r = inner(self.phi, theta)
        n_replicas, x, a = r.shape
        index = self._index
        if index.incidence is not None:
            flat = xp.reshape(r, (n_replicas * x, a))
            diff = xp.matmul(flat, xp.matrix_transpose(index.incidence))
        else:
            diff = xp.take(r, index.first, axis=-1) - xp.take(r, index.second, axis=-1)
        return xp.reshape(diff, (n_replicas, x * (a * (a - 1) // 2)))

    def adjoint(self, w: Array) -> Array:
        """Return ``sum_i w_i z_i``, shape ``(R, p)``."""
        xp = namespace(w, self.phi)
        x, a, d = self.phi.shape[1:]
        index, pairs = self._index, self._per_context(w)
        if index.incidence is not None:
            per_action = xp.matmul(pairs, index.incidence)
        else:
            per_action = xp.sum(self._square(w) * index.sign, axis=-1)
        flat = xp.reshape(per_action, (w.shape[0], 1, x * a))
        table = xp.reshape(self.phi, (self.phi.shape[0], x * a, d))
        if table.shape[0] == 1:
            return xp.matmul(flat[:, 0, :], table[0, ...])
        return xp.matmul(flat, table)[:, 0, :]

    def _laplacian(self, w: Array) -> Array:
        """Return ``diag(W 1) - W`` of every context, shape ``(R, X, A, A)``."""
        xp = namespace(w)
        a = self.phi.shape[2]
        index, pairs = self._index, self._per_context(w)
        if index.incidence is not None:
            degree = xp.matmul(pairs, xp.abs(index.incidence))
        else:
            degree = xp.sum(self._square(w), axis=-1)
        entries = xp.take(xp.concat([-pairs, degree], axis=-1), index.entry, axis=-1)
        return xp.reshape(entries, (*pairs.shape[:2], a, a))

    def gram(self, w: Array) -> Array:
        """Return ``sum_i w_i z_i z_i^T``, shape ``(R, p, p)``."""
        xp = namespace(w, self.phi)
        x, a, d = self.phi.shape[1:]
        laplacian = self._laplacian(w)
        if self._items:
            return laplacian[:, 0, ...]
        lap = xp.matmul(laplacian, self.phi)
        lap = xp.reshape(lap, (lap.shape[0], x * a, d))
        table = xp.reshape(self.phi, (self.phi.shape[0], x * a, d))
        full = xp.matmul(xp.matrix_transpose(table), lap)
        return 0.5 * (full + xp.matrix_transpose(full))

    @cached_property
    def possible(self) -> Array:
        """The sum of ``z z^T`` over all rows, shape ``(R|1, p, p)``."""
        x, a = self.phi.shape[1], self.phi.shape[2]
        return self.gram(full_like((1, x * (a * (a - 1) // 2)), 1.0, self.phi))

    @cached_property
    def z_max(self) -> Array:
        """Largest ``|z_i|``, shape ``(R,)`` or ``(1,)``; 0 with one action."""
        return longest_difference(self.phi)


def longest_difference(phi: Array, present: Array | None = None) -> Array:
    """Return the largest ``|phi(x, i) - phi(x, j)|``, shape ``(R|1,)``.

    ``present`` says which actions count, shape ``(R|1, X, A)``; None: all.
    """
    xp = namespace(phi)
    square = xp.sum(phi * phi, axis=-1)
    gram = xp.matmul(phi, xp.matrix_transpose(phi))
    distance = square[..., :, None] + square[..., None, :] - 2.0 * gram
    if present is not None:
        both = present[..., :, None] & present[..., None, :]
        distance = xp.where(both, distance, full_like((1,), 0.0, phi))
    largest = xp.max(distance, axis=(-3, -2, -1))
    return xp.sqrt(xp.where(largest < 0, xp.zeros_like(largest), largest))


def skew_rows(phi_pair: Array) -> Array:
    r"""Return the features of the bilinear preference for pairs of actions.

    With :math:`f = (1, \varphi)` and :math:`W` skew, :math:`R(x,a,b) = f_a^\top W f_b` is linear in
    the entries :math:`W_{ij}`, ``i < j``, with features
    :math:`\psi_{ij} = f_i(a) f_j(b) - f_j(a) f_i(b)`.

    Parameters
    ----------
    phi_pair
        Features of both actions, shape ``(..., 2, d)``.

    Returns
    -------
    Array of shape ``(..., d (d + 1) / 2)``; the first ``d`` columns are ``phi_b - phi_a``.
    """
    xp = namespace(phi_pair)
    ones = full_like((*phi_pair.shape[:-1], 1), 1.0, phi_pair)
    f = xp.concat([ones, phi_pair], axis=-1)
    i, j = np.triu_indices(f.shape[-1], k=1)
    fi, fj = xp.take(f, int_like(i, f), axis=-1), xp.take(f, int_like(j, f), axis=-1)
    return fi[..., 0, :] * fj[..., 1, :] - fj[..., 0, :] * fi[..., 1, :]
