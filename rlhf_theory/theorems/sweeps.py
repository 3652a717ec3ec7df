"""From the sweep of a study to its worlds, its blocks of replicas and its nested data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlhf_theory import worlds
from rlhf_theory.data import PreferenceData
from rlhf_theory.experiments.blocks import blocks
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Sweep
from rlhf_theory.worlds.bandit import Bandit


def linear_world(sweep: Sweep, replicas: int | None = None, **more: object) -> Bandit:
    """Return the linear world of a sweep, with its replicas unless another number is given.

    The sweep has ``contexts, actions, dim`` and the seed of the ``instance``; ``more`` are other
    settings of ``worlds.linear``, which go before these.
    """
    settings: Sweep = {
        **{name: sweep[name] for name in ("contexts", "actions", "dim")},
        "seed": sweep["instance"],
        "replicas": sweep["replicas"] if replicas is None else replicas,
        **more,
    }
    return worlds.linear(**settings)


def replica_blocks(sweep: Sweep, world: Bandit, key: Key) -> Iterator[tuple[int, Bandit, Key]]:
    """Yield the first replica, part of the world and key of the blocks that a sweep asks for."""
    return blocks(world, sweep["block"], key)


def nested_data(
    world: Bandit, sizes: Sequence[int], key: Key
) -> Iterator[tuple[int, PreferenceData]]:
    """Yield increasing numbers of pairs, and that many of them: each with the ones before."""
    data: PreferenceData = world.problem.empty_data()
    drawn = 0
    for n in sizes:
        data = world.offline_data(key.child("pairs", n), n - drawn, onto=data)
        drawn = n
        yield n, data
