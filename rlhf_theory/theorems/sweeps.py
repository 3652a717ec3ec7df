"""From the sweep of a study to its parts, its worlds, its blocks of replicas and nested data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rlhf_theory import worlds
from rlhf_theory.data import PreferenceData
from rlhf_theory.experiments.blocks import spans
from rlhf_theory.randomness import Key
from rlhf_theory.theorems.card import Part, Sweep
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


def replica_parts(
    sweep: Sweep, cells: Iterable[Sweep] = ({},), replicas: int | None = None
) -> list[Part]:
    """Return a part for every block of replicas of every cell, the blocks of a cell in a row.

    Parameters
    ----------
    sweep
        Has ``block``, the replicas of a part, and ``replicas``.
    cells
        Settings of the cells, plain JSON data; one without any, unless given.
    replicas
        Another number of replicas.
    """
    total = sweep["replicas"] if replicas is None else replicas
    return [
        Part({**cell, "first": first, "stop": stop})
        for cell in cells
        for first, stop in spans(total, sweep["block"])
    ]


def block_of(part: Part, world: Bandit, key: Key) -> tuple[int, Bandit, Key]:
    """Return the first replica of a part, and its replicas of the world, with their key."""
    first = part.settings["first"]
    return first, world.block(first, part.settings["stop"]), key.block(first)


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
