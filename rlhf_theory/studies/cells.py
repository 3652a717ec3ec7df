"""The cells of a study: one learner in one world, with all that its numbers depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeGuard

from rlhf_theory.store import canonical

KEY_FORMAT = 3
"""Version of what is hashed into a key; a new one makes all stored results strangers."""

CODE = ("version", "code")
"""What a spec says of the code of a thing: its ``VERSION``, and a hash where it is not ours."""

MARKS = (*CODE, "content")
"""What a spec says of a thing beside kind and settings: `CODE`, and hashes of files and models."""


def by_content(spec: Mapping[str, Any]) -> dict[str, object]:
    """Return a spec with hashes for what settings name by place, and without places for files."""
    content = spec.get("content", {})
    return {k: content.get(k, v) for k, v in spec.items() if not content or k not in _PLACES}


_PLACES = ("content", "folder")


def is_spec(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether plain data are a resolved spec, and no table among the settings of one."""
    return isinstance(value, Mapping) and {"kind", "version"} <= value.keys()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One learner in one world.

    Attributes
    ----------
    world, learner
        Resolved specs: plain data with ``kind``, `MARKS` and every setting.
    world_label, learner_label, family
        Names for people; the family groups worlds in scores.
    metric
        The primary metric, whose sum over rounds is the regret.
    offline_pairs
        Pairs before the first round of an online learner.
    coverage
        Dial ``k`` of the law of offline pairs, ``(1 - k) pi0 + k pi*``.
    rounds
        Rounds ``T`` of an online learner, else None.
    pairs
        Numbers of pairs of an offline learner, increasing, else None.
    seed
        Seed of data and learner.
    replicas
        Number of replicas.
    block
        Replicas that advance together.
    at_once
        Blocks of worlds of this kind that may run at the same time; None for any number.
    metrics
        What is recorded, where the cell has it, beside the primary metric; None for everything.
    grid, points
        Which rounds are recorded: ``"log"`` (points per decade), ``"linear"`` (every ``points``-th
        round) or ``"all"`` (``points`` is None).
    """

    world: Mapping[str, object]
    learner: Mapping[str, object]
    world_label: str
    learner_label: str
    family: str
    metric: str | None
    offline_pairs: int = 0
    coverage: float = 0.0
    rounds: int | None = None
    pairs: tuple[int, ...] | None = None
    seed: int = 0
    replicas: int
    block: int
    at_once: int | None = None
    metrics: tuple[str, ...] | None = None
    grid: str = "log"
    points: int | None = 20

    def __post_init__(self) -> None:
        if (self.rounds is None) == (self.pairs is None):
            message = (
                "A cell has rounds (online) or pairs (offline), one of the two; got "
                f"rounds={self.rounds}, pairs={self.pairs}."
            )
            raise ValueError(message)

    @cached_property
    def key(self) -> str:
        """Twenty hexadecimal digits that tell results apart.

        They depend on all that the numbers depend on; not on replicas and rounds, which can be
        added later, nor on labels.
        """
        return hashlib.sha256(canonical(self.identity).encode()).hexdigest()[:20]

    @property
    def identity(self) -> dict[str, object]:
        """What the key is a hash of."""
        content: dict[str, object] = {
            "format": KEY_FORMAT,
            "world": by_content(self.world),
            "learner": self.learner,
            "offline_pairs": self.offline_pairs,
            "coverage": self.coverage,
            "seed": self.seed,
            "block": self.block,
            # The order of the columns says nothing, nor does a name that is given twice.
            "metrics": None if self.metrics is None else sorted(set(self.metrics)),
            "grid": self.grid,
            "points": self.points,
        }
        if self.pairs is not None:
            content["pairs"] = list(self.pairs)
        return content

    @property
    def online(self) -> bool:
        """Whether the learner plays rounds."""
        return self.rounds is not None

    @property
    def threads(self) -> int:
        """Threads of a block; part of its key, as numbers of language models depend on them."""
        return int(self.world.get("threads", 1))  # type: ignore[call-overload, no-any-return]

    def blocks(self) -> list[tuple[int, int]]:
        """Return first and stop of every block of replicas; the last may be smaller."""
        return [
            (first, min(first + self.block, self.replicas))
            for first in range(0, self.replicas, self.block)
        ]

    def settings(self) -> dict[str, object]:
        """Return what the cell was made from as one flat table, for people and for figures.

        Names are ``world.dim``, ``learner.enhancer.kind``, ``seed`` ...; lists are text.
        """
        flat: dict[str, object] = {}
        for name, spec in (("world", self.world), ("learner", self.learner)):
            _flatten(name, spec, flat)
        return flat | {
            "learner.offline_pairs": self.offline_pairs,
            "learner.coverage": self.coverage,
            "seed": self.seed,
            "block": self.block,
        }

    def to_json(self) -> dict[str, object]:
        """Return the cell as plain data."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        lists = {k: list(v) for k, v in content.items() if isinstance(v, tuple)}
        return {**content, **lists, "key": self.key}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Cell:
        """Return the cell that `to_json` wrote.

        Raises
        ------
        ValueError
            Where its key is another one today: the data were changed, or are of another format.
        """
        values = {f.name: content[f.name] for f in fields(cls)}
        for name in ("pairs", "metrics"):
            values[name] = None if values[name] is None else tuple(values[name])
        cell = cls(**values)
        if content.get("key", cell.key) != cell.key:
            message = (
                f"The cell of {cell.learner_label!r} in {cell.world_label!r} was stored with key "
                f"{content['key']}, and its settings give {cell.key}: they were changed, or are of "
                "another version of this package."
            )
            raise ValueError(message)
        return cell


def _flatten(prefix: str, value: object, flat: dict[str, object]) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in MARKS:
                _flatten(f"{prefix}.{name}", inner, flat)
    elif isinstance(value, list | tuple):
        if any(isinstance(v, Mapping) for v in value):
            for index, inner in enumerate(value):
                _flatten(f"{prefix}[{index}]", inner, flat)
        else:
            flat[prefix] = json.dumps(list(value))
    else:
        flat[prefix] = value
