"""Contexts as a learner sees them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from rlhf_theory.arrays import Array, block_rows, int_like, namespace, take_rows
from rlhf_theory.errors import ShapeError, check_shape


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
    whole
        Whether these are all contexts of a finite problem in order, ``ids = 0 .. X - 1``.
    """

    def __init__(
        self,
        phi: Array,
        log_pi0: Array,
        ids: Array | None = None,
        source: Any = None,
        *,
        whole: bool = False,
    ) -> None:
        check_shape("phi", phi, (None, None, None, None), "(R, B, A, d)")
        r, b, a, _ = phi.shape
        check_shape("log_pi0", log_pi0, (None, b, a), "(R, B, A)")
        if len({r, log_pi0.shape[0]} - {1}) > 1:
            message = f"phi and log_pi0 disagree on R: got {r} and {log_pi0.shape[0]}."
            raise ShapeError(message)
        self._phi, self._log_pi0 = phi, log_pi0
        self.ids, self.source, self.whole = ids, source, whole
        self.table: Contexts | None = None

    @classmethod
    def rows(cls, table: Contexts, ids: Array) -> Contexts:
        """Return the contexts ``ids`` ``(R, B)`` of a table; features are gathered lazily."""
        new = cls.__new__(cls)
        new._phi = new._log_pi0 = None  # noqa: SLF001  (a second constructor)
        new.ids, new.source, new.table, new.whole = ids, table.source, table, False
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

    @cached_property
    def all_present(self) -> bool:
        """Whether pi0 plays every action, in every context of the table where there is one."""
        if self.table is not None:
            return self.table.all_present
        xp = namespace(self.log_pi0)
        return bool(xp.all(self.log_pi0 > -math.inf))

    def lookup(self, f: Callable[[Contexts], Array]) -> Array:
        """Return ``f(self)`` of shape ``(R, B, ...)``; computed once per row of a finite table."""
        if self.table is None:
            return f(self)
        return take_rows(f(self.table), self.ids)

    def from_table(self, values: Array) -> Array:
        """Return the rows of ``values`` ``(R, X, ...)``, given for all contexts, of these contexts.

        ``ValueError`` for contexts that have no ids: they belong to no table.
        """
        if self.ids is None:
            message = "Values in a table need contexts with ids; these have none."
            raise ValueError(message)
        return values if self.whole else take_rows(values, self.ids)

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
        ids = None if self.ids is None else block_rows(self.ids, first, stop)
        if self.table is not None and ids is not None:
            return Contexts.rows(self.table.block(first, stop), ids)
        phi, log_pi0 = block_rows(self.phi, first, stop), block_rows(self.log_pi0, first, stop)
        return Contexts(phi, log_pi0, ids, self.source, whole=self.whole)
