"""Blocks of replicas: parts of a world that advance together, with their keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self, TypeVar

from rlhf_theory.randomness import Key


class _Divisible(Protocol):
    @property
    def n_replicas(self) -> int: ...

    def block(self, first: int, stop: int) -> Self: ...


W = TypeVar("W", bound=_Divisible)


def spans(replicas: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the first replica and the one after the last of every block of ``size`` replicas.

    The last block is smaller if ``size`` does not divide the number of replicas.
    """
    for first in range(0, replicas, size):
        yield first, min(first + size, replicas)


def blocks(world: W, size: int, key: Key) -> Iterator[tuple[int, W, Key]]:
    """Yield the first replica, the part of the world and the key of every block of `spans`."""
    for first, stop in spans(world.n_replicas, size):
        yield first, world.block(first, stop), key.block(first)
