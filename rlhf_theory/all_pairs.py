"""All pairs of actions of a finite problem: what their rows span and how long they are.

For data that hold few of the pairs. Contexts are taken some at a time, so that memory does not
grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, reduce

from rlhf_theory.arrays import Array, full_like, namespace
from rlhf_theory.designs import LaplacianRows, pair_slots, skew_rows

# Numbers that a matrix over the pairs of some contexts may have.
_AT_A_TIME = 4_000_000


def _some_contexts(phi: Array, per_pair: int) -> Iterator[Array]:
    """Yield ``phi`` ``(R, X, A, d)`` cut along its contexts."""
    n_rows, n_contexts, a, _ = phi.shape
    size = max(1, _AT_A_TIME // max(1, n_rows * a * a * per_pair))
    for first in range(0, n_contexts, size):
        yield phi[:, first : min(first + size, n_contexts), ...]


@dataclass(frozen=True, eq=False)
class AllDifferences:
    """The rows ``phi(x, i) - phi(x, j)`` of all contexts and pairs ``i < j``.

    Attributes
    ----------
    phi
        Shape ``(R, X, A, d)`` or ``(1, X, A, d)``.
    """

    phi: Array

    @cached_property
    def possible(self) -> Array:
        """The sum of ``z z^T``, shape ``(R|1, d, d)``."""
        n_rows, _, _, d = self.phi.shape
        zero = full_like((n_rows, d, d), 0.0, self.phi)
        return sum((LaplacianRows(phi).possible for phi in _some_contexts(self.phi, 1)), zero)

    @cached_property
    def z_max(self) -> Array:
        """Largest ``|z|``, shape ``(R|1,)``; 0 with one action."""
        longest = (LaplacianRows(phi).z_max for phi in _some_contexts(self.phi, 1))
        zero = full_like((self.phi.shape[0],), 0.0, self.phi)
        return reduce(namespace(zero).maximum, longest, zero)


@dataclass(frozen=True, eq=False)
class AllSkewRows:
    """The rows of the bilinear preference of all contexts and pairs ``i < j``, see `skew_rows`.

    Attributes
    ----------
    phi
        Shape ``(R, X, A, d)`` or ``(1, X, A, d)``.
    """

    phi: Array

    @cached_property
    def possible(self) -> Array:
        """The sum of ``z z^T``, shape ``(R|1, p, p)`` with ``p = d (d + 1) / 2``."""
        xp = namespace(self.phi)
        n_rows, _, a, d = self.phi.shape
        p = d * (d + 1) // 2
        *sides, _ = pair_slots(a, self.phi)
        total = full_like((n_rows, p, p), 0.0, self.phi)
        for phi in _some_contexts(self.phi, p):
            pairs = xp.stack([xp.take(phi, side, axis=2) for side in sides], axis=3)
            rows = skew_rows(xp.reshape(pairs, (n_rows, -1, 2, d)))
            total = total + xp.matmul(xp.matrix_transpose(rows), rows)
        return 0.5 * (total + xp.matrix_transpose(total))

    @cached_property
    def z_max(self) -> Array:
        """Largest ``|z|``, shape ``(R|1,)``; 0 with one action."""
        xp = namespace(self.phi)
        longest = full_like((self.phi.shape[0],), 0.0, self.phi)
        for phi in _some_contexts(self.phi, 1):
            # |f_a g_b - g_a f_b|^2 summed over entries: Lagrange's identity, with f = (1, phi).
            inner = 1.0 + xp.matmul(phi, xp.matrix_transpose(phi))
            square = 1.0 + xp.sum(phi * phi, axis=-1)
            area = square[..., :, None] * square[..., None, :] - inner * inner
            longest = xp.maximum(longest, xp.max(area, axis=(-3, -2, -1)))
        return xp.sqrt(longest)
