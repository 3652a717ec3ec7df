"""Addressed random draws: a number is a pure function of seed, path, replica and position."""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from rlhf_theory.arrays import Array, as_like, namespace

# One 64-bit word per double. A Philox counter yields four words, and `advance` counts in counters,
# so a row starts at a whole counter only if it takes a multiple of four words.
_WORDS = 4


@dataclass(frozen=True)
class Key:
    """The address of random numbers.

    Attributes
    ----------
    seed
        Seed of the study.
    path
        Names and numbers that address one use; never drawn from twice for two purposes.
    first
        Number of the first replica: row 0 of a draw belongs to it.

    Examples
    --------
    >>> key = Key(seed=7).child("round", 3).child("labels")
    >>> all_rows = key.uniform_numpy(6, 5)
    >>> bool((key.block(4).uniform_numpy(2, 5) == all_rows[4:]).all())
    True
    """

    seed: int
    path: tuple[str | int, ...] = ()
    first: int = 0

    def child(self, *names: str | int) -> Key:
        """Return the key at ``path + names``."""
        return replace(self, path=(*self.path, *names))

    def block(self, first: int) -> Key:
        """Return this key with its rows numbered from replica ``first`` on (counted from here)."""
        return replace(self, first=self.first + first)

    def _digest(self, *extra: str | int) -> bytes:
        # Types are part of the address, so that child("1") is not child(1); NumPy's integers are.
        words = [
            f"str:{p}" if isinstance(p, str) else f"int:{operator.index(p)}"
            for p in (self.seed, *self.path, *extra)
        ]
        return hashlib.blake2b("\x1f".join(words).encode(), digest_size=16).digest()

    def seed_int(self) -> int:
        """Return a 63-bit integer for a library that has its own generator."""
        return int.from_bytes(self._digest("seed_int", self.first)[:8], "big") >> 1

    def generator(self, replica: int) -> np.random.Generator:
        """Return the generator of one replica, for samplers that reject (large counts)."""
        word = int.from_bytes(self._digest("generator", self.first + replica), "big")
        return np.random.Generator(np.random.Philox(key=word))

    def uniform_numpy(self, n_replicas: int, *shape: int) -> np.ndarray:
        """Return uniform numbers in ``[0, 1)``, shape ``(R, *shape)``, float64 on the host."""
        size = int(np.prod(shape, dtype=np.int64))
        words = -(-size // _WORDS) * _WORDS
        stream = np.random.Philox(key=int.from_bytes(self._digest(), "big"))
        if self.first:
            stream.advance(self.first * (words // _WORDS))
        # Rows are filled one after the other: this is what makes them independent of `n_replicas`.
        # Do not replace by `standard_normal`, which rejects.
        draws = np.random.Generator(stream).random((n_replicas, words))
        return draws[:, :size].reshape(n_replicas, *shape)

    def uniform(self, n_replicas: int, *shape: int, like: Array) -> Array:
        """Return uniform numbers in ``[0, 1)``, shape ``(R, *shape)``."""
        u = self.uniform_numpy(n_replicas, *shape)
        half = 0.5 * float(namespace(like).finfo(like.dtype).eps)
        if half > 2.0**-53:
            u = np.floor(u / half) * half  # rounded to nearest, single precision would reach 1
        return as_like(u, like)

    def normal(self, n_replicas: int, *shape: int, like: Array) -> Array:
        """Return standard normal numbers by inversion, shape ``(R, *shape)``."""
        return as_like(self.normal_numpy(n_replicas, *shape), like)

    def normal_numpy(self, n_replicas: int, *shape: int) -> np.ndarray:
        """Return standard normal numbers by inversion, shape ``(R, *shape)``, on the host."""
        u = self.uniform_numpy(n_replicas, *shape)
        # The draws are multiples of 2^-53 and may be 0, where the inverse is -inf.
        return np.asarray(ndtri(np.maximum(u, 2.0**-54)))


def bernoulli(prob: Array, u: Array) -> Array:
    """Return ``1.0`` where ``u < prob`` and ``0.0`` elsewhere, in the dtype of ``prob``."""
    xp = namespace(prob, u)
    return xp.astype(u < prob, prob.dtype)


def categorical(log_probs: Array, u: Array) -> Array:
    """Draw actions by inversion.

    Parameters
    ----------
    log_probs
        Log-probabilities, shape ``(R, B, A)``; ``-inf`` is never drawn.
    u
        Uniform numbers, shape ``(R, B)``.

    Returns
    -------
    Integers in ``0 .. A - 1``, shape ``(R, B)``.
    """
    xp = namespace(log_probs, u)
    cumulative = xp.cumulative_sum(xp.exp(log_probs), axis=-1)
    # Measured against the last sum, not 1, so that rounding never selects an absent action; and
    # strictly below it, in case u has been rounded to 1.
    total = cumulative[..., -1:]
    level = u[..., None] * total
    below = xp.astype((cumulative <= level) & (cumulative < total), xp.int64)
    return xp.sum(below, axis=-1)
